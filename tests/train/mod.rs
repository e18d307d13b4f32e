//! The trainer's parts that need no whole run.

mod alarm;
mod metrics;
mod position;
mod recipe;
mod scaler;
mod streams;
mod tensorboard;

use dora_train::metrics::StepMetrics;

/// The figures of a healthy step of a head with `exp(7)` prototypes.
fn healthy(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0.5,
        loss: 5.0,
        loss_global: 5.0,
        loss_local: 5.0,
        teacher_entropy: 4.0,
        teacher_mean_entropy: 5.0,
        kl: 1.0,
        center_norm: 1.0,
        grad_norm: Some(1.0),
        is_skipped: false,
        mask_area: vec![0.4, 0.5],
        mask_iou: Some(0.5),
        empty_masks: Some(0.0),
        lr: 1e-3,
        weight_decay: 0.04,
        momentum: 0.996,
        loss_scale: 1.0,
        images_per_s: 100.0,
        step_s: 1.0,
        data_s: 0.0,
        device_wait_s: 0.0,
    }
}
