//! torch.distributed on this process: the store that processes meet at, groups, and the reducer of
//! PyTorch's DistributedDataParallel. Names and meanings are theirs.

use std::{ffi::CString, ptr::NonNull, time::Duration};

use tch::Tensor;

use crate::{
    TorchError, cuda,
    ffi::{self, GroupHandle, ReducerHandle, StoreHandle, check, handles},
};

/// A key-value store that one process serves and all connect to (`torch.distributed.TCPStore`).
#[derive(Debug)]
pub struct TcpStore(NonNull<StoreHandle>);

impl TcpStore {
    /// Serves the store on `port` when `is_server`, and connects to it at `host`; every key of this
    /// process gets `prefix`, so that several attempts can share a store.
    ///
    /// # Errors
    /// The port is taken; nothing answers at `host` within `timeout`, which is also how long every
    /// later wait for a key lasts.
    pub fn new(
        host: &str,
        port: u16,
        is_server: bool,
        prefix: &str,
        timeout: Duration,
    ) -> Result<Self, TorchError> {
        let (host, prefix) = (text("TCPStore", host)?, text("TCPStore", prefix)?);
        let mut store = std::ptr::null_mut();
        // SAFETY: two NUL-terminated strings; on success `store` is a new store that we own.
        let error = unsafe {
            ffi::te_tcp_store(
                host.as_ptr(),
                port,
                i32::from(is_server),
                timeout.as_millis() as i64,
                prefix.as_ptr(),
                &mut store,
            )
        };
        check("TCPStore", error)?;
        Ok(Self(NonNull::new(store).expect("a store that was made")))
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { ffi::te_store_free(self.0.as_ptr()) }
    }
}

/// How [`ProcessGroup::all_reduce`] puts tensors together, with libtorch's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ReduceOp {
    /// The sum.
    Sum = 0,
    /// The largest value.
    Max = 4,
}

/// Processes that exchange tensors (`torch.distributed.ProcessGroup`): over Gloo for tensors on the
/// CPU and, once [`ProcessGroup::add_nccl`] is called, over NCCL for those on a GPU.
///
/// Every rank calls the same operations in the same order. An operation fails when a rank is gone or
/// does not call it within the group's timeout.
#[derive(Debug)]
pub struct ProcessGroup {
    handle: NonNull<GroupHandle>,
    world_size: usize,
    has_nccl: bool,
}

impl ProcessGroup {
    /// Joins the group as `rank` of `world_size` processes that use the same store; `address` is
    /// this machine's own, at which the others reach it.
    ///
    /// # Errors
    /// The address is not of this machine; not all ranks join within the timeout.
    pub fn new(
        store: &TcpStore,
        address: &str,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Self, TorchError> {
        let address = text("ProcessGroup", address)?;
        let mut group = std::ptr::null_mut();
        // SAFETY: a live store and a NUL-terminated string; on success `group` is ours.
        let error = unsafe {
            ffi::te_group(
                store.0.as_ptr(),
                address.as_ptr(),
                rank as i32,
                world_size as i32,
                timeout.as_millis() as i64,
                &mut group,
            )
        };
        check("ProcessGroup", error)?;
        let handle = NonNull::new(group).expect("a group that was made");
        Ok(Self { handle, world_size, has_nccl: false })
    }

    /// Connects the ranks over NCCL too, each with its own GPU `device_index`: tensors on GPUs take
    /// that way from here on, those on the CPU Gloo's. Comes before the first [`Reducer`], and after
    /// [`load_cuda`](crate::load_cuda) and [`cuda_set_device`](crate::cuda_set_device).
    ///
    /// `timeout` holds for each later operation. NCCL runs beside this process's own work, so one that
    /// fails or exceeds it cannot become an error of the call that began it: libtorch's watchdog then
    /// says why on standard error and ends the process (SIGABRT), as under torchrun.
    ///
    /// # Errors
    /// The crate was built without its feature `cuda`; there is no such GPU; NCCL cannot connect.
    pub fn add_nccl(
        &mut self,
        store: &TcpStore,
        device_index: usize,
        timeout: Duration,
    ) -> Result<(), TorchError> {
        // SAFETY: a live group and a live store.
        let error = unsafe {
            ffi::te_group_add_nccl(
                self.handle.as_ptr(),
                store.0.as_ptr(),
                cuda::index(device_index),
                timeout.as_millis() as i64,
            )
        };
        check("ProcessGroupNCCL", error)?;
        self.has_nccl = true;
        Ok(())
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Puts every rank's tensor together, in place on all ranks; contiguous tensors of one shape and
    /// dtype.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), TorchError> {
        // SAFETY: a live group and a live tensor.
        check("all_reduce", unsafe {
            ffi::te_all_reduce(self.handle.as_ptr(), tensor.as_ptr().cast_mut(), op as i32)
        })
    }

    /// Gives every rank the tensor of rank `root`, in place; contiguous tensors of one shape and
    /// dtype.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), TorchError> {
        // SAFETY: a live group and a live tensor.
        check("broadcast", unsafe {
            ffi::te_broadcast(self.handle.as_ptr(), tensor.as_ptr().cast_mut(), root as i32)
        })
    }

    /// The tensors of all ranks, in their order; contiguous tensors of one shape and dtype.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, TorchError> {
        let gathered: Vec<Tensor> = (0..self.world_size).map(|_| tensor.empty_like()).collect();
        let out = handles(&gathered.iter().collect::<Vec<_>>());
        // SAFETY: a live group, a live tensor, and an array of as many live tensors as ranks.
        let error = unsafe {
            ffi::te_all_gather(
                self.handle.as_ptr(),
                tensor.as_ptr().cast_mut(),
                out.as_ptr(),
                out.len(),
            )
        };
        check("all_gather", error)?;
        Ok(gathered)
    }

    /// Waits until every rank is here.
    pub fn barrier(&self) -> Result<(), TorchError> {
        // SAFETY: a live group.
        check("barrier", unsafe { ffi::te_barrier(self.handle.as_ptr()) })
    }
}

impl Drop for ProcessGroup {
    /// With NCCL, ends it: in peace if all ranks come here within five seconds, else by aborting what
    /// still runs, so that a dead rank keeps nobody waiting.
    fn drop(&mut self) {
        if self.has_nccl {
            // SAFETY: a live group. An error changes nothing any more: the group is freed next.
            let _ =
                check("ProcessGroupNCCL", unsafe { ffi::te_group_end_nccl(self.handle.as_ptr()) });
        }
        // SAFETY: ours, and freed once.
        unsafe { ffi::te_group_free(self.handle.as_ptr()) }
    }
}

/// Averages gradients over a group in buckets while backward still runs (`torch::distributed`'s
/// `Reducer`, the engine of DistributedDataParallel; Li et al. 2020).
///
/// It hooks onto the parameters it is given: after [`Reducer::prepare_for_backward`], the backward
/// that follows leaves averaged gradients behind; one without it only adds to the local ones, for
/// gradient accumulation. Every parameter must take part in every backward.
#[derive(Debug)]
pub struct Reducer(NonNull<ReducerHandle>);

impl Reducer {
    /// A reducer for parameters, the same on all ranks and in the order in which their gradients are
    /// ready, in buckets of about `bucket_bytes`. All ranks make it together.
    pub fn new(
        group: &ProcessGroup,
        params: &[&Tensor],
        bucket_bytes: i64,
    ) -> Result<Self, TorchError> {
        let params = handles(params);
        let mut reducer = std::ptr::null_mut();
        // SAFETY: a live group and an array of live tensors; on success `reducer` is ours.
        let error = unsafe {
            ffi::te_reducer(
                group.handle.as_ptr(),
                params.as_ptr(),
                params.len(),
                bucket_bytes,
                &mut reducer,
            )
        };
        check("Reducer", error)?;
        Ok(Self(NonNull::new(reducer).expect("a reducer that was made")))
    }

    /// From now on gradients travel in bfloat16: half the bytes, each average rounded to 8 binary
    /// digits, sums of many ranks more than once. Comes once, with the reducer's own group and before
    /// the first backward that reduces, on all ranks.
    pub fn compress(&self, group: &ProcessGroup) -> Result<(), TorchError> {
        // SAFETY: a live reducer and a live group, of which the reducer keeps a share.
        check("Reducer", unsafe {
            ffi::te_reducer_compress(self.0.as_ptr(), group.handle.as_ptr())
        })
    }

    /// The next backward reduces.
    pub fn prepare_for_backward(&self) -> Result<(), TorchError> {
        // SAFETY: a live reducer.
        check("Reducer", unsafe { ffi::te_reducer_prepare(self.0.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { ffi::te_reducer_free(self.0.as_ptr()) }
    }
}

fn text(operation: &'static str, text: &str) -> Result<CString, TorchError> {
    CString::new(text)
        .map_err(|_| TorchError { operation, message: format!("{text:?} holds a NUL character") })
}
