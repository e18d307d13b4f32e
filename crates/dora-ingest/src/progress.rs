//! How far an ingest is: a bar on a terminal, a line now and then elsewhere.

use crate::report::clock_time;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows frames, frames a second and the time left, on stderr.
pub(crate) struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    /// How it is decoded, until that has been said.
    how: Option<String>,
    start_s: f64,
    /// Infinite when nobody knows.
    end_s: f64,
    frames: u64,
    since: Instant,
    last_line: Instant,
}

impl Progress {
    /// From `start_s` to about `end_s` of the source's time; `stored_us` is where an earlier run
    /// stopped. `how` it is decoded is said once, unless it is over at once.
    pub(crate) fn new(
        name: &str,
        how: Option<String>,
        start_s: f64,
        end_s: f64,
        stored_us: Option<i64>,
    ) -> Self {
        let now = Instant::now();
        let mut progress = Self {
            name: name.to_owned(),
            bar: None,
            how,
            start_s,
            end_s: if end_s < 1e9 { end_s } else { f64::INFINITY },
            frames: 0,
            since: now,
            last_line: now,
        };
        if std::io::stderr().is_terminal() {
            progress.say_how();
            let bar = ProgressBar::new(progress.ms(progress.end_s)).with_message(name.to_owned());
            let template = "{msg} [{bar:30}] {prefix} ETA {eta}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            bar.set_style(style);
            if let Some(stored_us) = stored_us {
                bar.set_position(progress.ms(stored_us as f64 * 1e-6));
                bar.reset_eta();
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            progress.bar = Some(bar);
        }
        progress
    }

    /// A frame has been stored.
    pub(crate) fn frame(&mut self, pts_us: i64) {
        self.frames += 1;
        let time_s = pts_us as f64 * 1e-6;
        if let Some(bar) = &self.bar {
            bar.set_position(self.ms(time_s));
            if self.frames.is_multiple_of(8) {
                bar.set_prefix(format!("{} frames, {:.0}/s", self.frames, self.rate()));
            }
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.say_how();
            let (name, time) = (&self.name, clock_time(time_s));
            let of = if self.end_s.is_finite() {
                format!(" of {}", clock_time(self.end_s))
            } else {
                String::new()
            };
            eprintln!("{name}: {time}{of}, {} frames, {:.0}/s", self.frames, self.rate());
        }
    }

    fn say_how(&mut self) {
        if let Some(how) = self.how.take() {
            eprintln!("{}: {how}", self.name);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn rate(&self) -> f64 {
        self.frames as f64 / self.since.elapsed().as_secs_f64().max(1e-3)
    }

    fn ms(&self, time_s: f64) -> u64 {
        // A cast saturates: the infinite end becomes a bar that never fills.
        ((time_s - self.start_s) * 1e3).max(0.0) as u64
    }
}
