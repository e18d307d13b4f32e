//! Notices a training that has collapsed: every clip gets the same answer, or an answer that says
//! nothing.

use crate::metrics::StepMetrics;

/// How near to its limit a figure counts as being there.
const NEAR: f64 = 1e-3;

/// Watches the figures of a run.
#[derive(Debug)]
pub struct CollapseAlarm {
    ln_out_dim: f64,
    patience_steps: u64,
    first_step: u64,
    since: Option<(Collapse, u64)>,
    told: Option<Collapse>,
}

/// What a collapse looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// The loss stays at ln(out_dim): the student has learned nothing or forgotten all.
    LossAtUniform,
    /// The teacher gives all prototypes the same weight.
    UniformTeacher,
    /// The teacher names one prototype with certainty, whatever it sees.
    CertainTeacher,
}

impl CollapseAlarm {
    /// An alarm for a head of `out_dim` prototypes in a run of `total_steps`.
    ///
    /// It looks from `first_step` on, since every run begins near the uniform answer, and calls when
    /// a collapse has lasted for a twentieth of the run (50 to 2,000 steps).
    pub fn new(out_dim: i64, first_step: u64, total_steps: u64) -> Self {
        Self {
            ln_out_dim: (out_dim as f64).ln(),
            patience_steps: (total_steps / 20).clamp(50, 2000),
            first_step,
            since: None,
            told: None,
        }
    }

    /// Looks at a step; gives the collapse once when it has lasted long enough.
    pub fn look(&mut self, metrics: &StepMetrics) -> Option<Collapse> {
        if metrics.step < self.first_step {
            return None;
        }
        let Some(collapse) = self.collapse(metrics) else {
            (self.since, self.told) = (None, None);
            return None;
        };
        let began = match self.since {
            Some((same, began)) if same == collapse => began,
            _ => metrics.step,
        };
        self.since = Some((collapse, began));
        let is_long = metrics.step - began >= self.patience_steps;
        if is_long && self.told != Some(collapse) {
            self.told = Some(collapse);
            return Some(collapse);
        }
        None
    }

    fn collapse(&self, metrics: &StepMetrics) -> Option<Collapse> {
        let at = |value: f64, limit: f64| (value - limit).abs() <= NEAR * self.ln_out_dim;
        if at(metrics.teacher_entropy, self.ln_out_dim) {
            Some(Collapse::UniformTeacher)
        } else if at(metrics.teacher_entropy, 0.0) {
            Some(Collapse::CertainTeacher)
        } else if at(metrics.loss_global, self.ln_out_dim) {
            Some(Collapse::LossAtUniform)
        } else {
            None
        }
    }
}

impl Collapse {
    /// What to tell the user.
    pub fn message(self) -> &'static str {
        match self {
            Self::LossAtUniform => {
                "the loss has stayed at ln(out_dim): the student learns nothing; try a lower \
                 `train.lr`, a longer `train.lr_warmup`, or more clips a step"
            }
            Self::UniformTeacher => {
                "the teacher gives every prototype the same weight (entropy at ln(out_dim)): \
                 training has collapsed; try a lower `train.lr`, a higher `train.momentum`, or more \
                 clips a step"
            }
            Self::CertainTeacher => {
                "the teacher names one prototype with certainty (entropy at 0): training has \
                 collapsed; try a higher `method.teacher_temp` or a lower \
                 `method.center_momentum`"
            }
        }
    }
}
