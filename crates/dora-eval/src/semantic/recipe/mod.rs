//! Everything that decides what a head becomes and how it is judged, as a TOML file.
//!
//! Every key has a default, the published protocol's for UperNet on ADE20K; a file states what differs.
//! All problems of a file are reported at once.

mod problems;
mod read;

use serde::{Deserialize, Serialize};

pub use dora_recipe::RecipeError;

/// The whole recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Classes, and the size at which images are looked at.
    pub data: DataSection,
    /// What stands on the encoder.
    pub head: HeadSection,
    /// How training images are varied.
    pub augment: AugmentSection,
    /// Optimisation.
    pub train: TrainSection,
    /// How a trained head is judged.
    pub test: TestSection,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Classes in the order of their indices, `NAME` or `NAME RED GREEN BLUE`, for plain index PNGs
    /// without a `classes.txt` in their folder.
    pub classes: Vec<String>,
    /// The index that means no class, besides 255 and one named `void`; -1 for none.
    pub void: i64,
    /// Box into which images are scaled before anything else, long side; 0 leaves them as they are.
    pub long_px: i64,
    /// The same, short side.
    pub short_px: i64,
    /// Whether a class that no training pixel has is an error.
    pub require_all_classes: bool,
}

/// `[head]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadSection {
    /// Which head.
    pub kind: HeadKind,
    /// The encoder's four blocks that it takes, counted from 0.
    pub blocks: [usize; 4],
    /// Channels inside of UperNet.
    pub channels: i64,
    /// Grids of UperNet's pyramid pooling, cells on a side.
    pub pool_sides: Vec<i64>,
    /// Share of channels that are left out before the last convolution.
    pub dropout: f64,
    /// Weight of the auxiliary head's loss; 0 leaves it out.
    pub auxiliary_weight: f64,
    /// The block that it takes, one of `blocks`.
    pub auxiliary_block: usize,
    /// Channels inside of it.
    pub auxiliary_channels: i64,
}

/// `head.kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One 1x1 convolution over the four blocks, concatenated; no batch norm.
    Linear,
    /// UperNet with a feature pyramid made of the four blocks.
    Upernet,
}

/// `[augment]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentSection {
    /// Least factor of the box of `[data]`.
    pub scale_min: f64,
    /// Largest factor.
    pub scale_max: f64,
    /// Side of the square that is cut out; what lies outside of the image is void.
    pub crop_px: i64,
    /// Largest share of the labelled pixels of a crop that one class may have; ten crops are tried.
    pub cat_max_ratio: f64,
    /// Whether half of the crops are mirrored.
    pub flip: bool,
    /// Whether brightness, contrast, saturation and hue change.
    pub photometric: bool,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Whether the encoder learns with the head.
    pub backbone: BackboneMode,
    /// Steps.
    pub iterations: u64,
    /// Images of a step.
    pub batch: usize,
    /// With 0, a step takes images. Otherwise features of all training images are computed once, as
    /// they are, and a step takes so many patches of them: for the linear head on a frozen encoder.
    pub patches: usize,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Learning rate that the decay ends at.
    pub lr_end: f64,
    /// Steps of linear warm-up.
    pub warmup_iterations: u64,
    /// Exponent of the decay.
    pub poly_power: f64,
    /// AdamW's weight decay; none for biases, norms, `[CLS]` token and position embedding.
    pub weight_decay: f64,
    /// Factor of the learning rate from each block of the encoder to the one before.
    pub layer_decay: f64,
    /// Largest rate of stochastic depth in the encoder.
    pub drop_path: f64,
    /// What everything random is drawn from.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

/// `train.backbone`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneMode {
    /// It stays as it is.
    Frozen,
    /// It learns, too.
    FineTuned,
}

/// `[test]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestSection {
    /// Side of the window that slides over an image; 0 takes images whole.
    pub window_px: i64,
    /// Its step.
    pub stride_px: i64,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            void: -1,
            long_px: 2048,
            short_px: 512,
            require_all_classes: true,
        }
    }
}

impl Default for HeadSection {
    fn default() -> Self {
        Self {
            kind: HeadKind::Upernet,
            blocks: [3, 5, 7, 11],
            channels: 384,
            pool_sides: vec![1, 2, 3, 6],
            dropout: 0.1,
            auxiliary_weight: 0.4,
            auxiliary_block: 7,
            auxiliary_channels: 256,
        }
    }
}

impl Default for AugmentSection {
    fn default() -> Self {
        Self {
            scale_min: 0.5,
            scale_max: 2.0,
            crop_px: 512,
            cat_max_ratio: 0.75,
            flip: true,
            photometric: true,
        }
    }
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            backbone: BackboneMode::FineTuned,
            iterations: 160_000,
            batch: 16,
            patches: 0,
            lr: 6e-5,
            lr_end: 0.0,
            warmup_iterations: 1500,
            poly_power: 1.0,
            weight_decay: 0.05,
            layer_decay: 0.9,
            drop_path: 0.1,
            seed: 0,
            checkpoint_every: 2000,
        }
    }
}

impl Default for TestSection {
    fn default() -> Self {
        Self { window_px: 512, stride_px: 341 }
    }
}

impl TrainSection {
    /// The learning rate of a step, counted from 0: linear warm-up, then polynomial decay to `lr_end`.
    pub fn lr_at(&self, iteration: u64) -> f64 {
        let left = 1.0 - iteration as f64 / self.iterations as f64;
        let decayed = (self.lr - self.lr_end) * left.max(0.0).powf(self.poly_power) + self.lr_end;
        let warmth = (iteration + 1) as f64 / (self.warmup_iterations + 1) as f64;
        decayed * warmth.min(1.0)
    }
}
