//! Folders of files that appear whole or not at all, and the checksums by which their files are known
//! again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic;

/// What a record in the folder says of a file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    name: String,
    size_bytes: u64,
    crc32: u32,
}

/// Why a folder cannot be written, or a file in it is not believed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file has lost its tail or changed.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs from what was written.
        what: String,
    },
}

/// Puts a new folder, which `fill` fills, in the place of the one at `to`, if there is one.
///
/// # Errors
/// The first error, of `fill` or of the system; nothing is left behind.
pub fn replace<E: From<FolderError>>(
    to: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| FolderError::Io { doing: "save", path: to.into(), source };
    let temporary = atomic::temporary_name(to).map_err(failed)?;
    let published = make(&temporary).map_err(E::from).and_then(|()| {
        fill(&temporary)?;
        if to.exists() {
            fs::remove_dir_all(to).map_err(failed)?;
        }
        Ok(atomic::publish_folder(&temporary, to).map_err(failed)?)
    });
    if published.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&temporary);
    }
    published
}

/// Removes what a killed [`replace`] of folders whose names begin with `prefix` left in `folder`, where
/// nobody else saves meanwhile.
pub fn remove_leftovers(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&format!(".{prefix}")) && name.ends_with(".tmp") {
            // One that cannot be removed only takes space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Compares the file `name` of a folder with what was noted of it, before anything in it is believed.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn verify(folder: &Path, name: &str, sums: &[FileSum]) -> Result<(), FolderError> {
    let path = folder.join(name);
    let damaged = |what: String| FolderError::Damaged { path: path.clone(), what };
    let expected = sums
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| damaged("its checksum is missing".into()))?;
    let found_bytes = fs::metadata(&path).map_err(|source| unreadable(&path, source))?.len();
    if found_bytes != expected.size_bytes {
        return Err(damaged(format!("{found_bytes} of {} bytes are there", expected.size_bytes)));
    }
    if FileSum::of(&path)?.crc32 != expected.crc32 {
        return Err(damaged("its checksum does not match".into()));
    }
    Ok(())
}

impl FileSum {
    /// Of a file as it is now.
    pub fn of(path: &Path) -> Result<Self, FolderError> {
        let failed = |source| unreadable(path, source);
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size_bytes = 0;
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            size_bytes += read as u64;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self { name: name.unwrap_or_default(), size_bytes, crc32: hasher.finalize() })
    }
}

fn make(folder: &Path) -> Result<(), FolderError> {
    fs::create_dir(folder).map_err(|source| FolderError::Io {
        doing: "make",
        path: folder.into(),
        source,
    })
}

fn unreadable(path: &Path, source: io::Error) -> FolderError {
    FolderError::Io { doing: "read", path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_or_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("checkpoint-5");
        let fill = |text: &'static str| {
            move |folder: &Path| {
                fs::write(folder.join("x"), text).unwrap();
                if text == "bad" {
                    let what = text.into();
                    return Err(FolderError::Damaged { path: folder.into(), what });
                }
                Ok(())
            }
        };
        for (text, expected) in
            [("bad", None), ("old", Some("old")), ("bad", Some("old")), ("new", Some("new"))]
        {
            assert_eq!(replace(&to, fill(text)).is_err(), text == "bad");
            assert_eq!(fs::read_to_string(to.join("x")).ok().as_deref(), expected);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), usize::from(to.exists()));
        }
    }

    #[test]
    fn what_killed_saves_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let left = atomic::temporary_name(&root.path().join("checkpoint-5")).unwrap();
        let (whole, others) = (root.path().join("checkpoint-4"), root.path().join(".x-1.tmp"));
        for folder in [&left, &whole, &others] {
            fs::create_dir(folder).unwrap();
        }
        remove_leftovers(root.path(), "checkpoint-");
        assert!(!left.exists() && whole.exists() && others.exists());
    }

    #[test]
    fn a_file_that_changed_is_told_from_one_that_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        fs::write(&path, "weights").unwrap();
        let sums = [FileSum::of(&path).unwrap()];
        let message = |name: &str, sums: &[FileSum]| {
            verify(root.path(), name, sums).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(message("x", &sums), "");
        assert!(message("x", &[]).ends_with("x is damaged: its checksum is missing"));
        fs::write(&path, "weight!").unwrap();
        assert!(message("x", &sums).ends_with("its checksum does not match"));
        fs::write(&path, "wei").unwrap();
        assert!(message("x", &sums).ends_with("3 of 7 bytes are there"));
        fs::remove_file(&path).unwrap();
        assert!(message("x", &sums).starts_with("cannot read "));
    }
}
