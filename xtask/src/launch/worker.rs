//! One of the processes that train together.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::output::Output;
use crate::tether::tethered;

/// What a worker is told of its place among all, in torchrun's words.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) rank: u64,
    pub(crate) local_rank: u64,
    pub(crate) world_size: u64,
    pub(crate) local_world_size: u64,
    pub(crate) master_addr: String,
    pub(crate) master_port: u16,
    /// How often all have been started before.
    pub(crate) attempt: u64,
}

/// A process that was started; killed when dropped before it ended.
pub(crate) struct Worker {
    pub(crate) rank: u64,
    pub(crate) output: Output,
    child: Child,
    status: Option<ExitStatus>,
}

impl Place {
    fn variables(&self) -> [(&'static str, String); 7] {
        [
            ("RANK", self.rank.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("WORLD_SIZE", self.world_size.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_world_size.to_string()),
            ("MASTER_ADDR", self.master_addr.clone()),
            ("MASTER_PORT", self.master_port.to_string()),
            ("TORCHELASTIC_RESTART_COUNT", self.attempt.to_string()),
        ]
    }
}

impl Worker {
    /// Starts `program` at its place, in a process group of its own: a terminal sends Ctrl-C to ours,
    /// and the worker would get it twice.
    ///
    /// # Errors
    /// It cannot be started, or its log in `run_dir` cannot be written.
    pub(crate) fn start(program: &Command, place: &Place, run_dir: &Path) -> anyhow::Result<Self> {
        let variables = place.variables();
        let words: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let log = run_dir.join(format!("rank-{}.log", place.rank));
        let output = Output::follow(reader, place.rank, &log, &format!("== {}", words.join(" ")))?;
        let mut command = tethered(program);
        command
            .envs(variables)
            // Ours does not serve the store, even if we run under torchrun ourselves.
            .env_remove("TORCHELASTIC_USE_AGENT_STORE")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot share a pipe")?)
            .stderr(writer)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start rank {}", place.rank))?;
        Ok(Self { rank: place.rank, output, child, status: None })
    }

    /// Looks whether it has ended; gives its status once.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(None);
        }
        self.status = self.child.try_wait().context("cannot wait for a worker")?;
        Ok(self.status)
    }

    /// How it ended.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn send(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Ends it and what it has started.
    pub(crate) fn kill(&self) {
        if self.status.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
