//! Discover objects in the first frame of a clip and track them through it (paper, section 3).
//!
//! All of it runs without gradient and in the dtype of its input; the caller gives float32.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::sinkhorn_knopp;

/// The most rounds of Sinkhorn-Knopp that a recipe may ask for.
pub const MOST_ITERATIONS: usize = 10_000;

/// How the tracker refines prototypes and turns maps into masks.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TrackerSpec {
    /// Entropic regularisation of Sinkhorn-Knopp.
    pub eps: f64,
    /// Rounds of Sinkhorn-Knopp.
    pub iterations: usize,
    /// Whether prototypes are refined at all; without, the plain prototypes track (the paper's
    /// ablation).
    pub sinkhorn: bool,
    /// What a patch is compared with to belong to an object.
    pub threshold: Threshold,
}

impl Default for TrackerSpec {
    /// The paper's.
    fn default() -> Self {
        Self { eps: 0.05, iterations: 30, sinkhorn: true, threshold: Threshold::Sample }
    }
}

/// The mean that a patch of a map must exceed to belong to the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// Over the maps of one object and frame in the whole batch, as the released code does.
    Batch,
    /// Over the patches of each map alone: a mask does not depend on other clips.
    Sample,
}

/// What the tracker reads from the teacher, for `B` clips of `T` frames.
#[derive(Debug)]
pub struct ClipFeatures {
    /// Attention of the `[CLS]` token to the patches of the first frame, for the drawn heads.
    pub cls_attn_BKN: Tensor,
    /// Patch queries of the first frame before scaling, heads concatenated.
    pub queries_BND: Tensor,
    /// Patch keys of every frame, heads concatenated.
    pub keys_BTND: Tensor,
    /// Patch tokens of the first frame after the final norm.
    pub tokens_BND: Tensor,
}

impl ClipFeatures {
    /// Of what an encoder gives for clips: tokens `[B, T, S, D]` after the final norm, and queries
    /// (before scaling) and keys `[B, T, H, S, E]` of the tracker's block. Each of `head_ids` finds
    /// one object.
    pub fn new(
        tokens_BTSD: &Tensor,
        queries_BTHSE: &Tensor,
        keys_BTHSE: &Tensor,
        head_ids: &[i64],
    ) -> Self {
        let queries_BHSE = queries_BTHSE.select(1, 0);
        Self {
            cls_attn_BKN: cls_attention(&queries_BHSE, &keys_BTHSE.select(1, 0), head_ids),
            queries_BND: patches_of_all_heads(&queries_BHSE),
            keys_BTND: patches_of_all_heads(keys_BTHSE),
            tokens_BND: without_cls(&tokens_BTSD.select(1, 0)),
        }
    }
}

/// The objects of a batch of clips, from discovery to masks.
#[derive(Debug)]
pub struct Tracks {
    /// One query prototype for each drawn head.
    pub prototypes_BKD: Tensor,
    /// The patches' weights over the objects; `None` without Sinkhorn-Knopp.
    pub plan_BNK: Option<Tensor>,
    /// Prototypes refined by the plan; the plain ones without Sinkhorn-Knopp.
    pub refined_BKD: Tensor,
    /// Where each object is in each frame: a distribution over the patches.
    pub maps_BTKN: Tensor,
    /// The maps cut at their threshold: 1 on the object, 0 elsewhere.
    pub masks_BTKN: Tensor,
}

/// Finds `K` objects in the first frame of each clip and follows them through all its frames.
pub fn discover_and_track(features: &ClipFeatures, spec: &TrackerSpec) -> Tracks {
    let prototypes_BKD = features.cls_attn_BKN.matmul(&features.queries_BND);
    let (plan_BNK, refined_BKD) = if spec.sinkhorn {
        let (plan_BNK, refined_BKD) = refine(&prototypes_BKD, &features.tokens_BND, spec);
        (Some(plan_BNK), refined_BKD)
    } else {
        (None, prototypes_BKD.shallow_clone())
    };
    let maps_BTKN = track(&refined_BKD, &features.keys_BTND);
    let masks_BTKN = object_masks(&maps_BTKN, spec.threshold);
    Tracks { prototypes_BKD, plan_BNK, refined_BKD, maps_BTKN, masks_BTKN }
}

/// The `[CLS]` rows of the attention of `head_ids`, softmax over all tokens, patches only.
///
/// Takes queries (before scaling) and keys `[B, H, S, E]` of one frame for each clip; makes no more
/// of the attention than the rows it returns, `[B, K, N]` with `N = S - 1`.
pub fn cls_attention(queries_BHSE: &Tensor, keys_BHSE: &Tensor, head_ids: &[i64]) -> Tensor {
    // By host numbers: an index tensor would have to reach the device first, and the host to wait.
    let drawn = |per_head: &Tensor| {
        let heads: Vec<Tensor> = head_ids.iter().map(|head| per_head.select(1, *head)).collect();
        Tensor::stack(&heads, 1)
    };
    let (cls_BK1E, keys_BKSE) = (drawn(&queries_BHSE.narrow(2, 0, 1)), drawn(keys_BHSE));
    let scale = (width(&cls_BK1E) as f64).sqrt().recip();
    let attn_BKS = (cls_BK1E * scale)
        .matmul(&keys_BKSE.transpose(-2, -1))
        .softmax(-1, None::<Kind>)
        .squeeze_dim(2);
    attn_BKS.narrow(2, 1, attn_BKS.size()[2] - 1)
}

/// `[..., H, S, E]` to `[..., N, D]`: patches only, heads side by side.
pub fn patches_of_all_heads(per_head: &Tensor) -> Tensor {
    without_cls(&per_head.transpose(-3, -2).flatten(-2, -1))
}

/// Refines prototypes to the patches that they win: the plan of Sinkhorn-Knopp over the scores of
/// unit patch tokens against prototypes, and the plan's weighted sums of those tokens.
///
/// Returns `(plan_BNK, refined_BKD)`.
pub fn refine(
    prototypes_BKD: &Tensor,
    tokens_BND: &Tensor,
    spec: &TrackerSpec,
) -> (Tensor, Tensor) {
    let unit_BND = tokens_BND / tokens_BND.norm_scalaropt_dim(2, [-1], true);
    let scores_BNK = unit_BND.matmul(&prototypes_BKD.transpose(1, 2));
    let plan_BNK = sinkhorn_knopp(&scores_BNK, spec.eps, spec.iterations);
    let refined_BKD = plan_BNK.transpose(1, 2).matmul(&unit_BND);
    (plan_BNK, refined_BKD)
}

/// Cross-attention of the prototypes to every frame's patch keys: a softmax over the patches,
/// `maps_BTKN`.
pub fn track(prototypes_BKD: &Tensor, keys_BTND: &Tensor) -> Tensor {
    let scale = (width(keys_BTND) as f64).sqrt().recip();
    (prototypes_BKD * scale)
        .unsqueeze(1)
        .matmul(&keys_BTND.transpose(2, 3))
        .softmax(-1, None::<Kind>)
}

/// Cuts maps of unit L2 norm at the mean that `threshold` names: `masks_BTKN` of zeros and ones, in
/// the dtype of the maps.
pub fn object_masks(maps_BTKN: &Tensor, threshold: Threshold) -> Tensor {
    let unit_BTKN = maps_BTKN / maps_BTKN.norm_scalaropt_dim(2, [-1], true);
    let over: &[i64] = match threshold {
        Threshold::Batch => &[0, 3],
        Threshold::Sample => &[3],
    };
    let mean = unit_BTKN.mean_dim(over, true, None::<Kind>);
    unit_BTKN.greater_tensor(&mean).to_kind(maps_BTKN.kind())
}

/// Frames with everything but the object set to zero, the mean colour of normalised frames.
///
/// `frames_BTCHW` and `masks_BTKN` on the patch grid of `patch_px`; returns `masked_KBTCHW`. The
/// encoder masks patches once they are embedded and never needs this: it states what that must equal.
pub fn mask_frames(frames_BTCHW: &Tensor, masks_BTKN: &Tensor, patch_px: i64) -> Tensor {
    let size = frames_BTCHW.size();
    let (clips, frames, height, width) = (size[0], size[1], size[3], size[4]);
    let objects = masks_BTKN.size()[2];
    let masks_KBT1HW = masks_BTKN
        .reshape([clips, frames, objects, height / patch_px, width / patch_px])
        .repeat_interleave_self_int(patch_px, 3, None)
        .repeat_interleave_self_int(patch_px, 4, None)
        .permute([2, 0, 1, 3, 4])
        .unsqueeze(3);
    frames_BTCHW.unsqueeze(0) * masks_KBT1HW
}

/// `[..., S, D]` to `[..., N, D]`.
fn without_cls(tokens: &Tensor) -> Tensor {
    let tokens_dim = tokens.dim() as i64 - 2;
    tokens.narrow(tokens_dim, 1, tokens.size()[tokens_dim as usize] - 1)
}

fn width(tensor: &Tensor) -> i64 {
    tensor.size().last().copied().unwrap_or(1)
}
