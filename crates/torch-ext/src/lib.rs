//! What tch lacks, as thin safe wrappers over symbols that libtorch exports, and over the allocator that
//! its tensors on the CPU use.
//!
//! The one crate of the workspace with C++, and with `unsafe` code for it. Names follow PyTorch's; every C++
//! exception becomes a [`TorchError`].
#![allow(unsafe_code)]

mod autocast;
mod checkpoint;
mod cuda;
mod distributed;
mod ffi;
mod host_buffer;
mod lists;
mod profiler;
mod stream;
mod transfers;

pub use autocast::{Autocast, AutocastDtype, CastWeights, without_autocast};
pub use checkpoint::checkpoint;
pub use cuda::{
    cuda_peak_memory_bytes, cuda_reset_peak_memory, cuda_set_device, cuda_uuid,
    has_expandable_segments,
};
pub use distributed::{ProcessGroup, ReduceOp, Reducer, TcpStore};
pub use host_buffer::HostBuffer;
pub use lists::{
    AdamW, AdamWLists, AdamWSlot, clear_grads, clip_grad_norm_each, fused_adamw, lerp_each,
    update_loss_scale,
};
pub use profiler::profile;
pub use stream::{Event, Stream, StreamGuard, record_stream};
pub use transfers::{ReadBack, Transfers, count_transfers};

/// An exception that libtorch threw, with the text that it gave.
#[derive(Debug, thiserror::Error)]
#[error("libtorch failed in {operation}: {message}")]
pub struct TorchError {
    operation: &'static str,
    message: String,
}

/// Loads libtorch's CUDA kernels, which the linker leaves out because nothing names their symbols.
///
/// Call it before the first use of a CUDA device. The allocator there gets expandable segments, unless
/// `PYTORCH_ALLOC_CONF` or `PYTORCH_CUDA_ALLOC_CONF` says what it shall do. Returns whether the library was there; a libtorch
/// without it serves the CPU only.
pub fn load_cuda() -> bool {
    // SAFETY: dlopen runs the library's own initialisers, which libtorch is built for.
    unsafe { ffi::te_load_cuda() != 0 }
}

/// Lets the C library keep memory that tensors on the CPU have left, instead of giving it back.
///
/// A training step frees what the next one asks for again: memory that went back to the system in
/// between must be cleared page by page. Call it once, at the start of a process that trains.
pub fn keep_freed_memory() {
    // SAFETY: sets two parameters of the allocator, which locks them itself.
    unsafe { ffi::te_keep_freed_memory() }
}
