//! What the user sees while a run goes on: a bar on a terminal, a line now and then elsewhere.

use dora_data::say;
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{metrics::StepMetrics, monitor::Judgement};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of a run, on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    total_steps: u64,
    resumed_at: u64,
    started: Instant,
    last_line: Option<Instant>,
    /// The figures of the last judging.
    judged: String,
}

impl Progress {
    /// Starts at `step` of `total_steps`.
    pub fn new(step: u64, total_steps: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target =
            if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = "{bar:24} {pos}/{len} {msg}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total_steps), target)
            .with_style(style)
            .with_position(step);
        let started = Instant::now();
        let judged = String::new();
        Self { bar, is_terminal, total_steps, resumed_at: step, started, last_line: None, judged }
    }

    /// Shows a step.
    pub fn step(&mut self, metrics: &StepMetrics) {
        let done = metrics.step - self.resumed_at;
        let left = self.total_steps - metrics.step;
        let eta_s = self.started.elapsed().as_secs_f64() / done.max(1) as f64 * left as f64;
        let message = format!(
            "loss {:.4}  {:.0} images/s  data {:.0} %  ETA {}{}",
            metrics.loss,
            metrics.images_per_s,
            100.0 * metrics.data_s / metrics.step_s,
            clock(eta_s),
            self.judged,
        );
        self.bar.set_position(metrics.step);
        self.bar.set_message(message.clone());
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) || left == 0;
        if !self.is_terminal && is_due {
            self.last_line = Some(Instant::now());
            say!("step {}/{}  {message}", metrics.step, self.total_steps);
        }
    }

    /// Shows how far the judging by a protocol is.
    pub fn judging(&mut self, name: &str, done: u64, total: u64) {
        let message = format!("judging by {name}  {done}/{total}");
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if !self.is_terminal && is_due {
            self.last_line = Some(Instant::now());
            say!("{message}");
        }
        self.bar.set_message(message);
    }

    /// Shows a protocol's figures now and in the line of every step that follows.
    pub fn judged(&mut self, judgement: &Judgement) {
        let text = judgement.text();
        self.say(&format!("step {}: {text} ({:.0} s)", judgement.step, judgement.seconds));
        self.judged = format!("  {text}");
    }

    /// Says something without breaking the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| say!("{text}"));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// `h:mm:ss` or `m:ss`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round().max(0.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}
