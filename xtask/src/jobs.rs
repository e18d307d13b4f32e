//! Programs side by side, each with its output in a file: what takes long and does not need us.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    process::{GRACE, POLL, Stop, check, ending, say, shell_status},
    signals::{self, Hold},
    tether::tethered,
};

/// How often the last line of each job is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(60);

/// One program to run.
pub(crate) struct Job {
    /// What messages call it.
    pub(crate) name: String,
    pub(crate) command: Command,
    /// Where what it prints goes; begun anew.
    pub(crate) log: PathBuf,
}

struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    started: Instant,
}

/// Runs the jobs in order, `at_once` of them at a time. After a failure or a signal no more are started,
/// and those that run may take their time to save what they have, until a second signal.
///
/// # Errors
/// A job cannot be started or fails, which is said with its last line; a signal came.
pub(crate) fn run(jobs: Vec<Job>, at_once: usize) -> anyhow::Result<()> {
    let _hold = Hold::new()?;
    let total = jobs.len();
    let mut waiting = jobs.into_iter().enumerate();
    let mut running: Vec<Running> = Vec::new();
    let mut failure = None;
    let mut signals_seen = 0;
    let mut kill_at = None;
    let mut shown = Instant::now();
    loop {
        while failure.is_none() && signals_seen == 0 && running.len() < at_once {
            let Some((index, job)) = waiting.next() else { break };
            match start(job, index + 1, total) {
                Ok(job) => running.push(job),
                Err(error) => fail(&mut failure, error, &running),
            }
        }
        if running.is_empty() {
            signals::stop_if_asked()?;
            return failure.map_or(Ok(()), Err);
        }
        for signal in signals::arrived() {
            // The terminal sends Ctrl-C to all of us.
            if signal != Signal::INT {
                send(&running, signal);
            }
            signals_seen += 1;
            if signals_seen == 2 {
                kill_at = Some(Instant::now() + GRACE);
            }
        }
        if kill_at.take_if(|at| *at <= Instant::now()).is_some() {
            send(&running, Signal::KILL);
        }
        let mut index = 0;
        while index < running.len() {
            match running[index].child.try_wait().context("cannot wait for a child")? {
                None => index += 1,
                Some(status) => {
                    let job = running.remove(index);
                    if status.success() {
                        say!("{}: done in {}", job.name, minutes(job.started.elapsed()));
                    } else if failure.is_none() && signals_seen == 0 {
                        fail(&mut failure, failed(&job, status), &running);
                    }
                }
            }
        }
        if shown.elapsed() >= SHOWN_EVERY {
            shown = Instant::now();
            for job in &running {
                say!("{}: {}", job.name, last_line(&job.log));
            }
        }
        thread::sleep(POLL);
    }
}

/// Notes the first failure and asks all others to end.
fn fail(failure: &mut Option<anyhow::Error>, error: anyhow::Error, running: &[Running]) {
    *failure = Some(error);
    send(running, Signal::TERM);
}

fn start(Job { name, command, log }: Job, number: usize, total: usize) -> anyhow::Result<Running> {
    let cannot = || format!("cannot write `{}`", log.display());
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(cannot)?;
    }
    let file = File::create(&log).with_context(cannot)?;
    let mut tethered = tethered(&command);
    tethered.stdout(file.try_clone().with_context(cannot)?).stderr(file);
    let child = tethered.spawn().with_context(|| format!("cannot start {name}"))?;
    say!("{name}: begins ({number} of {total}; {})", log.display());
    Ok(Running { name, child, log, started: Instant::now() })
}

fn failed(job: &Running, status: ExitStatus) -> anyhow::Error {
    say!("error: {}: {}; all it said is in {}", job.name, ending(status), job.log.display());
    say!("{}", last_line(&job.log));
    check("".as_ref(), status).err().unwrap_or_else(|| Stop::Status(shell_status(status)).into())
}

fn send(running: &[Running], signal: Signal) {
    for job in running {
        // One that has ended needs none.
        let _ = kill_process(Pid::from_child(&job.child), signal);
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing said yet").to_owned()
}

fn minutes(time: Duration) -> String {
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}
