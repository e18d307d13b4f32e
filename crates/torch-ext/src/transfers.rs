//! What passes between host and device: values that are read back while the device works on, and a
//! count of everything that passes.

use std::ptr::{self, NonNull};

use tch::Tensor;

use crate::{
    TorchError,
    ffi::{self, EventHandle, check},
};

/// Values on their way to the host: the device is not waited for before they are needed.
#[derive(Debug)]
pub struct ReadBack {
    host: Tensor,
    /// Comes when the values are there; the CPU's are there at once.
    event: Option<Event>,
}

#[derive(Debug)]
struct Event(NonNull<EventHandle>);

impl ReadBack {
    /// Starts to read a tensor of numbers as the work that is queued now will leave it.
    pub fn start(values: &Tensor) -> Result<Self, TorchError> {
        let (mut host, mut event) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live tensor; on success `host` is a new tensor and `event` a new event or null.
        let error = unsafe { ffi::te_read_back(values.as_ptr().cast_mut(), &mut host, &mut event) };
        check("read_back", error)?;
        // SAFETY: see above.
        Ok(Self { host: unsafe { Tensor::from_ptr(host) }, event: NonNull::new(event).map(Event) })
    }

    /// Waits for the values.
    pub fn wait(self) -> Result<Vec<f64>, TorchError> {
        if let Some(Event(event)) = &self.event {
            // SAFETY: a live event.
            check("read_back", unsafe { ffi::te_event_wait(event.as_ptr()) })?;
        }
        let failed = |error: tch::TchError| TorchError {
            operation: "read_back",
            message: error.to_string(),
        };
        Vec::try_from(&self.host.flatten(0, -1)).map_err(failed)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { ffi::te_event_free(self.0.as_ptr()) }
    }
}

/// What passed between host and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Copies to a device.
    pub uploads: i64,
    /// Copies to the host.
    pub read_backs: i64,
    /// Times that the host waited for the device: blocking copies, and operations whose result is a
    /// number or a size that the host needs. The latter are counted on the CPU too.
    pub waits: i64,
}

/// Counts what this thread transfers while `body` runs, and those of libtorch's that run backward for
/// it; one such count at a time in a process.
pub fn count_transfers<T>(body: impl FnOnce() -> T) -> (T, Transfers) {
    /// Ends the count also if `body` panics.
    struct Count<'a>(u64, &'a mut [i64; 3]);
    impl Drop for Count<'_> {
        fn drop(&mut self) {
            // SAFETY: the handle of a registered function, and room for three numbers.
            unsafe { ffi::te_end_count(self.0, self.1.as_mut_ptr()) };
        }
    }
    let mut counts = [0; 3];
    // SAFETY: registers a function that lives as long as the program.
    let count = Count(unsafe { ffi::te_count_transfers() }, &mut counts);
    let result = body();
    drop(count);
    let [uploads, read_backs, waits] = counts;
    (result, Transfers { uploads, read_backs, waits })
}
