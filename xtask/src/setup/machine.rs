//! What is asked of the machine: programs on PATH, libclang, the GPU, free disk space.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where to look for things on this machine.
pub(crate) struct Machine {
    /// The folders of PATH.
    pub(crate) path: Vec<PathBuf>,
    /// Folders that hold shared libraries.
    pub(crate) libraries: Vec<PathBuf>,
}

impl Machine {
    /// The machine we run on.
    pub(crate) fn this() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        Self { path: env::split_paths(&path).collect(), libraries: library_folders() }
    }

    /// The program that `variable` names in the environment, else the first of `names` on PATH.
    pub(crate) fn program(&self, variable: &str, names: &[&str]) -> Option<PathBuf> {
        let wanted = env::var(variable).ok().filter(|value| !value.is_empty());
        match &wanted {
            // A value may carry arguments or a wrapper (`CXX="ccache g++"`): its first word counts.
            Some(value) => self.on_path(value.split_whitespace().next()?),
            None => names.iter().find_map(|name| self.on_path(name)),
        }
    }

    /// The first executable file of that name on PATH, or `name` itself if it is such a path.
    pub(crate) fn on_path(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return is_executable(Path::new(name)).then(|| PathBuf::from(name));
        }
        let mut candidates = self.path.iter().map(|folder| folder.join(name));
        candidates.find(|candidate| is_executable(candidate))
    }

    /// The library that programs link to use clang.
    pub(crate) fn libclang(&self) -> Option<PathBuf> {
        if let Some(path) = env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
            return if path.is_dir() { libclang_in(&path) } else { path.is_file().then_some(path) };
        }
        self.libraries.iter().find_map(|folder| libclang_in(folder))
    }

    /// Whether an NVIDIA GPU with a driver is here.
    pub(crate) fn has_nvidia_gpu(&self) -> bool {
        Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidia0").exists()
    }
}

/// Bytes free at `path`, or at the nearest folder above it that exists.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let figures = rustix::fs::statvfs(existing)?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

fn library_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for base in ["/usr/lib", "/usr/lib64", "/usr/local", "/usr/local/lib"] {
        folders.extend(entries(base).filter(|path| has_prefix(path, "llvm")).map(|path| {
            let nested = path.join("lib");
            if nested.is_dir() { nested } else { path }
        }));
        folders.extend(entries(base).filter(|path| has_prefix(path, std::env::consts::ARCH)));
        folders.push(PathBuf::from(base));
    }
    folders
}

fn libclang_in(folder: &Path) -> Option<PathBuf> {
    let exact = folder.join("libclang.so");
    if exact.is_file() {
        return Some(exact);
    }
    entries(folder).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix("libclang-").and_then(|rest| rest.strip_suffix(".so"));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(prefix)
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn programs_are_executable_files_on_path() {
        let folder = Folder::new("machine-path");
        folder.write("plain", "");
        folder.script("tool", "exit 0");
        let machine = Machine {
            path: vec![folder.path().join("absent"), folder.path().to_path_buf()],
            libraries: vec![],
        };
        assert_eq!(machine.on_path("tool"), Some(folder.path().join("tool")));
        assert_eq!(machine.on_path("plain"), None);
        assert_eq!(machine.program("XTASK_UNSET", &["none", "tool"]), machine.on_path("tool"));
    }

    #[test]
    fn libclang_is_the_library_to_link_to() {
        let folder = Folder::new("machine-libclang");
        folder.write("libclang-cpp.so", "");
        folder.write("libclang.so.1", "");
        assert_eq!(libclang_in(folder.path()), None);
        folder.write("libclang-14.so", "");
        assert_eq!(libclang_in(folder.path()), Some(folder.path().join("libclang-14.so")));
    }

    #[test]
    fn free_space_is_told_for_a_folder_that_is_still_to_be_made() {
        assert!(free_bytes(Path::new("/absent/folder")).unwrap() > 0);
    }
}
