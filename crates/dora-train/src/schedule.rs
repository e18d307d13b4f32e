//! What a step's learning rate, weight decay, momentum and temperature are.

use dora_core::schedule::{Cosine, linear};

use crate::{engine::Scheduled, recipe::Recipe};

/// The schedules of a run once the length of an epoch is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Steps of the run.
    pub total_steps: u64,
    /// Learning rate, scaled for the clips of a step.
    pub lr: Cosine,
    weight_decay: Cosine,
    momentum: Cosine,
    teacher_temp: TempWarmup,
    frozen_steps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct TempWarmup {
    start: f64,
    end: f64,
    steps: u64,
}

/// A part of the schedule that outlasts the run.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{key}` lasts {steps} steps, but `train.length` is {total_steps}: shorten the one (`--set \"{key}=N steps\"`) or lengthen the other"
)]
pub struct ScheduleError {
    key: &'static str,
    steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// The schedules for steps of `clips_per_step` clips over all processes.
    ///
    /// # Errors
    /// If the run is over before the learning rate is at its height or the last layer learns.
    pub fn new(
        recipe: &Recipe,
        steps_per_epoch: f64,
        clips_per_step: u64,
    ) -> Result<Self, ScheduleError> {
        let (train, method) = (&recipe.train, &recipe.method);
        let total_steps = train.length.steps(steps_per_epoch);
        let lr = Cosine {
            base: scaled_lr(recipe, clips_per_step),
            end: train.lr_end,
            start: 0.0,
            warmup_steps: train.lr_warmup.steps(steps_per_epoch),
            total_steps,
        };
        let frozen_steps = train.freeze_last_layer.steps(steps_per_epoch);
        for (key, steps) in
            [("train.lr_warmup", lr.warmup_steps), ("train.freeze_last_layer", frozen_steps)]
        {
            if steps >= total_steps {
                return Err(ScheduleError { key, steps, total_steps });
            }
        }
        Ok(Self {
            total_steps,
            lr,
            weight_decay: Cosine::new(train.weight_decay, train.weight_decay_end, total_steps),
            momentum: Cosine::new(train.momentum, train.momentum_end, total_steps),
            teacher_temp: TempWarmup {
                start: method.warmup_teacher_temp,
                end: method.teacher_temp,
                steps: method.warmup_teacher_temp_for.steps(steps_per_epoch),
            },
            frozen_steps,
        })
    }

    /// The values of `step`, counted from 0.
    pub fn at(&self, step: u64) -> Scheduled {
        let TempWarmup { start, end, steps } = self.teacher_temp;
        Scheduled {
            lr: self.lr.at(step),
            weight_decay: self.weight_decay.at(step),
            momentum: self.momentum.at(step),
            teacher_temp: linear(start, end, steps, step),
            freeze_last_layer: step < self.frozen_steps,
        }
    }
}

/// The learning rate at its height: a recipe states it for 256 clips (Goyal et al. 2017, linear
/// scaling).
pub fn scaled_lr(recipe: &Recipe, clips_per_step: u64) -> f64 {
    recipe.train.lr * clips_per_step as f64 / 256.0
}

/// What is possible but hardly meant.
pub fn lr_warning(recipe: &Recipe, clips_per_step: u64) -> Option<String> {
    let (scaled, end) = (scaled_lr(recipe, clips_per_step), recipe.train.lr_end);
    (scaled < end).then(|| {
        format!(
            "the learning rate rises from {scaled:.2e} to `train.lr_end`, {end:.2e}, since a step has few clips: raise `train.lr` or lower `train.lr_end`"
        )
    })
}
