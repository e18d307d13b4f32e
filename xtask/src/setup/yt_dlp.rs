//! `yt-dlp`, which fetches from YouTube: the user's own, or the newest from the Python package index. No
//! version is pinned: YouTube changes, and only a recent one works.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{cache, machine::Machine, python::Python};
use crate::process::{self, fixable, say};

/// With what it recommends, and Deno: YouTube's pages hold JavaScript that has to be run.
const WHEELS: &str = "yt-dlp[default,deno]";

/// The folder in the cache, and the script in it.
const NAME: &str = "yt-dlp";

/// The one in the cache, which is there because the user asked for it or had none, else the one on PATH.
pub(crate) fn find(machine: &Machine) -> Option<PathBuf> {
    let cached = cache::user_dir().ok().map(|dir| dir.join(NAME).join(NAME));
    cached.filter(|script| script.is_file()).or_else(|| machine.on_path(NAME))
}

/// The one that is here, else a fresh one.
///
/// # Errors
/// As for [`fetch`].
pub(crate) fn ensure(machine: &Machine) -> anyhow::Result<PathBuf> {
    find(machine).map_or_else(|| fetch(machine), Ok)
}

/// Brings the newest into the cache, in place of one that is there.
///
/// # Errors
/// No pip, no network; the one that is there stays.
pub(crate) fn fetch(machine: &Machine) -> anyhow::Result<PathBuf> {
    let python = Python::find(machine).ok_or_else(|| {
        fixable("`python3 -m pip` does not work, which fetches yt-dlp; install Python 3 with pip (package python3-pip), or yt-dlp yourself")
    })?;
    let dir = cache::user_dir()?;
    let home = dir.join(NAME);
    let work = dir.join(format!("{NAME}.tmp-{}", std::process::id()));
    say!("setup: fetching yt-dlp into {}", home.display());
    let fetched = install(&python, &work).and_then(|version| {
        put(&work, &home).with_context(|| format!("cannot put yt-dlp at {}", home.display()))?;
        Ok(version)
    });
    let _ = fs::remove_dir_all(&work);
    say!("setup: yt-dlp {} is in place", fetched?);
    Ok(home.join(NAME))
}

/// Fills `work` and gives the version, which also tells that it runs.
fn install(python: &Python, work: &Path) -> anyhow::Result<String> {
    fs::create_dir_all(work)
        .with_context(|| format!("cannot make the folder {}", work.display()))?;
    let mut pip = Command::new(&python.program);
    pip.args(["-m", "pip", "install", "--only-binary=:all:", "--no-input", "--no-compile"])
        .args(["--disable-pip-version-check", "--target"])
        .arg(work.join("site"))
        .arg(WHEELS)
        // Settings that contradict --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        // Its warning is about installing for the whole machine, which this is not.
        .env("PIP_ROOT_USER_ACTION", "ignore");
    if !process::run_for_people(&mut pip)?.success() {
        return Err(anyhow::anyhow!(
            "pip could not fetch yt-dlp; check the network and pip's settings (`python3 -m pip config list`), \
             then run this again, or install yt-dlp yourself"
        ));
    }
    let script = work.join(NAME);
    write_script(&script, &python.program)
        .with_context(|| format!("cannot write {}", script.display()))?;
    process::first_line(&script, &["--version"])
        .context("pip fetched a yt-dlp that does not run; install one yourself")
}

/// What is on PATH, Deno above all, comes from the same folder.
fn write_script(script: &Path, python: &Path) -> std::io::Result<()> {
    let python = python.display().to_string().replace('\'', "'\\''");
    let text = format!(
        "#!/bin/sh\n\
         here=${{0%/*}}\n\
         export PYTHONPATH=\"$here/site\" PATH=\"$here/site/bin:$PATH\"\n\
         exec '{python}' -m yt_dlp \"$@\"\n"
    );
    fs::write(script, text)?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))
}

/// Gives `work` the name `home`; what had it before goes.
fn put(work: &Path, home: &Path) -> std::io::Result<()> {
    let old = work.with_extension("old");
    let _ = fs::remove_dir_all(&old);
    let replaced = fs::rename(home, &old).is_ok();
    let put = fs::rename(work, home);
    if put.is_err() && replaced {
        fs::rename(&old, home)?;
    }
    let _ = fs::remove_dir_all(&old);
    put
}
