//! The workers of this machine during one attempt.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::Instant,
};

use anyhow::Context;
use rustix::process::Signal;

use super::{
    Culprit, Ended, Failure, WRONG_INPUT,
    meeting::Settled,
    options::Crew,
    wished_status,
    worker::{Place, Worker},
};
use crate::{
    process::{GRACE, POLL, shell_status},
    signals::{self, Hold},
};

struct Team {
    workers: Vec<Worker>,
    /// How many signals have asked them to end.
    asked: u32,
    kill_at: Option<Instant>,
}

/// The first to fail, among the workers or the machines.
enum First {
    Worker { index: usize, status: ExitStatus },
    Machine(u64),
}

/// Starts this machine's workers and waits until each has ended. The first failure, here or on another
/// machine, stops all.
pub(super) fn together(
    program: &Command,
    crew: &Crew,
    settled: Settled,
    run_dir: &Path,
) -> anyhow::Result<Ended> {
    let _hold = Hold::new()?;
    let mut team = Team::start(program, crew, &settled, run_dir)?;
    let mut links = settled.links;
    let mut first = None;
    while !team.is_done() {
        team.hand_on_signals();
        let failed = team.first_failed()?;
        if first.is_none() {
            first = failed.or_else(|| links.failed().map(First::Machine));
            if first.is_some() {
                links.close();
                team.stop();
            }
        }
        team.kill_if_due();
        thread::sleep(POLL);
    }
    let mut workers = team.workers;
    workers.iter().for_each(|worker| worker.output.finish());
    let (culprit, may_pass) = match first {
        None => {
            links.end();
            let statuses = workers.iter().filter_map(Worker::status);
            return Ok(Ended::Well(wished_status(statuses)));
        }
        Some(First::Machine(node)) => (Culprit::Machine(node), true),
        Some(First::Worker { index, status }) => {
            // One that has lost a peer ends as one with wrong input does. On one machine the peer is
            // known to have failed first; on another it may have.
            let may_pass = crew.nnodes > 1 || shell_status(status) != WRONG_INPUT;
            (Culprit::Rank { worker: Box::new(workers.swap_remove(index)), status }, may_pass)
        }
    };
    Ok(Ended::Failed(Failure { culprit, may_pass: may_pass && !links.has_ended }))
}

impl Team {
    fn start(
        program: &Command,
        crew: &Crew,
        settled: &Settled,
        run_dir: &Path,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot make the run folder {}", run_dir.display()))?;
        let host = crew.endpoint.as_ref().map_or("127.0.0.1", |endpoint| &endpoint.host);
        let mut workers = Vec::new();
        for local_rank in 0..crew.nproc {
            let place = Place {
                rank: crew.node_rank * crew.nproc + local_rank,
                local_rank,
                world_size: crew.nnodes * crew.nproc,
                local_world_size: crew.nproc,
                master_addr: host.to_owned(),
                master_port: settled.master_port,
                attempt: settled.attempt,
            };
            workers.push(Worker::start(program, &place, run_dir)?);
        }
        Ok(Self { workers, asked: 0, kill_at: None })
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

    /// Looks who has ended; gives the one to blame of those that failed since the last look. Its death
    /// may have made others fail in the meantime, but one that a signal killed was not failed by others.
    fn first_failed(&mut self) -> anyhow::Result<Option<First>> {
        let mut failed = Vec::new();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.poll()?
                && is_failure(status, self.asked)
            {
                failed.push((index, status));
            }
        }
        let first = failed.into_iter().min_by_key(|(_, status)| status.signal().is_none());
        Ok(first.map(|(index, status)| First::Worker { index, status }))
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
