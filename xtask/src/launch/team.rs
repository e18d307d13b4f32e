//! The workers of this machine during one attempt.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::Instant,
};

use rustix::process::Signal;

use super::{
    Culprit, Ended,
    links::Links,
    options::Crew,
    wished_status,
    worker::{Place, Worker},
};
use crate::{
    process::{GRACE, POLL, fixable},
    signals::{self, Hold},
};

/// The workers of this machine.
pub(super) struct Team {
    workers: Vec<Worker>,
    /// How many signals have asked them to end.
    asked: u32,
    kill_at: Option<Instant>,
    _hold: Hold,
}

/// The first to fail.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// By its index here.
    Worker(usize, ExitStatus),
    /// By its number.
    Machine(u64),
}

impl Team {
    /// Starts this machine's workers, to meet at `master_port` in this attempt.
    ///
    /// # Errors
    /// A worker cannot be started or its log not be written.
    pub(super) fn start(
        program: &Command,
        crew: &Crew,
        (master_port, attempt): (u16, u64),
        run_dir: &Path,
    ) -> anyhow::Result<Self> {
        let mut team = Self { workers: Vec::new(), asked: 0, kill_at: None, _hold: Hold::new()? };
        fs::create_dir_all(run_dir).map_err(|error| {
            let shown = run_dir.display();
            fixable(format!(
                "cannot make the run folder {shown} ({error}); choose another with --run-dir"
            ))
        })?;
        let host = crew.endpoint.as_ref().map_or("127.0.0.1", |endpoint| &endpoint.host);
        for local_rank in 0..crew.nproc {
            let place = Place {
                rank: crew.node_rank * crew.nproc + local_rank,
                local_rank,
                world_size: crew.nnodes * crew.nproc,
                local_world_size: crew.nproc,
                master_addr: host.to_owned(),
                master_port,
                attempt,
            };
            team.workers.push(Worker::start(program, &place, run_dir)?);
        }
        Ok(team)
    }

    /// Waits until each worker has ended. The first failure, here or on another machine, stops all.
    pub(super) fn watch(mut self, links: &mut Links) -> anyhow::Result<Ended> {
        let mut first = None;
        while !self.is_done() {
            self.hand_on_signals();
            let failed = self.first_failed()?;
            if first.is_none() {
                first = failed.or_else(|| self.failed_elsewhere(links));
                if first.is_some() {
                    links.say_failed();
                    self.stop();
                }
            }
            self.kill_if_due();
            thread::sleep(POLL);
        }
        self.workers.iter().for_each(|worker| worker.output.finish());
        Ok(match first {
            None => Ended::Well(wished_status(self.workers.iter().filter_map(Worker::status))),
            Some(First::Machine(node)) => Ended::Failed(Culprit::Machine(node)),
            Some(First::Worker(index, status)) => {
                let worker = Box::new(self.workers.swap_remove(index));
                Ended::Failed(Culprit::Rank { worker, status })
            }
        })
    }

    fn is_done(&self) -> bool {
        self.workers.iter().all(|worker| worker.status().is_some())
    }

    /// Workers save at the first signal and end at once at the second.
    fn hand_on_signals(&mut self) {
        for signal in signals::arrived() {
            self.workers.iter().for_each(|worker| worker.send(signal));
            self.asked += 1;
            if self.asked == 2 {
                self.kill_at = Some(Instant::now() + GRACE);
            }
        }
    }

    /// Looks who has ended; gives the one to blame of those that failed since the last look.
    fn first_failed(&mut self) -> anyhow::Result<Option<First>> {
        let mut failed = Vec::new();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.poll()?
                && is_failure(status, self.asked)
            {
                failed.push((index, status));
            }
        }
        Ok(to_blame(failed))
    }

    /// Looks for a failure on another machine. Once our workers were asked to end, theirs may lose them,
    /// and what becomes of ours shows by itself.
    fn failed_elsewhere(&self, links: &mut Links) -> Option<First> {
        links.failed().filter(|_| self.asked == 0).map(First::Machine)
    }

    fn stop(&mut self) {
        self.workers.iter().for_each(|worker| worker.send(Signal::TERM));
        self.kill_at = Some(Instant::now() + GRACE);
    }

    fn kill_if_due(&mut self) {
        if self.kill_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.workers.iter().for_each(Worker::kill);
        }
    }
}

/// Of workers that failed at the same time, the one that did so by itself: others end with an error when
/// they lose a peer, but a signal kills only the one that it is sent to.
fn to_blame(failed: Vec<(usize, ExitStatus)>) -> Option<First> {
    let first = failed.into_iter().min_by_key(|(_, status)| status.signal().is_none());
    first.map(|(index, status)| First::Worker(index, status))
}

/// Whether a worker that ended like this has failed, after `asked` signals asked it to end. Workers settle
/// signals among themselves, so one may end for the signal that another machine got.
fn is_failure(status: ExitStatus, asked: u32) -> bool {
    const ASKING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::USR1];
    let asking = |number: i32| ASKING.iter().any(|signal| signal.as_raw() == number);
    match (status.code(), status.signal()) {
        (Some(code), _) => code != 0 && !asking(code - 128) && asked < 2,
        (None, Some(signal)) => asked == 0 || (asked == 1 && !asking(signal)),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_a_signal_killed_is_to_blame() {
        let (two, killed) = (ExitStatus::from_raw(2 << 8), ExitStatus::from_raw(9));
        for (failed, expected) in [
            (vec![], None),
            (vec![(0, two), (3, two)], Some(First::Worker(0, two))),
            (vec![(0, two), (1, killed), (2, killed)], Some(First::Worker(1, killed))),
        ] {
            assert_eq!(to_blame(failed), expected);
        }
    }

    #[test]
    fn a_worker_fails_unless_it_ends_as_it_was_asked_to() {
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let signal = ExitStatus::from_raw;
        for (status, asked, expected) in [
            (code(0), 0, false),
            (code(2), 0, true),
            (code(2), 1, true),
            (code(2), 2, false),
            (code(130), 0, false),
            (code(143), 1, false),
            (code(137), 0, true),
            (signal(15), 0, true),
            (signal(15), 1, false),
            (signal(10), 1, false),
            (signal(9), 0, true),
            (signal(9), 1, true),
            (signal(9), 2, false),
        ] {
            assert_eq!(is_failure(status, asked), expected, "{status} after {asked}");
        }
    }
}
