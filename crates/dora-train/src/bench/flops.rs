//! Floating-point operations of a step, counted from its shapes; docs/speed.md states the formula.
//!
//! Counted are matrix products, two operations for each multiplication with its addition: what a
//! machine's matrix rate can be compared with. Norms, softmax, GELU, Sinkhorn's rounds, the loss and
//! the optimiser are not, nor is what a step leaves out of an encoder's last block because only its
//! `[CLS]` token is read.

use dora_model::{HeadConfig, NetworkConfig, VitConfig};

use crate::{
    plan::{StepImages, network_config},
    recipe::{MethodName, Recipe},
};

/// Operations of one step of one process, by who does them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepFlops {
    /// The teacher on whole frames, forward.
    pub teacher: f64,
    /// Discovery and tracking.
    pub tracker: f64,
    /// The student on masked frames and local crops, forward and backward.
    pub student: f64,
}

impl StepFlops {
    /// The operations of a recipe's step: all batches whose gradients it adds up.
    pub fn new(recipe: &Recipe) -> Self {
        // A product's gradient takes two more of its size, one for each factor.
        const WITH_BACKWARD: f64 = 3.0;
        // Nothing needs the gradient of pixels.
        const EMBED_WITH_BACKWARD: f64 = 2.0;

        let NetworkConfig { vit, head } = network_config(recipe);
        let images = StepImages::new(recipe);
        let [frames, masked, crops] =
            [images.teacher, images.student_global, images.student_local].map(|n| n as f64);
        let patches = |px: u32| (f64::from(px) / vit.patch_px as f64).powi(2);
        let (global, local) = (patches(recipe.views.global_px), patches(recipe.views.local_px));
        let head = head_flops(&head);
        // A frame is embedded once and its patches are masked afterwards, once for each object.
        let embed = frames * vit.embed_flops(global) + crops * vit.embed_flops(local);
        let encode =
            masked * (vit.cls_flops(global) + head) + crops * (vit.cls_flops(local) + head);
        let watch = match recipe.method.name {
            MethodName::Dora => vit.blocks_flops(vit.depth, global),
            MethodName::Dino => vit.cls_flops(global),
        };
        let batches = recipe.train.gradient_accumulation_steps as f64;
        Self {
            teacher: batches * frames * (vit.embed_flops(global) + watch + head),
            tracker: batches * tracker_flops(recipe, &vit, global),
            student: batches * (EMBED_WITH_BACKWARD * embed + WITH_BACKWARD * encode),
        }
    }

    /// All of them.
    pub fn total(self) -> f64 {
        self.teacher + self.tracker + self.student
    }
}

/// One `[CLS]` token through the head.
fn head_flops(head: &HeadConfig) -> f64 {
    let HeadConfig { in_dim, hidden_dim, bottleneck_dim, out_dim } = *head;
    let products = in_dim * hidden_dim
        + hidden_dim * hidden_dim
        + hidden_dim * bottleneck_dim
        + bottleneck_dim * out_dim;
    2.0 * products as f64
}

/// The objects of a batch.
fn tracker_flops(recipe: &Recipe, vit: &VitConfig, patches: f64) -> f64 {
    if recipe.method.name == MethodName::Dino {
        return 0.0;
    }
    let (width, head_dim) = (vit.width as f64, (vit.width / vit.heads) as f64);
    let frames = recipe.clip.frames_per_clip as f64;
    // Scores of patches against prototypes, and the prototypes that the plan refines.
    let refined = if recipe.tracker.sinkhorn { 2.0 } else { 0.0 };
    // Attention of [CLS] in the drawn heads; prototypes; every frame's keys.
    let an_object = (patches + 1.0) * head_dim + patches * width * (1.0 + refined + frames);
    let clips = recipe.train.clips as f64 * f64::from(recipe.views.views);
    2.0 * clips * recipe.method.objects as f64 * an_object
}
