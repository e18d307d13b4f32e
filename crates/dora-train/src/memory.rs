//! How much memory a step takes, estimated from the sizes.

use dora_model::{NetworkConfig, StateDict};

use crate::{plan::StepImages, recipe::Recipe};

const FLOAT32_BYTES: i64 = 4;

/// Bytes that a step needs, by what holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Student, teacher, gradients and both moments.
    pub parameters: i64,
    /// What the student keeps of its blocks for the backward pass.
    pub activations: i64,
    /// Logits of teacher and student, and what the loss makes of them.
    pub logits: i64,
    /// Global views and local crops.
    pub views: i64,
}

impl MemoryEstimate {
    /// The estimate for a step of one process.
    pub fn new(
        recipe: &Recipe,
        config: &NetworkConfig,
        weights: &StateDict,
        is_low_precision: bool,
    ) -> Self {
        const COPIES: i64 = 5;
        // A block keeps its input, both norms' outputs, queries, keys and values, the attention's
        // output, and twice the hidden layer: before and after GELU. Autocast keeps products in two
        // bytes, the residual stream in four.
        let (residual, products) = (3, 5 + 2 * config.vit.mlp_ratio);
        let product_bytes = if is_low_precision { 2 } else { FLOAT32_BYTES };
        let token_bytes = config.vit.width * (residual * FLOAT32_BYTES + products * product_bytes);
        let input_bytes = config.vit.width * FLOAT32_BYTES;
        let recomputed = recipe.train.checkpoint_blocks as i64;

        let images = StepImages::new(recipe);
        let (global_px, local_px) =
            (i64::from(recipe.views.global_px), i64::from(recipe.views.local_px));
        let tokens = |px: i64| (px / config.vit.patch_px).pow(2) + 1;
        let pixels = |px: i64| 3 * px * px * FLOAT32_BYTES;
        let student = images.student_global + images.student_local;
        let [global_tokens, local_tokens] =
            [(images.student_global, global_px), (images.student_local, local_px)]
                .map(|(images, px)| images * tokens(px));
        // While backward computes a block again, all of it is there for the images of one size.
        let at_once = if recomputed > 0 { global_tokens.max(local_tokens) } else { 0 };
        Self {
            parameters: COPIES * FLOAT32_BYTES * weights.numel() as i64,
            activations: (global_tokens + local_tokens)
                * ((config.vit.depth - recomputed) * token_bytes + recomputed * input_bytes)
                + at_once * token_bytes,
            // Student: logits, divided by the temperature, and their gradient.
            logits: (3 * student + 2 * images.teacher) * config.head.out_dim * FLOAT32_BYTES,
            // Those of the next batch are made meanwhile.
            views: 2
                * (images.teacher * pixels(global_px) + images.student_local * pixels(local_px)),
        }
    }

    /// All of it.
    pub fn total(&self) -> i64 {
        self.parameters + self.activations + self.logits + self.views
    }
}
