//! Files and folders that appear whole or not at all, also when the power fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` to `path`: readers see the old content or the new, never a part.
///
/// The bytes go to a temporary file in the same folder, reach the disk, and take the name `path`
/// by a rename. The temporary file is removed when anything fails.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report; what cannot be removed is only a leftover.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(parent(path))
}

/// Finds out whether a file can be written, before the work whose result it shall hold, and leaves what
/// is there as it is.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let existed = path.exists();
    File::options().append(true).create(true).open(path)?;
    if existed { Ok(()) } else { fs::remove_file(path) }
}

/// Gives the folder `from` the name `to`, which must not exist, once all its content is on disk.
///
/// Write the files of a folder that must appear whole into [`temporary_name`]`(to)` first.
pub fn publish_folder(from: &Path, to: &Path) -> io::Result<()> {
    sync_tree(from)?;
    // A rename would silently replace an empty folder.
    if to.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder exists already"));
    }
    fs::rename(from, to)?;
    sync_folder(parent(to))
}

/// A name beside `path` that nobody else uses: hidden, with this process's number in it.
///
/// Errors when `path` has no last part, as `/` or `..`.
pub fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path names no file or folder")
    })?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    Ok(path.with_file_name(format!(".{}.{process}-{count}.tmp", name.display())))
}

/// Makes the names in a folder (new files, renames, removals) reach the disk.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_file(&path, b"old").unwrap();
        write_file(&path, b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn asking_whether_a_file_can_be_written_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.json");
        check_writable(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "old").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(check_writable(&folder.path().join("no/folder.json")).is_err());
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in the file's place makes the rename fail after the bytes were written.
        let path = folder.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        assert!(write_file(&path, b"new").is_err());
        assert_eq!(names(folder.path()), ["state"]);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
    }

    #[test]
    fn a_folder_appears_whole_and_never_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("step-5");
        let from = temporary_name(&to).unwrap();
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/x"), b"x").unwrap();
        publish_folder(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("deep/x")).unwrap(), b"x");
        assert_eq!(names(folder.path()), ["step-5"]);

        let second = temporary_name(&to).unwrap();
        fs::create_dir(&second).unwrap();
        let error = publish_folder(&second, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(to.join("deep/x")).unwrap(), b"x");
    }

    #[test]
    fn temporary_names_differ_and_stay_in_the_folder() {
        let path = Path::new("some/folder/file");
        let (a, b) = (temporary_name(path).unwrap(), temporary_name(path).unwrap());
        assert_ne!(a, b);
        assert_eq!(a.parent(), path.parent());
        assert!(temporary_name(Path::new("/")).is_err());
    }
}
