//! A batch made up here, for steps that need no video: `--dry-run` and `bench`.

use dora_data::augment::{ViewKeys, Views, views};
use tch::{Device, Kind, Tensor};

use crate::{engine::Scheduled, recipe::Recipe, schedule::scaled_lr};

/// The views of a batch of synthetic clips, on `device`.
pub(crate) fn synthetic_views(recipe: &Recipe, device: Device) -> Views {
    let sample_ids: Vec<u64> = (0..recipe.train.clips as u64).collect();
    let keys = ViewKeys { seed: recipe.train.seed, epoch: 0, sample_ids: &sample_ids };
    views(&synthetic_frames(recipe), &recipe.views, keys, device)
}

/// The values of a step at the height of the learning rate, with everything learning.
pub(crate) fn scheduled_at_height(recipe: &Recipe) -> Scheduled {
    let clips = recipe.train.clips * recipe.train.gradient_accumulation_steps;
    Scheduled {
        lr: scaled_lr(recipe, clips as u64),
        weight_decay: recipe.train.weight_decay,
        momentum: recipe.train.momentum,
        teacher_temp: recipe.method.teacher_temp,
        freeze_last_layer: false,
    }
}

/// Frames of slanted stripes, another slant for each clip and frame.
fn synthetic_frames(recipe: &Recipe) -> Tensor {
    let (clips, frames) = (recipe.train.clips as i64, recipe.clip.frames_per_clip as i64);
    let side = i64::from(recipe.crop.px);
    let line = |n: i64| Tensor::arange(n, (Kind::Int64, Device::Cpu));
    let slant_N11 = (line(clips * frames) + 1).reshape([-1, 1, 1]);
    let stripes_NHW = (line(side).reshape([1, -1, 1]) * slant_N11 + line(side)).remainder(251);
    stripes_NHW.to_kind(Kind::Uint8).reshape([clips, frames, 1, side, side]).repeat([1, 1, 3, 1, 1])
}
