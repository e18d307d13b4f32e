//! The cross-entropy between what the teacher says of whole frames and the student of objects and
//! crops (paper, equations 7 and 8; Caron et al. 2021 for the self-distillation).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How the cross-entropies of a batch are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Objects and local crops weigh one half each, averaged over frames (one or two views).
    Mean,
    /// What the released code computes with one view: the first local crop is left out, and the
    /// running sum over frames is divided by their number after each object and not reset.
    Released,
    /// DINO's: every pair of a teacher view and another student view weighs the same.
    Pairs,
}

/// The loss of a batch and the figures that tell how it is made up; scalars with gradient only in
/// `total`.
#[derive(Debug)]
pub struct Loss {
    /// What training minimises.
    pub total: Tensor,
    /// Mean cross-entropy of the student's global part: objects, or the other view with `Pairs`.
    pub global: Tensor,
    /// Mean cross-entropy of the local crops that count.
    pub local: Tensor,
    /// Mean entropy of the teacher's answers.
    pub teacher_entropy: Tensor,
    /// Mean Kullback-Leibler divergence from teacher to student over the global part.
    pub kl: Tensor,
}

/// The teacher's answers: `softmax((logits - center) / temp)` over the last dimension.
pub fn teacher_probs(logits: &Tensor, center: &Tensor, temp: f64) -> Tensor {
    ((logits - center) / temp).softmax(-1, None::<Kind>)
}

/// The entropy of answers over their last dimension.
pub fn entropy(probs: &Tensor) -> Tensor {
    -(probs * probs.clamp_min(1e-30).log()).sum_dim_intlist([-1].as_slice(), false, None::<Kind>)
}

/// The loss of a batch.
///
/// * `probs_VBTD`: the teacher's answers for the global views, from [`teacher_probs`];
/// * `global_VBTKD`: student logits for each frame masked by each object (with `Pairs`: `K = 1`,
///   the whole frame);
/// * `local_BTLD`: student logits for the local crops of each frame;
/// * both are divided by the student's temperature already.
///
/// With two views the student's answer for one is compared with the teacher's for the other; with
/// one view, for the same. Local crops are compared with the answers for all views. `Released`
/// takes one view and at least two local crops.
pub fn cross_entropy_loss(
    probs_VBTD: &Tensor,
    global_VBTKD: &Tensor,
    local_BTLD: &Tensor,
    reduction: Reduction,
) -> Loss {
    // Cross-entropy is linear in the target, so the mean over several targets is one cross-entropy
    // with their mean; flipping the (at most two) views pairs each with the other.
    let other_view_VBTD = probs_VBTD.flip([0]);
    let all_views_BTD = probs_VBTD.mean_dim([0].as_slice(), false, None::<Kind>);
    let global_VBTK = cross_entropy(&other_view_VBTD, global_VBTKD);
    let local_BTL = cross_entropy(&all_views_BTD, local_BTLD);

    let crops = local_BTL.size()[2];
    let counted_BTL = match reduction {
        Reduction::Released => local_BTL.narrow(2, 1, crops - 1),
        Reduction::Mean | Reduction::Pairs => local_BTL,
    };
    let (global, local) = (global_VBTK.mean(None), counted_BTL.mean(None));
    let total = match reduction {
        Reduction::Mean => (&global + &local) * 0.5,
        Reduction::Pairs => (&global + &local * crops as f64) / (1 + crops) as f64,
        Reduction::Released => released_total(&global_VBTK, &counted_BTL),
    };
    let teacher_entropy = entropy(probs_VBTD).mean(None);
    let (global, local) = (global.detach(), local.detach());
    let kl = &global - &teacher_entropy;
    Loss { total, global, local, teacher_entropy, kl }
}

/// The next centre: `momentum * center + (1 - momentum) * batch_mean`, where `batch_mean_1D` is the
/// mean of the teacher's logits over views, frames, clips and all ranks.
pub fn next_center(center_1D: &Tensor, batch_mean_1D: &Tensor, momentum: f64) -> Tensor {
    center_1D * momentum + batch_mean_1D * (1.0 - momentum)
}

/// `F_j = (F_{j-1} + S_j) / T` for each object `j`, with `S_j` the frames' sum; the mean of all `F`.
fn released_total(global_VBTK: &Tensor, local_BTL: &Tensor) -> Tensor {
    let objects_TK = global_VBTK.squeeze_dim(0).mean_dim([0].as_slice(), false, None::<Kind>);
    let local_T1 = local_BTL.mean_dim([0, 2].as_slice(), false, None::<Kind>).unsqueeze(1);
    let (frames, objects) = objects_TK.size2().expect("two dimensions are left");
    let sums_K = (objects_TK + local_T1).sum_dim_intlist([0].as_slice(), false, None::<Kind>) * 0.5;
    let mut running = sums_K.get(0).zeros_like();
    let mut total = running.shallow_clone();
    for object in 0..objects {
        running = (running + sums_K.get(object)) / frames as f64;
        total += &running;
    }
    total / objects as f64
}

/// `H(p, softmax(logits))` of targets `[..., D]` and logits `[..., M, D]`, as
/// `logsumexp(logits) - <p, logits>`: log-probabilities are never made. Returns `[..., M]`.
fn cross_entropy(probs: &Tensor, logits: &Tensor) -> Tensor {
    // Not a batched product of matrices with one column, for which GPUs have no good kernels.
    let dot = (logits * probs.unsqueeze(-2)).sum_dim_intlist([-1].as_slice(), false, None::<Kind>);
    logits.logsumexp([-1].as_slice(), false) - dot
}
