//! Operations over lists of tensors, as the optimisers of PyTorch use them: one call for a whole
//! model, without a synchronisation with the device.

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use crate::{
    TorchError,
    ffi::{self, check, handles},
};

/// The scalars of AdamW (Loshchilov and Hutter 2019) for one group of parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The tensors that one [`fused_adamw`] call works on; all lists have one length and order.
#[derive(Debug, Default)]
pub struct AdamWLists<'a> {
    /// Parameters, changed in place.
    pub params: Vec<&'a Tensor>,
    /// Their gradients.
    pub grads: Vec<&'a Tensor>,
    /// First moments, of the parameters' shapes.
    pub exp_avgs: Vec<&'a Tensor>,
    /// Second moments, of the parameters' shapes.
    pub exp_avg_sqs: Vec<&'a Tensor>,
    /// Step counters: float32 scalars on the parameters' device.
    pub steps: Vec<&'a Tensor>,
}

/// A named parameter and its state in AdamW.
#[derive(Debug)]
pub struct AdamWSlot {
    /// What the parameter is called.
    pub name: String,
    /// The parameter.
    pub param: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
}

impl AdamWSlot {
    /// Of a parameter that has not been updated yet; its storage is shared.
    pub fn new(name: String, param: &Tensor) -> Self {
        let zeros = || param.detach().zeros_like();
        Self {
            name,
            param: param.shallow_clone(),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            step: Tensor::zeros([], (Kind::Float, param.device())),
        }
    }

    /// The state under names of its own, which shares its storage.
    pub fn state(&self) -> [(String, Tensor); 3] {
        let Self { name, exp_avg, exp_avg_sq, step, .. } = self;
        [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("step", step)]
            .map(|(what, tensor)| (format!("{what}.{name}"), tensor.shallow_clone()))
    }
}

impl<'a> AdamWLists<'a> {
    /// Adds a parameter with its gradient.
    pub fn push(&mut self, slot: &'a AdamWSlot, grad: &'a Tensor) {
        self.params.push(&slot.param);
        self.grads.push(grad);
        self.exp_avgs.push(&slot.exp_avg);
        self.exp_avg_sqs.push(&slot.exp_avg_sq);
        self.steps.push(&slot.step);
    }
}

/// One step of `torch.optim.AdamW(fused=True)`; counts every tensor's step up by one first. Where
/// `found_inf`, a float32 scalar on the tensors' device, is 1 rather than 0, nothing changes.
pub fn fused_adamw(
    lists: &AdamWLists,
    group: AdamW,
    found_inf: Option<&Tensor>,
) -> Result<(), TorchError> {
    let n = lists.params.len();
    let [params, grads, exp_avgs, exp_avg_sqs, steps] =
        [&lists.params, &lists.grads, &lists.exp_avgs, &lists.exp_avg_sqs, &lists.steps].map(|l| {
            assert_eq!(l.len(), n, "lists of one length");
            handles(l)
        });
    // SAFETY: five arrays of n live tensor handles, and one more or null.
    let error = unsafe {
        ffi::te_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            n,
            group.lr,
            group.betas.0,
            group.betas.1,
            group.weight_decay,
            group.eps,
            optional(found_inf),
        )
    };
    check("fused_adamw", error)
}

/// Divides each gradient by the loss scale, if there is one, then clips it to `max_norm` on its own:
/// times `max_norm / (norm + eps)` where that is below one. Returns the norms before clipping, `[n]`, on
/// the gradients' device.
pub fn clip_grad_norm_each(
    grads: &[&Tensor],
    max_norm: f64,
    eps: f64,
    loss_scale: Option<&Tensor>,
) -> Result<Tensor, TorchError> {
    let list = handles(grads);
    let mut norms = std::ptr::null_mut();
    // SAFETY: an array of live handles, and a live one or null; on success `norms` is a new tensor that
    // we own.
    let error = unsafe {
        ffi::te_clip_each(
            list.as_ptr(),
            list.len(),
            max_norm,
            eps,
            optional(loss_scale),
            &mut norms,
        )
    };
    check("clip_grad_norm_each", error)?;
    // SAFETY: see above.
    Ok(unsafe { Tensor::from_ptr(norms) })
}

/// Moves every target towards its end, in place: `target += weight * (end - target)`; nothing changes
/// where `found_inf` is 1, as for [`fused_adamw`].
///
/// With `weight = 1 - momentum` this is the moving average that the teacher follows.
pub fn lerp_each(
    targets: &[&Tensor],
    ends: &[&Tensor],
    weight: f64,
    found_inf: &Tensor,
) -> Result<(), TorchError> {
    assert_eq!(targets.len(), ends.len(), "lists of one length");
    let (targets, ends) = (handles(targets), handles(ends));
    // SAFETY: two arrays of n live tensor handles, and one more.
    let error = unsafe {
        ffi::te_lerp_each(
            targets.as_ptr(),
            ends.as_ptr(),
            targets.len(),
            weight,
            found_inf.as_ptr().cast_mut(),
        )
    };
    check("lerp_each", error)
}

/// The rule of `torch.amp.GradScaler`: multiplies `scale` by `backoff` where `found_inf` is 1, and by
/// `growth` after every `growth_interval` steps without, which `good_steps` (int32) counts. All are
/// scalars on one device; `scale` and `found_inf` are float32.
pub fn update_loss_scale(
    scale: &Tensor,
    good_steps: &Tensor,
    found_inf: &Tensor,
    growth: f64,
    backoff: f64,
    growth_interval: i64,
) -> Result<(), TorchError> {
    // SAFETY: three live tensor handles.
    let error = unsafe {
        ffi::te_update_loss_scale(
            scale.as_ptr().cast_mut(),
            good_steps.as_ptr().cast_mut(),
            found_inf.as_ptr().cast_mut(),
            growth,
            backoff,
            growth_interval,
        )
    };
    check("update_loss_scale", error)
}

/// Drops the gradients of the parameters, as `zero_grad(set_to_none=True)`.
pub fn clear_grads(params: &[&Tensor]) -> Result<(), TorchError> {
    let params = handles(params);
    // SAFETY: an array of live tensor handles.
    let error = unsafe { ffi::te_clear_grads(params.as_ptr(), params.len()) };
    check("clear_grads", error)
}

/// The handle of a tensor, or null.
fn optional(tensor: Option<&Tensor>) -> *mut C_tensor {
    tensor.map_or(std::ptr::null_mut(), |tensor| tensor.as_ptr().cast_mut())
}
