//! What a worker prints: shown line by line behind its rank, kept in full in a log, and its last lines
//! remembered.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, PipeReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::process::{POLL, fixable, say};

/// Lines that are remembered.
const LAST_LINES: usize = 20;

/// A line is cut after so many bytes, so that a worker that ends none does not fill our memory.
const MAX_LINE_BYTES: u64 = 1 << 16;

/// How long to wait for the rest once a worker has ended; it may have left a child that holds its pipe.
const REST: Duration = Duration::from_secs(2);

/// The output of one worker.
pub(crate) struct Output {
    rank: u64,
    log: PathBuf,
    last: Arc<Mutex<VecDeque<Vec<u8>>>>,
    is_shown: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Reads `pipe` until it ends. The log goes on behind what it holds, after the line `title`.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(crate) fn follow(
        pipe: PipeReader,
        rank: u64,
        log: &Path,
        title: &str,
    ) -> anyhow::Result<Self> {
        let mut file = open(log, title).map_err(|error| {
            let shown = log.display();
            fixable(format!(
                "cannot write the log {shown} ({error}); choose another folder with --run-dir"
            ))
        })?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let is_shown = Arc::new(AtomicBool::new(true));
        let (remembered, shown, path) = (last.clone(), is_shown.clone(), log.to_owned());
        let reader = thread::spawn(move || {
            let mut is_logged = true;
            for_each_line(pipe, |line| {
                if is_logged && let Err(error) = file.write_all(line) {
                    is_logged = false;
                    say!("warning: {} ends here: {error}", path.display());
                }
                let text = visible(line);
                if text.is_empty() {
                    return;
                }
                if shown.load(SeqCst) {
                    show(rank, text);
                }
                let mut last = remembered.lock().unwrap_or_else(PoisonError::into_inner);
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(text.to_owned());
            });
        });
        Ok(Self { rank, log: log.to_owned(), last, is_shown, reader })
    }

    /// Where all of it is.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until all is shown that an ended worker has printed; nothing is shown afterwards.
    pub(crate) fn finish(&self) {
        let until = Instant::now() + REST;
        while !self.reader.is_finished() && Instant::now() < until {
            thread::sleep(POLL);
        }
        self.is_shown.store(false, SeqCst);
    }

    /// Shows the last lines again.
    pub(crate) fn show_last(&self) {
        for line in self.last.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            show(self.rank, line);
        }
    }
}

fn open(log: &Path, title: &str) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    writeln!(file, "{title}")?;
    Ok(file)
}

/// Calls `line` with every line, its end included, and what is left behind the last.
fn for_each_line(pipe: impl Read, mut line: impl FnMut(&[u8])) {
    let mut pipe = BufReader::new(pipe);
    let mut buffer = Vec::new();
    loop {
        let room = MAX_LINE_BYTES - buffer.len() as u64;
        let read = (&mut pipe).take(room).read_until(b'\n', &mut buffer);
        if !matches!(read, Ok(1..)) {
            break;
        }
        if buffer.ends_with(b"\n") {
            line(&buffer);
            buffer.clear();
        } else if buffer.len() as u64 == MAX_LINE_BYTES {
            let rest = buffer.split_off(whole_characters(&buffer));
            buffer.push(b'\n');
            line(&buffer);
            buffer = rest;
        }
    }
    if !buffer.is_empty() {
        buffer.push(b'\n');
        line(&buffer);
    }
}

/// The length of `text` without a character of UTF-8 that it breaks off in.
fn whole_characters(text: &[u8]) -> usize {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => text.len(),
    }
}

/// What a terminal would show of a line in the end: what stands behind the last return to its start.
fn visible(line: &[u8]) -> &[u8] {
    let mut parts = line.trim_ascii_end().rsplit(|byte| *byte == b'\r');
    parts.find(|part| !part.is_empty()).unwrap_or_default()
}

/// One call for a whole line, so that no other falls into it.
fn show(rank: u64, text: &[u8]) {
    let mut line = format!("[rank {rank}] ").into_bytes();
    line.extend_from_slice(text);
    line.push(b'\n');
    let _ = io::stderr().lock().write_all(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for_each_line(text, |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_whole() {
        assert_eq!(lines(b"a\nb"), [b"a\n", b"b\n"]);
        assert_eq!(lines(b"\n\na\n"), [&b"\n"[..], b"\n", b"a\n"]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let text = "x".to_owned() + &"\u{e4}".repeat(100_000);
        let lines = lines(text.as_bytes());
        assert_eq!(lines.len(), 4);
        let lines: Vec<_> =
            lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(lines.concat().replace('\n', ""), text);
    }

    #[test]
    fn a_line_that_cannot_be_utf8_is_cut_where_it_is_full() {
        let text = [0xff].repeat(MAX_LINE_BYTES as usize + 1);
        let lengths: Vec<usize> = lines(&text).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES as usize + 1, 2]);
    }

    #[test]
    fn a_line_that_was_written_over_shows_its_last_form() {
        for (line, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("1 %\r2 %\r\n", "2 %"),
            ("1 %\r2 %\n", "2 %"),
            ("\r\n", ""),
        ] {
            assert_eq!(visible(line.as_bytes()), expected.as_bytes(), "{line:?}");
        }
    }
}
