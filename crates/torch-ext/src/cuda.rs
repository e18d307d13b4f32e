//! What torch.cuda sets and tells and tch does not: the process's GPU and its memory.
//!
//! Nothing here needs the feature `cuda`; [`load_cuda`](crate::load_cuda) comes first.

use crate::{TorchError, ffi, ffi::check};

/// Makes GPU `device_index`, counted from 0 among those that are visible, the one that this thread
/// uses where none is named (`torch.cuda.set_device`). A process that shares a machine calls it before
/// anything else touches a GPU, or it would also take memory on the first one.
///
/// # Errors
/// There is no such GPU.
pub fn cuda_set_device(device_index: usize) -> Result<(), TorchError> {
    // SAFETY: takes a number; any value gives an error at worst.
    check("set_device", unsafe { ffi::te_cuda_set_device(index(device_index)) })
}

/// The UUID of GPU `device_index`, by which processes can tell whether they share one (`nvidia-smi -L`
/// prints it); of a part of a GPU (MIG) its own.
///
/// # Errors
/// There is no such GPU, or the driver does not say.
pub fn cuda_uuid(device_index: usize) -> Result<[u8; 16], TorchError> {
    let mut uuid = [0; 16];
    // SAFETY: a place of 16 bytes to write to.
    check("cuDeviceGetUuid", unsafe { ffi::te_cuda_uuid(index(device_index), uuid.as_mut_ptr()) })?;
    Ok(uuid)
}

/// Whether libtorch's allocator on GPUs may grow its segments (`expandable_segments`), by
/// [`load_cuda`](crate::load_cuda) or by what the user has set.
pub fn has_expandable_segments() -> bool {
    // SAFETY: reads a flag.
    unsafe { ffi::te_expandable_segments() != 0 }
}

/// The most bytes that tensors held at once on GPU `device_index` since the start or the last
/// [`cuda_reset_peak_memory`] (`torch.cuda.max_memory_allocated`); `None` where there is no such GPU.
pub fn cuda_peak_memory_bytes(device_index: usize) -> Option<i64> {
    let mut bytes = 0;
    // SAFETY: a place to write to.
    let error = unsafe { ffi::te_cuda_peak_memory(index(device_index), &mut bytes) };
    check("max_memory_allocated", error).ok().map(|()| bytes)
}

/// Starts a new peak for [`cuda_peak_memory_bytes`] at what tensors hold now
/// (`torch.cuda.reset_peak_memory_stats`); nothing to do where there is no such GPU.
pub fn cuda_reset_peak_memory(device_index: usize) {
    // SAFETY: takes a number; any value gives an error at worst.
    let error = unsafe { ffi::te_cuda_reset_peak_memory(index(device_index)) };
    let _ = check("reset_peak_memory_stats", error);
}

/// As libtorch numbers devices; one beyond its numbers is none that it has.
pub(crate) fn index(device_index: usize) -> i32 {
    i32::try_from(device_index).unwrap_or(i32::MAX)
}
