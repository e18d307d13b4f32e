//! Streams and events of a GPU (`torch.cuda.Stream`, `torch.cuda.Event`), which tch lacks.
//!
//! Nothing here needs the feature `cuda`; [`load_cuda`](crate::load_cuda) comes first.

use std::{marker::PhantomData, ptr::NonNull};

use tch::Tensor;

use crate::{
    TorchError, cuda,
    ffi::{self, EventHandle, check},
};

/// A queue of work on a GPU; work of different queues may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    device_index: i32,
    id: i64,
}

impl Stream {
    /// One beside the current one, from libtorch's pool.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn new(device_index: usize) -> Result<Self, TorchError> {
        let (device_index, mut id) = (cuda::index(device_index), 0);
        // SAFETY: a place to write to.
        check("Stream", unsafe { ffi::te_stream_new(device_index, &mut id) })?;
        Ok(Self { device_index, id })
    }

    /// The one that this thread's operations on a GPU go to.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn current(device_index: usize) -> Result<Self, TorchError> {
        let (device_index, mut id) = (cuda::index(device_index), 0);
        // SAFETY: a place to write to.
        check("current_stream", unsafe { ffi::te_stream_current(device_index, &mut id) })?;
        Ok(Self { device_index, id })
    }

    /// Sends this thread's operations on its GPU here until the guard is dropped.
    pub fn enter(self) -> Result<StreamGuard, TorchError> {
        let before = Self::current(self.device_index as usize)?;
        self.set()?;
        Ok(StreamGuard { before, _not_send: PhantomData })
    }

    fn set(self) -> Result<(), TorchError> {
        // SAFETY: takes numbers of a stream that libtorch gave.
        check("set_stream", unsafe { ffi::te_stream_set(self.device_index, self.id) })
    }
}

/// See [`Stream::enter`].
#[derive(Debug)]
pub struct StreamGuard {
    before: Stream,
    /// The current stream belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        // A stream that was current before can be so again.
        let _ = self.before.set();
    }
}

/// A point in a stream's work, for other streams to wait for.
#[derive(Debug)]
pub struct Event(NonNull<EventHandle>);

// SAFETY: CUDA's events may be used and destroyed on any thread, and this is the only handle.
unsafe impl Send for Event {}

impl Event {
    /// What has been sent to `stream` until now.
    pub fn record(stream: Stream) -> Result<Self, TorchError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: on success `event` is a new event that we own.
        check("Event", unsafe {
            ffi::te_event_record(stream.device_index, stream.id, &mut event)
        })?;
        Ok(Self(NonNull::new(event).expect("an event that was made")))
    }

    /// Lets what is sent to `stream` from here on wait for the event; the host does not wait.
    pub fn block(&self, stream: Stream) -> Result<(), TorchError> {
        // SAFETY: a live event.
        check("wait_event", unsafe {
            ffi::te_event_block(self.0.as_ptr(), stream.device_index, stream.id)
        })
    }

    /// Waits on the host until the event has come.
    pub fn synchronize(&self) -> Result<(), TorchError> {
        // SAFETY: a live event.
        check("synchronize_event", unsafe { ffi::te_event_synchronize(self.0.as_ptr()) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { ffi::te_event_free(self.0.as_ptr()) }
    }
}

/// Tells the allocator that `stream` uses a tensor which was made on another: once dropped, its memory
/// is not given away before `stream` has done what was sent to it until then.
pub fn record_stream(tensor: &Tensor, stream: Stream) -> Result<(), TorchError> {
    // SAFETY: a live tensor.
    check("record_stream", unsafe {
        ffi::te_record_stream(tensor.as_ptr().cast_mut(), stream.device_index, stream.id)
    })
}
