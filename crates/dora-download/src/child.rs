//! Other programs: started so that they do not outlive us, and ended when a signal comes.
//!
//! Linux sends a process a signal of its choice when its parent dies, and keeps to that through `exec`.
//! Only the child can ask for it, so a child first runs this program again, which asks, sees whether
//! the parent is still there, and becomes the program meant.

use crate::error::DownloadError;
use crate::stop::{POLL, Stop};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The first argument of this program when it is to become another.
pub const WORD: &str = "tethered";

/// How long a program that was told to end may take over it.
const GRACE: Duration = Duration::from_secs(3);
/// The longest line that is kept whole: a description of a video takes a megabyte.
const LONGEST_LINE_BYTES: u64 = 16 << 20;
/// So much of what a program complained of is kept, from its end.
const COMPLAINTS_BYTES: usize = 64 << 10;

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The end of what it wrote on standard error.
    pub(crate) complaints: String,
}

/// Becomes the program that `words` name after the parent's process number; comes back only with the
/// reason why that failed.
pub fn become_program(mut words: impl Iterator<Item = OsString>) -> DownloadError {
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, words.next()) else {
        return DownloadError::Wrong(format!("`{WORD}` is for this program alone"));
    };
    let program = Path::new(&program);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return DownloadError::io("tie to its parent", program)(error.into());
    }
    if getppid() != Some(parent) {
        return DownloadError::Stopped;
    }
    DownloadError::io("start", program)(Command::new(program).args(words).exec())
}

/// `program` with `args`, to be started by the thread that waits for it: Linux takes that thread's end
/// for the end of the parent.
pub(crate) fn tethered<S: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = S>,
) -> Command {
    // The file of this program may be replaced by a build under way; the link still leads to ours.
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).arg(std::process::id().to_string()).arg(program).args(args);
    command.stdin(Stdio::null());
    command
}

/// Runs `command` to its end and hands each line that it prints on standard output to `on_line`.
///
/// # Errors
/// It cannot be started; a signal came, which ends it, too.
pub(crate) fn run(
    mut command: Command,
    stop: &Stop,
    mut on_line: impl FnMut(String),
) -> Result<Ended, DownloadError> {
    stop.check()?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(DownloadError::io("start", Path::new(command.get_program())))?;
    let (lines, arriving) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while (&mut stdout).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line).unwrap_or(0)
                > 0
            {
                if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    let complaints = child.stderr.take().map(|stderr| thread::spawn(move || tail_of(stderr)));
    loop {
        if stop.is_asked() {
            end(&mut child);
            return Err(DownloadError::Stopped);
        }
        match arriving.recv_timeout(POLL) {
            Ok(line) => on_line(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = wait(&mut child, stop)?;
    let complaints = complaints.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Ok(Ended { status, complaints })
}

/// Waits for `child`; a signal ends it.
pub(crate) fn wait(child: &mut Child, stop: &Stop) -> Result<ExitStatus, DownloadError> {
    loop {
        let ended = child.try_wait();
        if let Some(status) =
            ended.map_err(DownloadError::io("wait for", Path::new("a program")))?
        {
            return Ok(status);
        }
        if stop.is_asked() {
            end(child);
            return Err(DownloadError::Stopped);
        }
        thread::sleep(POLL);
    }
}

/// The first executable file of that name on PATH, or `name` itself if it is such a path.
pub(crate) fn on_path(name: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        return Some(name.to_owned()).filter(is_program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(is_program)
}

fn end(child: &mut Child) {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill().and_then(|()| child.wait());
}

fn tail_of(mut pipe: impl Read) -> String {
    let (mut tail, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        tail.extend_from_slice(&buffer[..read]);
        if tail.len() > 2 * COMPLAINTS_BYTES {
            tail.drain(..tail.len() - COMPLAINTS_BYTES);
        }
    }
    String::from_utf8_lossy(&tail).into_owned()
}
