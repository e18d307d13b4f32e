//! How far the downloads are: a bar for each file on a terminal, a line now and then elsewhere.

use crate::text::bytes;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where progress and messages go: standard error.
#[derive(Debug, Clone)]
pub struct Board {
    bars: Option<MultiProgress>,
    line_every: Option<Duration>,
}

/// How far one file is.
#[derive(Debug)]
pub struct Meter {
    board: Board,
    name: String,
    doing: &'static str,
    bar: Option<ProgressBar>,
    total_bytes: Option<u64>,
    at_bytes: u64,
    since: Instant,
    since_bytes: u64,
    last_line: Instant,
}

impl Board {
    /// Bars if standard error is a terminal, else lines.
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, line_every: Some(LINE_EVERY) }
    }

    /// Messages only.
    pub fn without_progress() -> Self {
        Self { bars: None, line_every: None }
    }

    /// Prints one line, above the bars.
    pub fn say(&self, line: &str) {
        // A closed pipe there is no reason to stop.
        let print = || {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Shows `name` while something is done to it: "fetching", "checking".
    pub fn meter(&self, name: &str, doing: &'static str, total_bytes: Option<u64>) -> Meter {
        let bar = self.bars.as_ref().map(|bars| {
            let template = match total_bytes {
                Some(_) => {
                    "{prefix:13} {msg} [{bar:25}] {decimal_bytes} of {decimal_total_bytes}, \
                     {decimal_bytes_per_sec}, ETA {eta}"
                }
                None => "{prefix:13} {msg} {decimal_bytes}, {decimal_bytes_per_sec}",
            };
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bar = ProgressBar::new(total_bytes.unwrap_or(0)).with_style(style);
            let bar = bars.add(bar.with_prefix(name.to_owned()).with_message(doing));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let now = Instant::now();
        Meter {
            board: self.clone(),
            name: name.to_owned(),
            doing,
            bar,
            total_bytes,
            at_bytes: 0,
            since: now,
            since_bytes: 0,
            last_line: now,
        }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// Begins at `at_bytes`, which say nothing of the speed.
    pub fn start_at(&mut self, at_bytes: u64) {
        (self.at_bytes, self.since_bytes, self.since) = (at_bytes, at_bytes, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_position(at_bytes);
            bar.reset_eta();
        }
    }

    /// So much is there.
    pub fn set(&mut self, at_bytes: u64) {
        self.at_bytes = at_bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(at_bytes);
        } else if self.board.line_every.is_some_and(|every| self.last_line.elapsed() >= every) {
            self.last_line = Instant::now();
            self.say(&self.line());
        }
    }

    /// Prints `line` behind the name.
    pub fn say(&self, line: &str) {
        self.board.say(&format!("{}: {line}", self.name));
    }

    fn line(&self) -> String {
        let gained = self.at_bytes.saturating_sub(self.since_bytes) as f64;
        let rate = gained / self.since.elapsed().as_secs_f64().max(1e-3);
        let (doing, at) = (self.doing, bytes(self.at_bytes));
        let Some(total) = self.total_bytes else {
            return format!("{doing}, {at}, {:.1} MB/s", rate / 1e6);
        };
        let left_s = total.saturating_sub(self.at_bytes) as f64 / rate.max(1.0);
        let left = format!("{}:{:02}", left_s as u64 / 3600, left_s as u64 / 60 % 60);
        format!("{doing}, {at} of {}, {:.1} MB/s, {left} h left", bytes(total), rate / 1e6)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_size_speed_and_time_left() {
        let mut meter = Board::without_progress().meter("venice", "fetching", Some(28_000_000_000));
        meter.start_at(1_000_000_000);
        meter.since = Instant::now() - Duration::from_secs(100);
        meter.set(4_000_000_000);
        assert_eq!(meter.line(), "fetching, 4.0 GB of 28.0 GB, 30.0 MB/s, 0:13 h left");
        meter.total_bytes = None;
        assert_eq!(meter.line(), "fetching, 4.0 GB, 30.0 MB/s");
    }
}
