//! Children and the way out: start a program, wait for it, pass on how it ended.
//!
//! These children share our terminal, which sends Ctrl-C to all of its foreground group: they get SIGINT
//! without our help, and what came to us alone is handed on. Workers that train together do not
//! (`launch`).

use std::{
    ffi::OsStr,
    fmt,
    io::{IsTerminal, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    signals::{self, Hold},
    tether::tethered,
};

/// How often to look whether a child has ended, or a signal has come.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// How long those that were told to end at once, or to save, may take over it.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Prints one line on standard error; a closed pipe there is no reason to stop.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($part)*);
    }};
}
pub(crate) use say;

/// An error that fixes the exit status.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something the user can put right: a message and status 2.
    Fixable(String),
    /// A child has said what is wrong: its status, in silence.
    Status(u8),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Fixable(message) => f.write_str(message),
            Stop::Status(status) => write!(f, "ended with status {status}"),
        }
    }
}

impl std::error::Error for Stop {}

/// The error for what the user can put right; `message` says what is wrong and what to do.
pub(crate) fn fixable(message: impl Into<String>) -> anyhow::Error {
    Stop::Fixable(message.into()).into()
}

/// Prints what is left to say about an error, and gives the exit status: 2 for what the user can put
/// right, a child's own status, else 1.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(Stop::Status(status)) => ExitCode::from(*status),
        Some(Stop::Fixable(_)) => {
            say!("error: {error:#}");
            ExitCode::from(2)
        }
        None => {
            say!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints `text` on standard output; a closed pipe there is no reason to stop.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Runs `command` to its end, with our standard streams. SIGUSR1, which asks us to make room, ends it
/// as SIGTERM would.
///
/// # Errors
/// It cannot be started; it ends with a status other than 0 (`Stop::Status` with the same status, or
/// 128 + n for signal n); Ctrl-C came.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    check(command.get_program(), status(command, Signal::TERM)?)
}

/// Runs `command` like [`run`] and gives how it ended. What it is sent after SIGUSR1 came is `on_usr1`.
///
/// # Errors
/// It cannot be started; Ctrl-C came before.
pub(crate) fn status(command: &Command, on_usr1: Signal) -> anyhow::Result<ExitStatus> {
    let hold = Hold::new()?;
    wait(spawn(&mut tethered(command))?, &hold, on_usr1)
}

/// Runs `command` like [`run`] and gives what it printed on standard output.
pub(crate) fn run_for_output(command: &Command) -> anyhow::Result<String> {
    let hold = Hold::new()?;
    let mut child = spawn(tethered(command).stdout(Stdio::piped()))?;
    let reader = child.stdout.take().map(drain);
    let status = wait(child, &hold, Signal::TERM)?;
    let output = reader.map(join).unwrap_or_default();
    check(command.get_program(), status)?;
    Ok(output)
}

/// Runs `command`, whose output is its progress: shown on a terminal, elsewhere kept back and only what
/// it complained of is shown if it fails. Its status is for the caller to judge. It is an installer, so
/// it may outlive us: cut off, it would leave half of what it installs.
///
/// # Errors
/// It cannot be started; Ctrl-C came.
pub(crate) fn run_for_people(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let shown = std::io::stderr().is_terminal();
    if !shown {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let hold = Hold::new()?;
    let mut child = spawn(command)?;
    let reader = child.stderr.take().map(drain);
    let status = wait(child, &hold, Signal::TERM)?;
    let complaints = reader.map(join).unwrap_or_default();
    signals::stop_if_asked()?;
    if !status.success() && !complaints.is_empty() {
        say!("{}", complaints.trim_end());
    }
    Ok(status)
}

/// The first line that a short command prints on standard output, if it succeeds.
pub(crate) fn first_line(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// How a shell would report this end: the status, or 128 + n after signal n.
pub(crate) fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// Passes on how `program` ended; says so if a signal ended it, since it could not itself.
pub(crate) fn check(program: &OsStr, status: ExitStatus) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    if signals::asked() == Some(0) {
        // It was asked to make room and has done so.
        return signals::stop_if_asked();
    }
    if status.signal().is_some() && signals::asked().is_none() {
        say!("error: `{}` {}", program.to_string_lossy(), ending(status));
    }
    Err(Stop::Status(shell_status(status)).into())
}

/// How a child ended, to follow its name.
pub(crate) fn ending(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => "was ended by signal 9 (did the machine run out of memory?)".to_owned(),
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with status {}", shell_status(status)),
    }
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().with_context(|| format!("cannot start `{program}`"))
}

/// Waits for the child, and kills it if it lives on after it was asked twice to end.
fn wait(mut child: Child, _: &Hold, on_usr1: Signal) -> anyhow::Result<ExitStatus> {
    let mut asked = 0;
    let mut kill_at = None;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        let send = |signal| {
            let _ = kill_process(Pid::from_child(&child), signal);
        };
        for signal in signals::arrived() {
            match signal {
                Signal::INT => {}
                Signal::USR1 => send(on_usr1),
                signal => send(signal),
            }
            asked += 1;
            if asked == 2 {
                kill_at = Some(Instant::now() + GRACE);
            }
        }
        if kill_at.take_if(|at| *at <= Instant::now()).is_some() {
            send(Signal::KILL);
        }
        thread::sleep(POLL);
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn join(reader: thread::JoinHandle<String>) -> String {
    reader.join().unwrap_or_default()
}
