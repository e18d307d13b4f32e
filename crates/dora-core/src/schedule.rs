//! Schedules over the steps of a run, each a pure function of the step.

use std::f64::consts::PI;

/// Cosine from `base` to `end` over the steps after a linear warm-up from `start` to `base`.
///
/// As in DINO's released code, which uses `numpy.linspace` and `numpy.arange`: the warm-up holds
/// both its ends, so that the first step has `start`, the last warm-up step and the step after it
/// have `base`; the cosine never quite arrives at `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosine {
    /// Value at the end of the warm-up.
    pub base: f64,
    /// Value that the cosine goes towards.
    pub end: f64,
    /// Value of the first step where there is a warm-up.
    pub start: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole run; later steps keep `end`.
    pub total_steps: u64,
}

impl Cosine {
    /// A cosine without warm-up.
    pub fn new(base: f64, end: f64, total_steps: u64) -> Self {
        Self { base, end, start: base, warmup_steps: 0, total_steps }
    }

    /// The value of `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step >= self.total_steps {
            return self.end;
        }
        if step < self.warmup_steps {
            return linear(self.start, self.base, self.warmup_steps, step);
        }
        let progress =
            (step - self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps) as f64;
        self.end + 0.5 * (self.base - self.end) * (1.0 + (PI * progress).cos())
    }
}

/// Linear from `start` to `end` over `steps` steps, both ends included; later steps keep `end`.
pub fn linear(start: f64, end: f64, steps: u64, step: u64) -> f64 {
    match steps {
        _ if step >= steps => end,
        1 => start,
        _ => start + (end - start) * (step as f64 / (steps - 1) as f64),
    }
}
