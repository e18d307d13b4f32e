//! Children that do not outlive us: however this process ends, they get SIGTERM.
//!
//! Linux sends a process a signal of its choice when its parent dies, and keeps to that through `exec`.
//! Only the child can ask for it, so a child first runs this program again, which asks, sees whether
//! the parent is still there, and becomes the program meant.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::{self, Command},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The first argument of this program when it is to become another.
pub(crate) const WORD: &str = "tethered";

/// `command` with its environment and folder, so that it ends when we do. Start it from the main thread:
/// Linux takes the end of the thread that started a process for the end of its parent. Standard streams
/// are to be set on the result.
pub(crate) fn tethered(command: &Command) -> Command {
    // The file of this program may be replaced by a build under way; the link still leads to ours.
    let mut tethered = Command::new("/proc/self/exe");
    tethered.arg(WORD).arg(process::id().to_string());
    tethered.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tethered.env(name, value),
            None => tethered.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        tethered.current_dir(folder);
    }
    tethered
}

/// Becomes the program that `words` name after the parent's process number; comes back only with the
/// reason why that failed.
pub(crate) fn become_program(mut words: impl Iterator<Item = OsString>) -> anyhow::Error {
    match prepare(&mut words) {
        Err(error) => error,
        Ok(program) => {
            let error = Command::new(&program).args(words).exec();
            cannot_start(&program, error)
        }
    }
}

fn prepare(words: &mut impl Iterator<Item = OsString>) -> anyhow::Result<OsString> {
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, words.next()) else {
        bail!("`{WORD}` is for this program alone; `cargo xtask help` lists the commands");
    };
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the parent")?;
    if getppid() != Some(parent) {
        bail!("the process that started `{}` has ended", program.to_string_lossy());
    }
    Ok(program)
}

fn cannot_start(program: &OsStr, error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot start `{}`", program.to_string_lossy()))
}
