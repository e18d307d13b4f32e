//! The Python whose pip fetches libtorch. Any Python 3 will do: the wheels are chosen for a fixed
//! version and unpacked beside it, never imported. Only the test tools run on it.

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

    /// The second number of its version, as its pip names it: `(python 3.11)`.
    pub(crate) fn minor(&self) -> Option<u32> {
        let version = self.pip.rsplit_once("(python 3.")?.1;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_pip_says() {
        let minor = |pip: &str| Python { program: PathBuf::new(), pip: pip.to_owned() }.minor();
        assert_eq!(
            minor("pip 23.2.1 from /usr/lib/python3/dist-packages/pip (python 3.11)"),
            Some(11)
        );
        assert_eq!(minor("pip 26.1 from /x (python 3.14)"), Some(14));
        assert_eq!(minor("pip"), None);
    }
}
