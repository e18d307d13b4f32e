//! The figures of a step: computed together, read from the device at once, written as JSON lines.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    engine::{Engine, Scheduled, StepOutput},
    step_lines::StepLines,
};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps taken, this one included.
    pub step: u64,
    /// Epochs done, with the fraction of the one under way.
    pub epoch: f64,
    /// What was minimised.
    pub loss: f64,
    /// Mean cross-entropy of objects (of the other view for `dino`).
    pub loss_global: f64,
    /// Mean cross-entropy of local crops.
    pub loss_local: f64,
    /// Mean entropy of the teacher's answers; at most ln(out_dim).
    pub teacher_entropy: f64,
    /// Entropy of the teacher's mean answer over a step. What it exceeds `teacher_entropy` by is what
    /// an answer tells of its image: 0 where all images are answered alike, however sharply.
    pub teacher_mean_entropy: f64,
    /// Mean divergence from teacher to student over the global part.
    pub kl: f64,
    /// L2 norm of the centre.
    pub center_norm: f64,
    /// L2 norm of all gradients together, before clipping; none where a float16 gradient overflowed
    /// and the step was left out.
    pub grad_norm: Option<f64>,
    /// Share of a frame that each object covers, in the order of the drawn heads.
    pub mask_area: Vec<f64>,
    /// Mean intersection over union of two objects' masks in a frame: 1 where all are the same. None
    /// where nothing is tracked.
    pub mask_iou: Option<f64>,
    /// Share of masks without a patch; none where nothing is tracked.
    pub empty_masks: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of the teacher.
    pub momentum: f64,
    /// Factor of the loss for float16 gradients; 1 in other precisions.
    pub loss_scale: f64,
    /// Images through an encoder for each second of the step (teacher and student, all ranks).
    pub images_per_s: f64,
    /// Seconds that the step took, data included.
    pub step_s: f64,
    /// Seconds that the step waited for data.
    pub data_s: f64,
}

/// How long a step took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The whole step.
    pub step_s: f64,
    /// Waiting for data.
    pub data_s: f64,
    /// Images through an encoder, on all ranks.
    pub images: i64,
}

impl StepMetrics {
    /// The figures of a step; waits for the device once.
    pub fn new(
        output: &StepOutput,
        engine: &Engine,
        scheduled: &Scheduled,
        (step, epoch): (u64, f64),
        timing: Timing,
    ) -> Self {
        let loss = &output.loss;
        let grad_norm = (&output.grad_norms * &output.grad_norms).sum(None).sqrt();
        let mut scalars: Vec<Tensor> =
            [&loss.total, &loss.global, &loss.local, &loss.teacher_entropy, &loss.kl, &grad_norm]
                .map(|scalar| scalar.to_kind(Kind::Double))
                .into();
        scalars.push(engine.center().norm().to_kind(Kind::Double));
        scalars.push(output.teacher_mean_entropy.to_kind(Kind::Double));
        if !output.tracks_V.is_empty() {
            let masks: Vec<&Tensor> = output.tracks_V.iter().map(|t| &t.masks_BTKN).collect();
            let masks_VBTKN = Tensor::stack(&masks, 0).to_kind(Kind::Double);
            let area_VBTK = masks_VBTKN.mean_dim([-1].as_slice(), false, None::<Kind>);
            scalars.push(mean_iou(&masks_VBTKN));
            scalars.push(area_VBTK.eq(0.0).to_kind(Kind::Double).mean(None));
            let area_K = area_VBTK.mean_dim([0, 1, 2].as_slice(), false, None::<Kind>);
            scalars.extend((0..area_K.size()[0]).map(|object| area_K.get(object)));
        }
        let values = Vec::<f64>::try_from(Tensor::stack(&scalars, 0)).unwrap_or_default();
        let value = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            step,
            epoch,
            loss: value(0),
            loss_global: value(1),
            loss_local: value(2),
            teacher_entropy: value(3),
            kl: value(4),
            grad_norm: output.is_taken.then(|| value(5)),
            center_norm: value(6),
            teacher_mean_entropy: value(7),
            mask_iou: values.get(8).copied(),
            empty_masks: values.get(9).copied(),
            mask_area: values.get(10..).unwrap_or_default().to_vec(),
            lr: scheduled.lr,
            weight_decay: scheduled.weight_decay,
            momentum: scheduled.momentum,
            loss_scale: engine.loss_scale(),
            images_per_s: timing.images as f64 / timing.step_s,
            step_s: timing.step_s,
            data_s: timing.data_s,
        }
    }
}

/// Mean over pairs of different objects of the masks' intersection over union; 0 for one object.
fn mean_iou(masks_VBTKN: &Tensor) -> Tensor {
    let objects = masks_VBTKN.size()[3];
    let both_VBTKK = masks_VBTKN.matmul(&masks_VBTKN.transpose(-2, -1));
    let area_VBTK = masks_VBTKN.sum_dim_intlist([-1].as_slice(), false, None::<Kind>);
    let either_VBTKK = area_VBTK.unsqueeze(-1) + area_VBTK.unsqueeze(-2) - &both_VBTKK;
    let iou_VBTKK = both_VBTKK / either_VBTKK.clamp_min(1.0);
    let pairs_VBT = iou_VBTKK.triu(1).sum_dim_intlist([-2, -1].as_slice(), false, None::<Kind>);
    pairs_VBT.mean(None) / (objects * (objects - 1) / 2).max(1) as f64
}

impl StepMetrics {
    /// The figures under TensorBoard's tags, `epoch` aside.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars: Vec<(String, f64)> = [
            ("loss", self.loss),
            ("loss_global", self.loss_global),
            ("loss_local", self.loss_local),
            ("teacher_entropy", self.teacher_entropy),
            ("teacher_mean_entropy", self.teacher_mean_entropy),
            ("kl", self.kl),
            ("center_norm", self.center_norm),
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("momentum", self.momentum),
            ("loss_scale", self.loss_scale),
            ("images_per_s", self.images_per_s),
            ("step_s", self.step_s),
            ("data_s", self.data_s),
        ]
        .map(|(name, value)| (format!("train/{name}"), value))
        .into();
        for (name, value) in [
            ("grad_norm", self.grad_norm),
            ("mask_iou", self.mask_iou),
            ("empty_masks", self.empty_masks),
        ] {
            scalars.extend(value.map(|value| (format!("train/{name}"), value)));
        }
        let areas = self.mask_area.iter().enumerate();
        scalars.extend(areas.map(|(object, area)| (format!("train/mask_area_{object}"), *area)));
        scalars
    }
}

/// `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsFile(StepLines);

impl MetricsFile {
    /// Opens the file of a run that goes on after `step` steps: what a killed run wrote of later
    /// steps is cut off, and so is a torn last line.
    pub fn resume(run_dir: &Path, step: u64) -> io::Result<Self> {
        StepLines::resume(run_dir.join("metrics.jsonl"), step).map(Self)
    }

    /// Appends a line.
    pub fn write(&mut self, metrics: &StepMetrics) -> io::Result<()> {
        self.0.write(metrics)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
