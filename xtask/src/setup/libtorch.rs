//! Which libtorch serves a build: the one that the user exported, else the one in the cache, to which
//! `.libtorch` in the checkout links.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    cache::{Cache, State, Variant},
    machine::Machine,
};
use crate::{
    checkout::Checkout,
    process::{fixable, say},
};

/// The only version that the bindings fit.
pub(crate) const VERSION: &str = "2.11.0";

/// Where libtorch comes from.
pub(crate) enum Source {
    /// The user's own, from an exported LIBTORCH.
    Exported(PathBuf),
    /// Ours.
    Cached(Cache),
}

impl Source {
    /// An exported LIBTORCH wins. The complete set is taken if asked for, where there is a GPU, and
    /// where the checkout links to it already, so that one `--cuda` is enough.
    ///
    /// # Errors
    /// The exported one does not fit, or there is no place for a cache.
    pub(crate) fn choose(
        checkout: &Checkout,
        machine: &Machine,
        cuda: bool,
    ) -> anyhow::Result<Self> {
        if let Some(path) = checkout.exported_libtorch() {
            check_exported(&path)?;
            return Ok(Self::Exported(path));
        }
        let complete = Cache::of_user(Variant::Cuda)?;
        let linked = fs::read_link(checkout.libtorch_link()).ok();
        if cuda || machine.has_nvidia_gpu() || linked == Some(complete.libtorch()) {
            return Ok(Self::Cached(complete));
        }
        Ok(Self::Cached(Cache::of_user(Variant::Cpu)?))
    }

    /// What is in the cache; an exported one is complete.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Exported(_) => State::Complete,
            Self::Cached(cache) => cache.state(),
        }
    }

    /// Compares every file with its checksum, unless `state` is bad already; gives the state after it.
    pub(crate) fn verify(&self, state: State) -> anyhow::Result<State> {
        match self {
            Self::Exported(path) => {
                say!(
                    "setup: {} is your own libtorch, so there are no checksums to compare with",
                    path.display()
                );
                Ok(state)
            }
            Self::Cached(cache) if matches!(state, State::Complete) => cache.verify(),
            Self::Cached(_) => Ok(state),
        }
    }
}

/// Checks that `path` can serve as libtorch.
///
/// # Errors
/// Says what is wrong with it and how to go on.
fn check_exported(path: &Path) -> anyhow::Result<()> {
    let way_out = format!(
        "export the folder of libtorch {VERSION}, or unset LIBTORCH and let `cargo xtask setup` fetch it"
    );
    let refuse =
        |what: String| Err(fixable(format!("`LIBTORCH={}` {what}; {way_out}", path.display())));
    if !path.is_absolute() {
        return refuse("is not an absolute path".to_owned());
    }
    if !path.exists() {
        return refuse("does not exist".to_owned());
    }
    for part in ["include", "lib/libtorch_cpu.so"] {
        if !path.join(part).exists() {
            return refuse(format!("holds no {part}"));
        }
    }
    match version_of(path) {
        Some(version) if is_wanted(&version) => Ok(()),
        Some(version) => refuse(format!("is version {version}")),
        None => refuse("does not tell its version".to_owned()),
    }
}

/// The version of the libtorch in `folder`, such as `2.11.0+cu130`.
pub(crate) fn version_of(folder: &Path) -> Option<String> {
    let files = [
        "build-version",
        "version.py",
        "include/torch/headeronly/version.h",
        "include/torch/csrc/api/include/torch/version.h",
    ];
    files.iter().find_map(|file| parse_version(&fs::read_to_string(folder.join(file)).ok()?))
}

/// Makes `.libtorch` in the checkout a link to `target`, in one step; whether it was another before.
///
/// # Errors
/// Something that is no link stands there, or the checkout is read-only.
pub(crate) fn link(checkout: &Checkout, target: &Path) -> anyhow::Result<bool> {
    let link = checkout.libtorch_link();
    match fs::read_link(&link) {
        Ok(present) if present == target => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => {
            return Err(fixable(format!(
                "{} is in the way of a link to libtorch; move it elsewhere, or export it as LIBTORCH",
                link.display()
            )));
        }
    }
    let fresh = checkout.root().join(format!(".libtorch.tmp-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    symlink(target, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .with_context(|| format!("cannot make the link {}", link.display()))?;
    Ok(true)
}

fn is_wanted(version: &str) -> bool {
    version.split('+').next() == Some(VERSION)
}

/// The first word that looks like a version: alone in `build-version`, quoted in Python and C++.
fn parse_version(text: &str) -> Option<String> {
    text.split(['"', '\'', '\n'])
        .map(str::trim)
        .find(|word| {
            word.starts_with(|c: char| c.is_ascii_digit())
                && word.matches('.').count() >= 2
                && !word.contains(' ')
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn the_version_is_read_from_each_kind_of_file() {
        let cases = [
            ("2.11.0+cpu\n", Some("2.11.0+cpu")),
            (
                "from typing import Optional\n__version__ = '2.12.1+cu130'\ncuda = '13.0'\n",
                Some("2.12.1+cu130"),
            ),
            (
                "/* since 2.9.0 of it */\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION \\\n  \"2.11.0\"\n",
                Some("2.11.0"),
            ),
            ("#pragma once\n#include <torch/headeronly/version.h>\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text).as_deref(), expected, "{text}");
        }
        assert!(is_wanted("2.11.0") && is_wanted("2.11.0+cu130"));
        assert!(!is_wanted("2.11.01") && !is_wanted("2.1"));
    }

    #[test]
    fn an_exported_libtorch_must_fit() {
        let folder = Folder::new("libtorch-exported");
        let refusal = || check_exported(folder.path()).unwrap_err().to_string();
        assert!(refusal().contains("holds no include"));
        folder.write("include/torch/torch.h", "");
        assert!(refusal().contains("holds no lib/libtorch_cpu.so"));
        folder.write("lib/libtorch_cpu.so", "");
        assert!(refusal().contains("does not tell its version"));
        folder.write("build-version", "2.10.0+cpu");
        assert!(refusal().contains("is version 2.10.0+cpu"));
        folder.write("build-version", "2.11.0+cpu");
        assert!(check_exported(folder.path()).is_ok());
        let message = check_exported(Path::new("libtorch")).unwrap_err().to_string();
        assert!(message.contains("not an absolute path"));
    }

    #[test]
    fn the_link_is_replaced_but_nothing_else_is() {
        let folder = Folder::new("libtorch-link");
        let checkout = Checkout::at(folder.path());
        assert!(link(&checkout, Path::new("/a")).unwrap());
        assert!(!link(&checkout, Path::new("/a")).unwrap());
        assert!(link(&checkout, Path::new("/b")).unwrap());
        assert_eq!(fs::read_link(checkout.libtorch_link()).unwrap(), Path::new("/b"));
        fs::remove_file(checkout.libtorch_link()).unwrap();
        folder.write(".libtorch/mine", "");
        assert!(link(&checkout, Path::new("/a")).is_err());
        assert!(folder.path().join(".libtorch/mine").exists());
    }
}
