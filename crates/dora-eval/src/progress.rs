//! What the user sees while something long goes on: a bar with what is left, or a line now and then
//! where there is no terminal.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress on standard error; the end of its life takes the bar away.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    what: String,
    lines: Option<Instant>,
    started: Instant,
}

impl Progress {
    /// Starts at none of `total` steps of `what` ("features of train").
    pub fn new(what: &str, total: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target =
            if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = "{msg}  {bar:24} {pos}/{len}  {per_sec}  ETA {eta}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style)
            .with_message(what.to_owned());
        let started = Instant::now();
        Self { bar, what: what.to_owned(), lines: (!is_terminal).then_some(started), started }
    }

    /// Says that `steps` more are done.
    pub fn advance(&mut self, steps: u64) {
        self.bar.inc(steps);
        let now = Instant::now();
        let Some(last) = self.lines.as_mut().filter(|last| now - **last >= LINE_EVERY) else {
            return;
        };
        *last = now;
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let per_s = done as f64 / self.started.elapsed().as_secs_f64();
        let left_s = (total.saturating_sub(done)) as f64 / per_s.max(1e-9);
        // That nobody reads it is no reason to stop.
        let _ = writeln!(
            std::io::stderr(),
            "{} {done}/{total}  {per_s:.1}/s  ETA {}:{:02}",
            self.what,
            left_s as u64 / 60,
            left_s as u64 % 60
        );
    }

    /// Seconds since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
