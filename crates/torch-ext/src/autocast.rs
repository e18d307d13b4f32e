//! Mixed precision: `torch.autocast` for the CPU and for CUDA.

use std::marker::PhantomData;

use tch::{Device, Tensor};

use crate::{TorchError, ffi};

/// The precisions that autocast knows, with libtorch's numbers for them (`c10::ScalarType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum AutocastDtype {
    /// float16, whose gradients need a loss scale.
    Float16 = 5,
    /// bfloat16.
    BFloat16 = 15,
}

/// A region in which libtorch runs matrix products in a lower precision and reductions in float32.
///
/// As `torch.autocast(device, dtype)`: it holds for the thread that opened it, until it is dropped;
/// regions nest.
#[derive(Debug)]
pub struct Autocast {
    is_cuda: i32,
    was_enabled: i32,
    old_dtype: i32,
    /// The mode belongs to the thread, so the region must not leave it.
    _not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Opens a region for `device` that computes in `dtype`.
    pub fn enter(device: Device, dtype: AutocastDtype) -> Result<Self, TorchError> {
        let is_cuda = i32::from(device.is_cuda());
        let (mut was_enabled, mut old_dtype) = (0, 0);
        // SAFETY: both out-pointers live through the call.
        let error = unsafe {
            ffi::te_autocast_enter(is_cuda, dtype as i32, &mut was_enabled, &mut old_dtype)
        };
        ffi::check("autocast", error)?;
        Ok(Self { is_cuda, was_enabled, old_dtype, _not_send: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain integers; an error cannot be given back from here and leaves the mode on,
        // which changes precision, never memory.
        let error =
            unsafe { ffi::te_autocast_exit(self.is_cuda, self.was_enabled, self.old_dtype) };
        let _ = ffi::check("autocast", error);
    }
}

/// Keeps the weights that autocast casts from one [`Autocast`] region to the next on this thread, until
/// it is dropped: drop it before they change.
#[derive(Debug)]
pub struct CastWeights(PhantomData<*const ()>);

impl CastWeights {
    /// From here on.
    pub fn keep() -> Self {
        // SAFETY: counts a number of this thread up.
        unsafe { ffi::te_autocast_hold() };
        Self(PhantomData)
    }
}

impl Drop for CastWeights {
    fn drop(&mut self) {
        // SAFETY: counts the number down again, and frees cast weights at zero.
        unsafe { ffi::te_autocast_release() }
    }
}

/// `tensor + factor * other` in the dtype that the three have in common, also in an [`Autocast`] region:
/// there libtorch would first make copies of them in that dtype.
pub fn addcmul_as_is(
    tensor: &Tensor,
    factor: &Tensor,
    other: &Tensor,
) -> Result<Tensor, TorchError> {
    let mut sum = std::ptr::null_mut();
    // SAFETY: three live tensor handles; on success `sum` is a new tensor that we own.
    let error = unsafe {
        ffi::te_addcmul_as_is(
            tensor.as_ptr().cast_mut(),
            factor.as_ptr().cast_mut(),
            other.as_ptr().cast_mut(),
            &mut sum,
        )
    };
    ffi::check("addcmul", error)?;
    // SAFETY: see above.
    Ok(unsafe { Tensor::from_ptr(sum) })
}
