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
    watched: [Watched; 3],
}

/// One way to collapse, watched on its own: several may come and go side by side.
#[derive(Debug)]
struct Watched {
    collapse: Collapse,
    since_step: Option<u64>,
    is_told: bool,
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
            watched: [Collapse::UniformTeacher, Collapse::CertainTeacher, Collapse::LossAtUniform]
                .map(|collapse| Watched { collapse, since_step: None, is_told: false }),
        }
    }

    /// Looks at a step; gives the collapse once when it has lasted long enough.
    pub fn look(&mut self, metrics: &StepMetrics) -> Option<Collapse> {
        if metrics.step < self.first_step {
            return None;
        }
        let at = |value: f64, limit: f64| (value - limit).abs() <= NEAR * self.ln_out_dim;
        for watched in &mut self.watched {
            let is_there = match watched.collapse {
                Collapse::UniformTeacher => at(metrics.teacher_entropy, self.ln_out_dim),
                Collapse::CertainTeacher => at(metrics.teacher_entropy, 0.0),
                // Not `loss`: its scale differs with the form of the loss.
                Collapse::LossAtUniform => at(metrics.loss_global, self.ln_out_dim),
            };
            if !is_there {
                (watched.since_step, watched.is_told) = (None, false);
                continue;
            }
            let since_step = *watched.since_step.get_or_insert(metrics.step);
            if metrics.step - since_step >= self.patience_steps && !watched.is_told {
                watched.is_told = true;
                return Some(watched.collapse);
            }
        }
        None
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
