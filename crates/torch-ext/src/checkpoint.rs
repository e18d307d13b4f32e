//! Activation checkpointing (Chen et al. 2016): `torch.utils.checkpoint`.

use std::{
    any::Any,
    ffi::{c_char, c_void},
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::{
    TorchError,
    ffi::{self, check, handles},
};

/// Computes `forward(input)` and keeps nothing of it for the backward pass but `input`: backward computes
/// it again, under the autocast of now, before it takes its gradients.
///
/// `params` are the other tensors that `forward` uses and that get gradients; they and `input` require
/// gradients and take part in the output. `forward` draws nothing at random. libtorch's own threads may call it.
///
/// # Errors
/// libtorch refused, or `forward` panicked; in the backward pass that is an error of the call that began it.
pub fn checkpoint<F>(input: &Tensor, params: &[&Tensor], forward: F) -> Result<Tensor, TorchError>
where
    F: Fn(&Tensor) -> Tensor + Send + 'static,
{
    let params = handles(params);
    let data = Box::into_raw(Box::new(forward)).cast::<c_void>();
    let mut output = std::ptr::null_mut();
    // SAFETY: `call` and `drop_box` are those of the type behind `data`, which is theirs from here on and
    // freed once, by `drop_box`; a live tensor and an array of live tensors; on success `output` is ours.
    let error = unsafe {
        ffi::te_checkpoint(
            call::<F>,
            drop_box::<F>,
            data,
            input.as_ptr().cast_mut(),
            params.as_ptr(),
            params.len(),
            &mut output,
        )
    };
    check("checkpoint", error)?;
    // SAFETY: see above.
    Ok(unsafe { Tensor::from_ptr(output) })
}

/// Calls the closure behind `data`; what it panics with becomes the text in `error`.
unsafe extern "C" fn call<F: Fn(&Tensor) -> Tensor>(
    data: *const c_void,
    input: *const C_tensor,
    error: *mut c_char,
    error_size: usize,
) -> *mut C_tensor {
    // SAFETY: the closure lives until `drop_box`, and no other thread calls it meanwhile. The input is
    // borrowed: a handle that is not dropped here.
    let (forward, input) =
        unsafe { (&*data.cast::<F>(), ManuallyDrop::new(Tensor::from_ptr(input.cast_mut()))) };
    match catch_unwind(AssertUnwindSafe(|| forward(&input))) {
        Ok(output) => ManuallyDrop::new(output).as_ptr().cast_mut(),
        Err(panic) => {
            let text = message(&*panic).as_bytes();
            // SAFETY: as many bytes as the caller says.
            let error = unsafe { slice::from_raw_parts_mut(error.cast::<u8>(), error_size) };
            let length = text.len().min(error_size.saturating_sub(1));
            error[..length].copy_from_slice(&text[..length]);
            error[length] = 0;
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn drop_box<F>(data: *mut c_void) {
    // SAFETY: from `Box::into_raw`, and freed once.
    drop(unsafe { Box::from_raw(data.cast::<F>()) });
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a text",
    }
}
