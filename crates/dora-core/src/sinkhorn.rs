//! Sinkhorn-Knopp: the assignment of patches to objects with both marginals uniform.

use tch::{Kind, Tensor};

/// The transport plan between patches and objects for `scores_BNK`, by `iterations` rounds (at
/// least 1) of Sinkhorn-Knopp on the kernel `exp(scores / eps)`.
///
/// Each round scales every object's column to a total of `1/K`, then every patch's row to `1/N`;
/// the result is multiplied by `N`, so that a patch's weights over the objects sum to 1. Returns
/// `plan_BNK` in the dtype of the scores.
///
/// The kernel itself is never made: in float32 `exp` loses all of an object's patches as soon as
/// scores span more than about `100 * eps`, and the plain iteration then divides zero by zero.
/// Logarithms give the same plan wherever the plain form is finite: scaling a column is subtracting
/// its log-sum-exp, which is one log-softmax. The totals `1/K` and `1/N` are constants that the next
/// log-softmax takes out again, so that only the last row's matters, and `N` cancels it.
pub fn sinkhorn_knopp(scores_BNK: &Tensor, eps: f64, iterations: usize) -> Tensor {
    let mut log_plan_BNK = scores_BNK / eps;
    for _ in 0..iterations {
        log_plan_BNK = log_plan_BNK.log_softmax(1, None::<Kind>).log_softmax(2, None::<Kind>);
    }
    log_plan_BNK.exp()
}
