//! The metrics of a step: computed together, read from the device one step late, written as JSON lines.

use std::{io, path::Path, time::Instant};

use dora_core::tracker::Tracks;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use torch_ext::{ReadBack, TorchError};

use crate::{
    engine::{Engine, Scheduled, StepOutput},
    notice::Notice,
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
    /// L2 norm of all gradients together, before clipping; none where the step was skipped.
    pub grad_norm: Option<f64>,
    /// Whether a number was not finite, so that the step changed nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_skipped: bool,
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
    /// Seconds since the step before, whatever was done in between.
    pub step_s: f64,
    /// Seconds that the step waited for data.
    pub data_s: f64,
    /// Seconds that the host waited for the device to come to the step's end, the next one being queued:
    /// about 0 where the host is the slower of the two.
    #[serde(default)]
    pub device_wait_s: f64,
}

/// How long a step took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The whole step: since the one before, whatever was done in between.
    pub step_s: f64,
    /// Waiting for data.
    pub data_s: f64,
    /// Images through an encoder, on all ranks.
    pub images: i64,
}

/// Defines [`Scalars`], so that each is named once.
macro_rules! scalars {
    ($($name:ident),+ $(,)?) => {
        /// What is measured on the device in a step; as tensors there, and as numbers once it is read.
        #[derive(Clone, Debug)]
        struct Scalars<T> {
            $($name: T,)+
            /// One for each object.
            mask_area: Vec<T>,
        }

        impl Scalars<Tensor> {
            /// All of them in one tensor of float64.
            fn stack(&self) -> Tensor {
                let scalars = [$(&self.$name),+].into_iter().chain(&self.mask_area);
                let scalars: Vec<_> = scalars.map(|scalar| scalar.to_kind(Kind::Double)).collect();
                Tensor::stack(&scalars, 0)
            }
        }

        impl Scalars<f64> {
            /// Of the numbers of [`Scalars::stack`].
            fn unstack(numbers: &[f64]) -> Self {
                let mut numbers = numbers.iter().copied();
                Self {
                    $($name: numbers.next().unwrap_or(f64::NAN),)+
                    mask_area: numbers.collect(),
                }
            }
        }
    };
}

scalars!(
    loss,
    loss_global,
    loss_local,
    teacher_entropy,
    teacher_mean_entropy,
    kl,
    center_norm,
    grad_norm,
    mask_iou,
    empty_masks,
    loss_scale,
    skipped,
);

/// The numbers of a step on their way from the device, and what the ranks said with it.
#[derive(Debug)]
pub struct StepReadBack {
    numbers: ReadBack,
    /// What was known on the host when the step was queued.
    step: u64,
    epoch: f64,
    scheduled: Scheduled,
    timing: Timing,
}

/// A step whose numbers are there.
#[derive(Debug)]
pub struct StepRead {
    /// For `metrics.jsonl`.
    pub metrics: StepMetrics,
    /// What the ranks said.
    pub notice: Notice,
}

impl StepReadBack {
    /// Starts to read the numbers of the engine's last step, which gave `output`, without waiting for
    /// the device.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn start(
        output: &StepOutput,
        engine: &Engine,
        scheduled: &Scheduled,
        (step, epoch): (u64, f64),
        timing: Timing,
    ) -> Result<Self, TorchError> {
        let (loss, center) = (&output.loss, engine.center());
        let (mask_iou, empty_masks, mask_area) = mask_scalars(&output.tracks_V, &loss.total);
        let scalars = Scalars {
            loss: loss.total.shallow_clone(),
            loss_global: loss.global.shallow_clone(),
            loss_local: loss.local.shallow_clone(),
            teacher_entropy: loss.teacher_entropy.shallow_clone(),
            teacher_mean_entropy: output.teacher_mean_entropy.shallow_clone(),
            kl: loss.kl.shallow_clone(),
            center_norm: center.norm(),
            grad_norm: output.grad_norms.norm(),
            mask_iou,
            empty_masks,
            loss_scale: engine
                .loss_scale()
                .map_or_else(|| loss.total.ones_like(), Tensor::shallow_clone),
            skipped: output.skipped.shallow_clone(),
            mask_area,
        };
        let notices = output.notices.to_kind(Kind::Double);
        let numbers = ReadBack::start(&Tensor::cat(&[notices, scalars.stack()], 0))?;
        Ok(Self { numbers, step, epoch, scheduled: *scheduled, timing })
    }

    /// Waits for the numbers.
    ///
    /// # Errors
    /// The device has failed.
    pub fn wait(self) -> Result<StepRead, TorchError> {
        let Self { numbers, step, epoch, scheduled, timing } = self;
        let began = Instant::now();
        let numbers = numbers.wait()?;
        let device_wait_s = began.elapsed().as_secs_f64();
        let (notices, scalars) = numbers.split_at(Notice::LEN.min(numbers.len()));
        let scalars = Scalars::unstack(scalars);
        let is_taken = scalars.skipped == 0.0;
        let tracked = |number: f64| (!scalars.mask_area.is_empty()).then_some(number);
        let metrics = StepMetrics {
            step,
            epoch,
            loss: scalars.loss,
            loss_global: scalars.loss_global,
            loss_local: scalars.loss_local,
            teacher_entropy: scalars.teacher_entropy,
            teacher_mean_entropy: scalars.teacher_mean_entropy,
            kl: scalars.kl,
            center_norm: scalars.center_norm,
            grad_norm: is_taken.then_some(scalars.grad_norm),
            is_skipped: !is_taken,
            mask_iou: tracked(scalars.mask_iou),
            empty_masks: tracked(scalars.empty_masks),
            mask_area: scalars.mask_area,
            lr: scheduled.lr,
            weight_decay: scheduled.weight_decay,
            momentum: scheduled.momentum,
            loss_scale: scalars.loss_scale,
            images_per_s: timing.images as f64 / timing.step_s,
            step_s: timing.step_s,
            data_s: timing.data_s,
            device_wait_s,
        };
        Ok(StepRead { metrics, notice: Notice::from_numbers(notices) })
    }
}

/// Overlap of the objects' masks, share of empty ones, and the area of each object, over views, clips
/// and frames; zeros and no area where nothing is tracked.
fn mask_scalars(tracks_V: &[Tracks], like: &Tensor) -> (Tensor, Tensor, Vec<Tensor>) {
    if tracks_V.is_empty() {
        return (like.zeros_like(), like.zeros_like(), Vec::new());
    }
    let masks: Vec<&Tensor> = tracks_V.iter().map(|tracks| &tracks.masks_BTKN).collect();
    let masks_VBTKN = Tensor::stack(&masks, 0).to_kind(Kind::Double);
    let area_VBTK = masks_VBTKN.mean_dim([-1].as_slice(), false, None::<Kind>);
    let area_K = area_VBTK.mean_dim([0, 1, 2].as_slice(), false, None::<Kind>);
    let empty = area_VBTK.eq(0.0).to_kind(Kind::Double).mean(None);
    (mean_iou(&masks_VBTKN), empty, area_K.unbind(0))
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
            ("device_wait_s", self.device_wait_s),
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
