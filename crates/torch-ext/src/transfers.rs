//! What passes between host and device: values that are read back while the device works on, and a
//! count of everything that passes.

use tch::{Device, Kind, Tensor, no_grad};

use crate::{Event, Stream, TorchError, ffi};

/// Values on their way to the host: the device is not waited for before they are needed.
#[derive(Debug)]
pub struct ReadBack {
    host: Tensor,
    /// Comes when the values are there; the CPU's are there at once.
    event: Option<Event>,
}

impl ReadBack {
    /// Starts to read a tensor of numbers as the work that is queued now will leave it.
    pub fn start(values: &Tensor) -> Result<Self, TorchError> {
        let not_blocking = true;
        // Into pinned memory, because it is asked for without blocking.
        let host = no_grad(|| {
            values.flatten(0, -1).to_device_(Device::Cpu, Kind::Double, not_blocking, false)
        });
        let event = match values.device() {
            Device::Cuda(index) => Some(Event::record(Stream::current(index)?)?),
            _ => None,
        };
        Ok(Self { host, event })
    }

    /// Waits for the values.
    pub fn wait(self) -> Result<Vec<f64>, TorchError> {
        if let Some(event) = &self.event {
            event.synchronize()?;
        }
        Vec::try_from(&self.host).map_err(|error: tch::TchError| TorchError {
            operation: "read_back",
            message: error.to_string(),
        })
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
