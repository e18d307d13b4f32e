//! Mixed precision: `torch.autocast` for the CPU and for CUDA.

use std::{ffi::c_void, marker::PhantomData};

use tch::{Device, Kind};

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

impl AutocastDtype {
    /// The dtype of tensors in it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float16 => Kind::Half,
            Self::BFloat16 => Kind::BFloat16,
        }
    }
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

/// Runs `body` without autocast, in a region or not: operations take their tensors in the dtypes that they
/// have, as autocast itself runs its kernels.
pub fn without_autocast<T>(body: impl FnOnce() -> T) -> T {
    /// Puts back what was before, also if `body` panics.
    struct Suspended(*mut c_void);
    impl Drop for Suspended {
        fn drop(&mut self) {
            // SAFETY: a guard of this thread, ended once.
            unsafe { ffi::te_autocast_resume(self.0) };
        }
    }
    // SAFETY: sets flags of this thread, which the guard puts back.
    let _suspended = Suspended(unsafe { ffi::te_autocast_suspend() });
    body()
}
