//! The Python whose pip fetches libtorch. Any Python 3 will do: the wheels are chosen for a fixed
//! version and unpacked beside it, never imported.

use std::path::PathBuf;

use super::machine::Machine;
use crate::process;

/// A Python 3 whose `-m pip` works.
pub(crate) struct Python {
    pub(crate) program: PathBuf,
    /// What `pip --version` prints.
    pub(crate) pip: String,
}

impl Python {
    /// The first on PATH, else the system's own, which is the one that a system package of pip serves.
    pub(crate) fn find(machine: &Machine) -> Option<Self> {
        let candidates = [machine.on_path("python3"), Some(PathBuf::from("/usr/bin/python3"))];
        candidates.into_iter().flatten().find_map(|program| {
            let pip = process::first_line(&program, &["-m", "pip", "--version"])?;
            Some(Self { program, pip })
        })
    }
}
