//! Declarations of the functions in `cpp/` and the conversion of their errors.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::TorchError;

pub(crate) type List = *const *mut C_tensor;

/// Computes a part of the forward pass: its data, its input, and a text of so many bytes for an error.
pub(crate) type Call =
    unsafe extern "C" fn(*const c_void, *const C_tensor, *mut c_char, usize) -> *mut C_tensor;

/// A `c10d::Store`, only ever behind a pointer.
pub(crate) enum StoreHandle {}

/// A `c10d::ProcessGroup`, only ever behind a pointer.
pub(crate) enum GroupHandle {}

/// A `c10d::Reducer`, only ever behind a pointer.
pub(crate) enum ReducerHandle {}

/// A `c10::Event`, only ever behind a pointer.
pub(crate) enum EventHandle {}

unsafe extern "C" {
    fn te_free_error(message: *mut c_char);
    pub(crate) fn te_load_cuda() -> c_int;
    pub(crate) fn te_expandable_segments() -> c_int;
    pub(crate) fn te_keep_freed_memory();
    pub(crate) fn te_autocast_enter(
        is_cuda: c_int,
        dtype: c_int,
        was_enabled: *mut c_int,
        old_dtype: *mut c_int,
    ) -> *mut c_char;
    pub(crate) fn te_autocast_exit(
        is_cuda: c_int,
        was_enabled: c_int,
        old_dtype: c_int,
    ) -> *mut c_char;
    pub(crate) fn te_autocast_hold();
    pub(crate) fn te_autocast_release();
    pub(crate) fn te_autocast_suspend() -> *mut c_void;
    pub(crate) fn te_autocast_resume(guard: *mut c_void);
    pub(crate) fn te_fused_adamw(
        params: List,
        grads: List,
        exp_avgs: List,
        exp_avg_sqs: List,
        steps: List,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found_inf: *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn te_clip_each(
        grads: List,
        n: usize,
        max_norm: f64,
        eps: f64,
        scale: *mut C_tensor,
        norms_out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn te_lerp_each(
        targets: List,
        ends: List,
        n: usize,
        weight: f64,
        found_inf: *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn te_update_loss_scale(
        scale: *mut C_tensor,
        good_steps: *mut C_tensor,
        found_inf: *mut C_tensor,
        growth: f64,
        backoff: f64,
        growth_interval: i64,
    ) -> *mut c_char;
    pub(crate) fn te_clear_grads(params: List, n: usize) -> *mut c_char;
    pub(crate) fn te_count_transfers() -> u64;
    pub(crate) fn te_end_count(handle: u64, counts: *mut i64);
    pub(crate) fn te_checkpoint(
        call: Call,
        drop: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
        input: *mut C_tensor,
        params: List,
        n: usize,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn te_tcp_store(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        timeout_ms: i64,
        prefix: *const c_char,
        out: *mut *mut StoreHandle,
    ) -> *mut c_char;
    pub(crate) fn te_store_free(store: *mut StoreHandle);
    pub(crate) fn te_group(
        store: *mut StoreHandle,
        address: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut GroupHandle,
    ) -> *mut c_char;
    pub(crate) fn te_group_free(group: *mut GroupHandle);
    pub(crate) fn te_group_add_nccl(
        group: *mut GroupHandle,
        store: *mut StoreHandle,
        device_index: c_int,
        timeout_ms: i64,
    ) -> *mut c_char;
    pub(crate) fn te_group_end_nccl(group: *mut GroupHandle) -> *mut c_char;
    pub(crate) fn te_all_reduce(
        group: *mut GroupHandle,
        tensor: *mut C_tensor,
        op: c_int,
    ) -> *mut c_char;
    pub(crate) fn te_broadcast(
        group: *mut GroupHandle,
        tensor: *mut C_tensor,
        root: c_int,
    ) -> *mut c_char;
    pub(crate) fn te_all_gather(
        group: *mut GroupHandle,
        tensor: *mut C_tensor,
        out: List,
        n: usize,
    ) -> *mut c_char;
    pub(crate) fn te_barrier(group: *mut GroupHandle) -> *mut c_char;
    pub(crate) fn te_reducer(
        group: *mut GroupHandle,
        params: List,
        n: usize,
        bucket_bytes: i64,
        out: *mut *mut ReducerHandle,
    ) -> *mut c_char;
    pub(crate) fn te_reducer_compress(
        reducer: *mut ReducerHandle,
        group: *mut GroupHandle,
    ) -> *mut c_char;
    pub(crate) fn te_reducer_prepare(reducer: *mut ReducerHandle) -> *mut c_char;
    pub(crate) fn te_reducer_free(reducer: *mut ReducerHandle);
    pub(crate) fn te_profiler_start(is_cuda: c_int) -> *mut c_char;
    pub(crate) fn te_profiler_stop(path: *const c_char) -> *mut c_char;
    pub(crate) fn te_cuda_set_device(device_index: c_int) -> *mut c_char;
    pub(crate) fn te_cuda_uuid(device_index: c_int, uuid: *mut u8) -> *mut c_char;
    pub(crate) fn te_cuda_peak_memory(device_index: c_int, bytes: *mut i64) -> *mut c_char;
    pub(crate) fn te_cuda_reset_peak_memory(device_index: c_int) -> *mut c_char;
    pub(crate) fn te_host_buffer(
        bytes: usize,
        pinned: c_int,
        out: *mut *mut C_tensor,
        data: *mut *mut u8,
    ) -> *mut c_char;
    pub(crate) fn te_stream_new(device_index: c_int, id: *mut i64) -> *mut c_char;
    pub(crate) fn te_stream_current(device_index: c_int, id: *mut i64) -> *mut c_char;
    pub(crate) fn te_stream_set(device_index: c_int, id: i64) -> *mut c_char;
    pub(crate) fn te_event_record(
        device_index: c_int,
        id: i64,
        out: *mut *mut EventHandle,
    ) -> *mut c_char;
    pub(crate) fn te_event_block(
        event: *mut EventHandle,
        device_index: c_int,
        id: i64,
    ) -> *mut c_char;
    pub(crate) fn te_event_synchronize(event: *mut EventHandle) -> *mut c_char;
    pub(crate) fn te_event_free(event: *mut EventHandle);
    pub(crate) fn te_record_stream(
        tensor: *mut C_tensor,
        device_index: c_int,
        id: i64,
    ) -> *mut c_char;
}

/// The handles of a list of tensors; valid while the tensors are borrowed.
pub(crate) fn handles(tensors: &[&Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr().cast_mut()).collect()
}

/// Turns what a `te_` function returned into a `Result`, taking the message over.
pub(crate) fn check(operation: &'static str, error: *mut c_char) -> Result<(), TorchError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null result is a NUL-terminated string from strdup, freed once, here.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        te_free_error(error);
        message
    };
    Err(TorchError { operation, message })
}
