//! Children and the way out: start a program, wait for it, pass on how it ended.
//!
//! A terminal sends Ctrl-C to the whole process group, so a child gets it too. While one runs we only
//! take note and wait, since a training process saves its state first; otherwise we end at once.

use std::{
    ffi::OsStr,
    fmt,
    io::{IsTerminal, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

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

struct Signals {
    no_child: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| Signals {
    no_child: Arc::new(AtomicBool::new(true)),
    interrupted: Arc::default(),
    terminated: Arc::default(),
});

/// From here on, SIGINT and SIGTERM end this process at once only while no child runs.
pub(crate) fn watch_signals() -> anyhow::Result<()> {
    for (signal, seen) in [(SIGINT, &SIGNALS.interrupted), (SIGTERM, &SIGNALS.terminated)] {
        flag::register_conditional_shutdown(signal, 128 + signal, SIGNALS.no_child.clone())
            .and_then(|_| flag::register(signal, seen.clone()))
            .context("cannot watch for signals")?;
    }
    Ok(())
}

/// Runs `command` to its end, with our standard streams unless it has others.
///
/// # Errors
/// It cannot be started; it ends with a status other than 0 (`Stop::Status` with the same status, or
/// 128 + n for signal n); Ctrl-C came.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let child = start(command)?;
    check(command.get_program(), wait(child)?)
}

/// Runs `command` like [`run`] and gives what it printed on standard output.
pub(crate) fn run_for_output(command: &mut Command) -> anyhow::Result<String> {
    let mut child = start(command.stdout(Stdio::piped()))?;
    let reader = child.stdout.take().map(drain);
    let status = wait(child)?;
    let output = reader.map(join).unwrap_or_default();
    check(command.get_program(), status)?;
    Ok(output)
}

/// Runs `command`, whose output is its progress: shown on a terminal, elsewhere kept back and only what
/// it complained of is shown if it fails. Its status is for the caller to judge.
///
/// # Errors
/// It cannot be started; Ctrl-C came.
pub(crate) fn run_for_people(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let shown = std::io::stderr().is_terminal();
    if !shown {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let mut child = start(command)?;
    let reader = child.stderr.take().map(drain);
    let status = wait(child)?;
    let complaints = reader.map(join).unwrap_or_default();
    stop_if_interrupted()?;
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

/// Fails, as a shell would report it, if Ctrl-C or SIGTERM came while a child ran.
fn stop_if_interrupted() -> anyhow::Result<()> {
    for (signal, seen) in [(SIGINT, &SIGNALS.interrupted), (SIGTERM, &SIGNALS.terminated)] {
        if seen.load(SeqCst) {
            return Err(Stop::Status(128 + signal as u8).into());
        }
    }
    Ok(())
}

/// How a shell would report this end: the status, or 128 + n after signal n.
fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

fn start(command: &mut Command) -> anyhow::Result<Child> {
    stop_if_interrupted()?;
    SIGNALS.no_child.store(false, SeqCst);
    command.spawn().map_err(|error| {
        SIGNALS.no_child.store(true, SeqCst);
        anyhow::Error::new(error)
            .context(format!("cannot start `{}`", command.get_program().to_string_lossy()))
    })
}

/// Waits for the child. SIGINT has reached it through the terminal; SIGTERM came to us alone, so it
/// is handed on.
fn wait(mut child: Child) -> anyhow::Result<ExitStatus> {
    let mut handed_on = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            break status;
        }
        if SIGNALS.terminated.load(SeqCst) && !handed_on {
            handed_on = true;
            let pid = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        thread::sleep(Duration::from_millis(5));
    };
    SIGNALS.no_child.store(true, SeqCst);
    Ok(status)
}

fn check(program: &OsStr, status: ExitStatus) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    if let Some(signal) = status.signal()
        && stop_if_interrupted().is_ok()
    {
        let hint = if signal == 9 { " (did the machine run out of memory?)" } else { "" };
        say!("error: `{}` was ended by signal {signal}{hint}", program.to_string_lossy());
    }
    Err(Stop::Status(shell_status(status)).into())
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
