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

/// The loss of a batch.
///
/// * `probs_VBTD`: the teacher's answers for the global views, from [`teacher_probs`];
/// * `global_VKBTD`: student logits for each view masked by each object (`K = 1` and no mask with
///   `Pairs`);
/// * `local_LBTD`: student logits for the local crops of each frame;
/// * logits are divided by `student_temp`.
///
/// With two views the student's answer for one is compared with the teacher's for the other; with
/// one view, for the same. Local crops are compared with the answers for all views. `Released`
/// takes one view and at least two local crops.
pub fn cross_entropy_loss(
    probs_VBTD: &Tensor,
    global_VKBTD: &Tensor,
    local_LBTD: &Tensor,
    student_temp: f64,
    reduction: Reduction,
) -> Loss {
    // Cross-entropy is linear in the target, so the mean over several targets is one cross-entropy
    // with their mean: flipping the (at most two) views pairs each with the other.
    let targets_VBTD = probs_VBTD.flip([0]);
    let mean_target_BTD = probs_VBTD.mean_dim([0].as_slice(), false, None::<Kind>);
    let global_VKBT = cross_entropy(&targets_VBTD.unsqueeze(1), &(global_VKBTD / student_temp));
    let local_LBT = cross_entropy(&mean_target_BTD.unsqueeze(0), &(local_LBTD / student_temp));

    let crops = local_LBT.size()[0];
    let (total, local_LBT) = match reduction {
        Reduction::Mean => {
            (0.5 * (global_VKBT.mean(None) + local_LBT.mean(None)), local_LBT.shallow_clone())
        }
        Reduction::Pairs => {
            let pairs = (1 + crops) as f64;
            let total = (global_VKBT.mean(None) + local_LBT.mean(None) * crops as f64) / pairs;
            (total, local_LBT.shallow_clone())
        }
        Reduction::Released => {
            let counted = local_LBT.narrow(0, 1, crops - 1);
            (released_total(&global_VKBT, &counted), counted)
        }
    };
    let teacher_entropy = entropy(probs_VBTD).mean(None);
    let global = global_VKBT.detach().mean(None);
    let kl = &global - &teacher_entropy;
    Loss { total, global, local: local_LBT.detach().mean(None), teacher_entropy, kl }
}

/// The next centre: `momentum * center + (1 - momentum) * batch_mean`, where `batch_mean_1D` is the
/// mean of the teacher's logits over views, frames, clips and all ranks.
pub fn next_center(center_1D: &Tensor, batch_mean_1D: &Tensor, momentum: f64) -> Tensor {
    center_1D * momentum + batch_mean_1D * (1.0 - momentum)
}

/// `F_j = (F_{j-1} + S_j) / T` for each object `j`, with `S_j` the frames' sum; the mean of all `F`.
fn released_total(global_VKBT: &Tensor, local_LBT: &Tensor) -> Tensor {
    let objects_KT = global_VKBT.squeeze_dim(0).mean_dim([1].as_slice(), false, None::<Kind>);
    let local_T = local_LBT.mean_dim([0, 1].as_slice(), false, None::<Kind>);
    let halves_KT: Tensor = (objects_KT + local_T.unsqueeze(0)) * 0.5;
    let sums_K = halves_KT.sum_dim_intlist([1].as_slice(), false, None::<Kind>);
    let frames = local_LBT.size()[2] as f64;
    let mut running = Tensor::zeros_like(&sums_K.get(0));
    let mut total = running.shallow_clone();
    let objects = sums_K.size()[0];
    for object in 0..objects {
        running = (running + sums_K.get(object)) / frames;
        total = total + &running;
    }
    total / objects as f64
}

/// `H(p, softmax(logits))` over the last dimension, as `logsumexp(logits) - <p, logits>`: the
/// log-probabilities themselves, as large as the logits, are never made.
fn cross_entropy(probs: &Tensor, logits: &Tensor) -> Tensor {
    logits.logsumexp([-1].as_slice(), false) - dot(probs, logits)
}

fn entropy(probs: &Tensor) -> Tensor {
    -(probs * probs.clamp_min(1e-30).log()).sum_dim_intlist([-1].as_slice(), false, None::<Kind>)
}

/// Inner products over the last dimension, as matrix products so that no product tensor is made.
fn dot(probs: &Tensor, logits: &Tensor) -> Tensor {
    probs.unsqueeze(-2).matmul(&logits.unsqueeze(-1)).squeeze_dim(-1).squeeze_dim(-1)
}
