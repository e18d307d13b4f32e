//! Host memory that is filled here and then copied to a device at once.

use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use tch::{Device, Kind, Tensor};

use crate::{
    TorchError,
    ffi::{self, check},
};

/// Bytes on the host on their way to a device; page-locked (pinned) where that is a GPU, so that the
/// copy needs no host thread to wait for it.
#[derive(Debug)]
pub struct HostBuffer {
    tensor: Tensor,
    data: NonNull<u8>,
    bytes: usize,
    device: Device,
}

impl HostBuffer {
    /// Memory with no particular content for `device`.
    ///
    /// # Errors
    /// There is not enough memory, or no such device.
    pub fn new(bytes: usize, device: Device) -> Result<Self, TorchError> {
        let (mut tensor, mut data) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: two places to write to; on success `tensor` is a new tensor that we own, and `data`
        // its memory, which may be null only if it has none.
        let tensor = unsafe {
            let pinned = i32::from(device.is_cuda());
            check("empty", ffi::te_host_buffer(bytes, pinned, &mut tensor, &mut data))?;
            Tensor::from_ptr(tensor)
        };
        // SAFETY: uninitialised bytes must not be read; these are cleared before anybody can.
        unsafe { data.write_bytes(0, if data.is_null() { 0 } else { bytes }) };
        Ok(Self { tensor, data: NonNull::new(data).unwrap_or(NonNull::dangling()), bytes, device })
    }

    /// The bytes on their device, uint8 `[bytes]`, by one copy on the current stream, which the host
    /// does not wait for; on the CPU without a copy.
    pub fn upload(self) -> Tensor {
        self.tensor.to_device_(self.device, Kind::Uint8, true, false)
    }
}

impl Deref for HostBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` bytes of memory that nobody else has and that live as long as the tensor.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }
    }
}
