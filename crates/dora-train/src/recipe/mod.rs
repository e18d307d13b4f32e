//! A training run as a TOML file: what a user may write, checked as a whole before anything starts.
//!
//! Every key has a default, the paper's; a file states what differs. All problems of a file are
//! reported at once.

mod problems;
mod read;

use dora_core::tracker::{Threshold, TrackerSpec};
use dora_data::{augment::ViewSpec, crop::CropSpec, sampler::ClipSpec};
use dora_model::{Arch, TrackerLayer};
use serde::{Deserialize, Serialize};

pub use dora_recipe::RecipeError;
pub use read::Differences;

use crate::span::Span;

/// Everything that defines a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What the student learns from.
    pub method: MethodSection,
    /// How objects are found and followed.
    pub tracker: TrackerSection,
    /// Encoder and head.
    pub model: ModelSection,
    /// Videos and how they are stored.
    pub data: DataSection,
    /// The shape of a clip in time.
    pub clip: ClipSpec,
    /// The crop of a whole clip that the loader decodes to.
    pub crop: CropSpec,
    /// Global views and local crops.
    pub views: ViewSpec,
    /// Optimisation.
    pub train: TrainSection,
    /// What a run leaves behind.
    pub output: OutputSection,
    /// How the teacher is judged while it trains.
    pub monitor: MonitorSection,
}

/// `[method]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodSection {
    /// `dora`, or the baseline `dino` on the same clips (two views, no tracker).
    pub name: MethodName,
    /// How DoRA's cross-entropies are put together; `dino` has its own rule.
    pub loss: LossName,
    /// Objects tracked in a clip: heads drawn for each batch.
    pub objects: i64,
    /// Divides the student's logits.
    pub student_temp: f64,
    /// Divides the teacher's centred logits.
    pub teacher_temp: f64,
    /// The teacher's temperature at the first step where there is a warm-up.
    pub warmup_teacher_temp: f64,
    /// How long the teacher's temperature goes from the one to the other, linearly.
    pub warmup_teacher_temp_for: Span,
    /// Weight of the old centre in the new one.
    pub center_momentum: f64,
}

/// `method.name`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// Discover and track.
    Dora,
    /// Self-distillation of whole views (Caron et al. 2021).
    Dino,
}

/// `method.loss`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossName {
    /// The paper's equation.
    Mean,
    /// What the released code computes.
    Released,
}

/// `[tracker]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackerSection {
    /// Which block's attention, queries and keys.
    pub layer: TrackerLayer,
    /// Whether prototypes are refined by Sinkhorn-Knopp.
    pub sinkhorn: bool,
    /// Its regularisation.
    pub eps: f64,
    /// Its rounds.
    pub iterations: usize,
    /// The mean that a patch must exceed.
    pub threshold: Threshold,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Size of the encoder.
    pub arch: Arch,
    /// Side of a patch.
    pub patch_px: i64,
    /// Side of the image that the position embedding is learned for.
    pub image_px: i64,
    /// Largest rate of stochastic depth in the student.
    pub drop_path: f64,
    /// Prototypes of the head.
    pub out_dim: i64,
    /// Width of the head's hidden layers.
    pub hidden_dim: i64,
    /// Width of the head before its prototypes.
    pub bottleneck_dim: i64,
    /// Whether the scales of the last layer stay 1.
    pub norm_last_layer: bool,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Video files, folders of images, or `toy-walk`, the built-in rendered walk.
    pub videos: Vec<String>,
    /// Short side of the stored frames; smaller videos keep their size.
    pub short_side_px: u32,
    /// JPEG quality of the stored frames.
    pub jpeg_quality: u8,
    /// Threads that decode; 0 is one for each core.
    pub threads: usize,
    /// Batches decoded ahead.
    pub prefetch_batches: usize,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Length of the run.
    pub length: Span,
    /// Clips in a batch of one process.
    pub clips: usize,
    /// Batches of one process whose gradients are added up for one step.
    pub gradient_accumulation_steps: usize,
    /// In what gradients travel between processes.
    pub gradient_compression: GradientCompression,
    /// Blocks of the student, from the first on, that keep nothing for backward but their input and are
    /// computed again in it (activation checkpointing): less memory and up to a third more time, for
    /// ViT-B, small patches or many clips; 0 for none.
    pub checkpoint_blocks: usize,
    /// Learning rate for 256 clips a step over all processes; scaled linearly with their number.
    pub lr: f64,
    /// Learning rate that the cosine ends at; not scaled.
    pub lr_end: f64,
    /// Linear warm-up of the learning rate from 0.
    pub lr_warmup: Span,
    /// Weight decay at the start.
    pub weight_decay: f64,
    /// Weight decay at the end, by a cosine.
    pub weight_decay_end: f64,
    /// Momentum of the teacher at the start.
    pub momentum: f64,
    /// Momentum of the teacher at the end, by a cosine.
    pub momentum_end: f64,
    /// Norm to which every tensor's gradient is clipped on its own.
    pub clip_grad: f64,
    /// How long the head's last layer keeps its values.
    pub freeze_last_layer: Span,
    /// What everything random is drawn from.
    pub seed: u64,
    /// Precision of the encoders.
    pub precision: Precision,
    /// Keeps tokens between blocks in that precision too: norms and sums move half the bytes, and round.
    pub autocast_tokens: bool,
    /// Computes the projection heads in that precision too, as the released code does; the loss stays in
    /// float32.
    pub autocast_head: bool,
    /// Where to train: `auto`, `cpu` or `cuda`.
    pub device: DeviceName,
}

/// `train.gradient_compression`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientCompression {
    /// In float32.
    None,
    /// In bfloat16: half the bytes, averages rounded to 8 binary digits.
    Bfloat16,
}

/// `train.precision`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bfloat16 where the device multiplies it natively, else float32.
    Auto,
    /// Everything in float32.
    Float32,
    /// Encoders under autocast in bfloat16; head, loss and tracker in float32.
    Bfloat16,
    /// Encoders under autocast in float16 with a loss scale, for GPUs without bfloat16.
    Float16,
}

/// `train.device`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceName {
    /// The GPU when there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU.
    Cuda,
}

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputSection {
    /// The run's folder.
    pub run_dir: String,
    /// How often a checkpoint is saved; the last two are kept.
    pub checkpoint_every: Span,
    /// How often a checkpoint is kept for good.
    pub keep_every: Span,
    /// How often the tracks of a clip are drawn.
    pub tracks_every: Span,
}

/// `[monitor]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorSection {
    /// How often the teacher is judged; also before the first step and after the last.
    pub every: Span,
    /// Folder with train/CLASS/IMAGE and val/CLASS/IMAGE for k-NN; empty for none.
    pub knn: String,
    /// Number of neighbours.
    pub knn_k: i64,
    /// Side of the square that the encoder sees of an image; 0 is `model.image_px`.
    pub image_px: i64,
    /// Folder with JPEGImages, Annotations and ImageSets for label propagation; empty for none.
    pub davis: String,
    /// Short side that its frames are scaled to.
    pub davis_short_side_px: i64,
}

impl Default for MethodSection {
    fn default() -> Self {
        Self {
            name: MethodName::Dora,
            loss: LossName::Mean,
            objects: 3,
            student_temp: 0.1,
            teacher_temp: 0.04,
            warmup_teacher_temp: 0.04,
            warmup_teacher_temp_for: Span::Steps(0),
            center_momentum: 0.9,
        }
    }
}

impl Default for TrackerSection {
    fn default() -> Self {
        let TrackerSpec { eps, iterations, sinkhorn, threshold } = TrackerSpec::default();
        Self { layer: TrackerLayer::Last, sinkhorn, eps, iterations, threshold }
    }
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            arch: Arch::VitSmall,
            patch_px: 16,
            image_px: 224,
            drop_path: 0.1,
            out_dim: 65536,
            hidden_dim: 2048,
            bottleneck_dim: 256,
            norm_last_layer: false,
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            videos: Vec::new(),
            short_side_px: 576,
            jpeg_quality: 90,
            threads: 0,
            prefetch_batches: 2,
        }
    }
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            length: Span::Epochs(100.0),
            clips: 16,
            gradient_accumulation_steps: 1,
            gradient_compression: GradientCompression::None,
            checkpoint_blocks: 0,
            lr: 5e-4,
            lr_end: 1e-5,
            lr_warmup: Span::Epochs(10.0),
            weight_decay: 0.04,
            weight_decay_end: 0.4,
            momentum: 0.996,
            momentum_end: 1.0,
            clip_grad: 3.0,
            freeze_last_layer: Span::Epochs(1.0),
            seed: 0,
            precision: Precision::Auto,
            autocast_tokens: false,
            autocast_head: false,
            device: DeviceName::Auto,
        }
    }
}

impl Default for OutputSection {
    fn default() -> Self {
        Self {
            run_dir: String::new(),
            checkpoint_every: Span::Steps(1000),
            keep_every: Span::Epochs(20.0),
            tracks_every: Span::Steps(1000),
        }
    }
}

impl Default for MonitorSection {
    fn default() -> Self {
        Self {
            every: Span::Steps(1000),
            knn: String::new(),
            knn_k: 20,
            image_px: 0,
            davis: String::new(),
            davis_short_side_px: 480,
        }
    }
}

impl MonitorSection {
    /// Whether there is anything to judge by.
    pub fn is_on(&self) -> bool {
        !self.knn.is_empty() || !self.davis.is_empty()
    }
}
