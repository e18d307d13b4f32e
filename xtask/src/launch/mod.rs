//! Starts the processes that train, watches them, and starts them again after a failure if the user
//! wishes it.
//!
//! One process alone shares our terminal. Several have process groups of their own and pipes: every line
//! goes through us, and every signal that comes to us is handed on to each of them once.

mod links;
mod meeting;
mod options;
mod output;
mod team;
mod worker;

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::Context;
use rustix::process::Signal;

pub(crate) use options::{
    MAX_RESTARTS, NNODES, NODE_RANK, NPROC_PER_NODE, Plan, RDZV_ENDPOINT, RDZV_TIMEOUT,
};

use self::{links::Links, meeting::Meeting, options::Crew, team::Team, worker::Worker};
use crate::{
    process::{self, Stop, ending, say, shell_status},
    signals,
};

/// Before all start again: what failed may pass, and ports are free once more.
const PAUSE: Duration = Duration::from_secs(3);

/// How an attempt ended.
enum Ended {
    /// As it should, or as a signal wished: with this status.
    Well(u8),
    Failed(Culprit),
}

/// Who was the first to fail.
enum Culprit {
    /// The one process on our terminal.
    Alone { name: String, status: ExitStatus },
    /// One of several.
    Rank { worker: Box<Worker>, status: ExitStatus },
    /// Another machine, by its number.
    Machine(u64),
}

/// Trains to the end: `program` is started as the plan says, with logs in `run_dir`, again and again if
/// it fails and the plan allows it.
///
/// # Errors
/// It ends with another status than 0, which is passed on after it was said who failed first.
pub(crate) fn train(program: &Command, plan: &Plan, run_dir: &Path) -> anyhow::Result<()> {
    let crew = plan.crew.as_ref();
    let mut meeting = match crew {
        Some(crew @ Crew { nnodes: 2.., endpoint: Some(endpoint), .. }) => {
            Some(Meeting::new(crew, endpoint, plan.max_restarts)?)
        }
        _ => None,
    };
    let mut attempt = 0;
    loop {
        let mut links = Links::default();
        let ended = match crew {
            None => alone(program),
            Some(crew) => {
                let master_port = match (&mut meeting, &crew.endpoint) {
                    (Some(meeting), _) => {
                        let settled = meeting.meet(attempt)?;
                        (attempt, links) = (settled.attempt, settled.links);
                        settled.master_port
                    }
                    (None, Some(endpoint)) => endpoint.port,
                    (None, None) => free_port()?,
                };
                let team = Team::start(program, crew, (master_port, attempt), run_dir);
                team.and_then(|team| team.watch(&mut links))
            }
        };
        if let Ok(Ended::Failed(culprit)) = &ended
            && attempt < plan.max_restarts
            && may_pass(culprit)
            && signals::asked().is_none()
        {
            attempt += 1;
            say!("{}", culprit.ending());
            say!("restart {attempt} of {} in {} s", plan.max_restarts, PAUSE.as_secs());
            thread::sleep(PAUSE);
            if !links.has_ended() {
                continue;
            }
            say!("no restart: another machine has ended for good");
        }
        links.say_ended();
        return match ended? {
            Ended::Well(0) => Ok(()),
            Ended::Well(status) => Err(Stop::Status(status).into()),
            Ended::Failed(culprit) => Err(culprit.report()),
        };
    }
}

/// Whether another attempt may help: not where a worker's input is wrong, which it tells by status 2.
fn may_pass(culprit: &Culprit) -> bool {
    const WRONG_INPUT: u8 = 2;
    let status = match culprit {
        Culprit::Machine(_) => return true,
        Culprit::Alone { status, .. } | Culprit::Rank { status, .. } => *status,
    };
    shell_status(status) != WRONG_INPUT
}

/// A port of this machine that is free now.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.context("cannot find a free port")?.port())
}

/// One process on our terminal.
fn alone(program: &Command) -> anyhow::Result<Ended> {
    let status = process::status(program, Signal::USR1)?;
    if status.success() || signals::asked().is_some() {
        return Ok(Ended::Well(wished_status([status])));
    }
    let name = program.get_program().to_string_lossy().into_owned();
    Ok(Ended::Failed(Culprit::Alone { name, status }))
}

impl Culprit {
    /// How it ended.
    fn ending(&self) -> String {
        match self {
            Self::Alone { name, status } => format!("`{name}` {}", ending(*status)),
            Self::Rank { worker, status } => format!("rank {} {}", worker.rank, ending(*status)),
            Self::Machine(node) => format!("machine {node} failed; its own output says why"),
        }
    }

    /// Says what is left to say, a worker's own last lines at the very end; gives the error to end with.
    fn report(self) -> anyhow::Error {
        let status = match &self {
            Self::Alone { name, status } => {
                return process::check(OsStr::new(name), *status)
                    .err()
                    .unwrap_or_else(|| Stop::Status(1).into());
            }
            Self::Machine(_) => 1,
            Self::Rank { status, .. } => shell_status(*status),
        };
        say!("error: {}", self.ending());
        if let Self::Rank { worker, .. } = &self {
            say!("its last lines, and all of them in {}:", worker.output.log().display());
            worker.output.show_last();
        }
        Stop::Status(status).into()
    }
}

/// The status to end with after all ended as they should: SIGUSR1 asks for room only, and what it
/// ends ends well; otherwise the first that is not 0.
fn wished_status(statuses: impl IntoIterator<Item = ExitStatus>) -> u8 {
    if signals::asked() == Some(0) {
        return 0;
    }
    statuses.into_iter().map(shell_status).find(|status| *status != 0).unwrap_or(0)
}
