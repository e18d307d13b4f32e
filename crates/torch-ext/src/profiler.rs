//! What ran while a function did: `torch.profiler`, whose engine (Kineto) is part of libtorch.

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path};

use tch::Device;

use crate::{TorchError, ffi, ffi::check};

/// Runs `body` and writes what it did into `trace`, a file in Chrome's trace format (Perfetto and
/// `chrome://tracing` show it): libtorch's operators and, with a GPU as `device`, its kernels, copies and
/// the CUDA calls behind them, in microseconds.
///
/// Recorded are operators of this thread, and of the thread that runs its backward passes. A `body` that
/// leaves work on a GPU waits for it itself, or what is still to run is missing. The file is checked by
/// nobody here: Kineto reports an unwritable one on standard error alone.
///
/// # Errors
/// A profile is being taken already; the path holds a NUL byte; whatever `body` says.
pub fn profile<T, E: From<TorchError>>(
    device: Device,
    trace: &Path,
    body: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let operation = "profile";
    let path = CString::new(trace.as_os_str().as_bytes()).map_err(|_| TorchError {
        operation,
        message: format!("{} holds a NUL character", trace.display()),
    })?;
    // SAFETY: takes a flag.
    check(operation, unsafe { ffi::te_profiler_start(i32::from(device.is_cuda())) })?;
    let outcome = body();
    // SAFETY: a NUL-terminated path that lives through the call.
    let stopped = check(operation, unsafe { ffi::te_profiler_stop(path.as_ptr()) });
    let value = outcome?;
    stopped?;
    Ok(value)
}
