//! JPEG files that can be decoded in parts: libjpeg-turbo with restart markers, which its Rust crate
//! does not set.

#![allow(unsafe_code)]

use crate::picture::JpegPlanes;
use std::ffi::{CStr, c_int};
use turbojpeg::raw;

/// Restart markers stand about this many blocks of 16 x 16 pixels apart: the loader then decodes tiles
/// under a crop alone, for less than a hundredth of the bytes.
const BLOCKS_APART: u32 = 8;

/// Compresses pictures of one width, with colour at half the resolution (4:2:0).
pub(crate) struct JpegWriter {
    handle: raw::tjhandle,
    /// Where files grow before they are copied to their size.
    buffer: Vec<u8>,
}

impl JpegWriter {
    /// `quality` is libjpeg's, 1 to 100.
    ///
    /// # Errors
    /// libjpeg-turbo's reason.
    pub(crate) fn new(quality: u8, width: u32) -> Result<Self, String> {
        // SAFETY: the handle is checked, and destroyed with the writer.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as c_int) };
        if handle.is_null() {
            return Err("there is no memory for it".to_owned());
        }
        let mut writer = Self { handle, buffer: Vec::new() };
        writer.set(raw::TJPARAM_TJPARAM_QUALITY, i32::from(quality))?;
        writer.set(raw::TJPARAM_TJPARAM_SUBSAMP, raw::TJSAMP_TJSAMP_420 as c_int)?;
        writer.set(raw::TJPARAM_TJPARAM_RESTARTBLOCKS, restart_blocks(width) as c_int)?;
        // The buffer is ours: it must not be made anew by C's allocator.
        writer.set(raw::TJPARAM_TJPARAM_NOREALLOC, 1)?;
        Ok(writer)
    }

    /// The file of planes.
    pub(crate) fn planes(&mut self, planes: &JpegPlanes) -> Result<Vec<u8>, String> {
        let (width, height, stride) = (planes.width, planes.height, planes.stride());
        let chroma = stride / 2 * height.div_ceil(2);
        assert!(planes.y.len() >= stride * height.next_multiple_of(2), "luma");
        assert!(planes.cb.len() >= chroma && planes.cr.len() >= chroma, "chroma");
        let sources = [planes.y.as_ptr(), planes.cb.as_ptr(), planes.cr.as_ptr()];
        let strides = [stride, stride / 2, stride / 2].map(|stride| stride as c_int);
        // SAFETY: the planes have as many bytes as libjpeg-turbo reads of them (checked above).
        self.compress((width, height), |handle, out, size| unsafe {
            let (sources, strides) = (sources.as_ptr(), strides.as_ptr());
            let (width, height) = (width as c_int, height as c_int);
            raw::tj3CompressFromYUVPlanes8(handle, sources, width, strides, height, out, size)
        })
    }

    /// The file of pixels of blue, green and red, row by row without padding.
    pub(crate) fn bgr(
        &mut self,
        pixels: &[u8],
        (width, height): (usize, usize),
    ) -> Result<Vec<u8>, String> {
        assert!(pixels.len() >= width * height * 3, "pixels");
        // SAFETY: there are as many pixels as libjpeg-turbo reads (checked above).
        self.compress((width, height), |handle, out, size| unsafe {
            let (width, pitch, height) = (width as c_int, width as c_int * 3, height as c_int);
            let format = raw::TJPF_TJPF_BGR as c_int;
            raw::tj3Compress8(handle, pixels.as_ptr(), width, pitch, height, format, out, size)
        })
    }

    fn compress(
        &mut self,
        (width, height): (usize, usize),
        call: impl FnOnce(raw::tjhandle, *mut *mut u8, *mut raw::size_t) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let samp = raw::TJSAMP_TJSAMP_420 as c_int;
        // SAFETY: a function of numbers.
        let most = unsafe { raw::tj3JPEGBufSize(width as c_int, height as c_int, samp) };
        self.buffer.resize(most as usize, 0);
        let (mut out, mut size) = (self.buffer.as_mut_ptr(), most);
        // It writes at most `size` bytes, and says how many: the buffer is not made anew.
        if call(self.handle, &mut out, &mut size) != 0 {
            return Err(self.reason());
        }
        Ok(self.buffer[..size as usize].to_vec())
    }

    fn set(&mut self, parameter: raw::TJPARAM, value: c_int) -> Result<(), String> {
        // SAFETY: the handle is valid.
        let status = unsafe { raw::tj3Set(self.handle, parameter as c_int, value) };
        if status == 0 { Ok(()) } else { Err(self.reason()) }
    }

    fn reason(&self) -> String {
        // SAFETY: the handle is valid, and the text lives until its next call.
        unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.handle)) }.to_string_lossy().into_owned()
    }
}

impl Drop for JpegWriter {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle.
        unsafe { raw::tj3Destroy(self.handle) }
    }
}

/// How many blocks lie between restart markers: the number near [`BLOCKS_APART`] that divides a row,
/// so that tiles stand below one another; else a whole row.
fn restart_blocks(width: u32) -> u32 {
    let row = width.div_ceil(16).max(1);
    let near = (BLOCKS_APART / 2..=BLOCKS_APART * 2).filter(|blocks| row.is_multiple_of(*blocks));
    near.min_by_key(|blocks| blocks.abs_diff(BLOCKS_APART)).unwrap_or(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_divide_a_row() {
        for (width, expected) in
            [(1024, 8), (640, 8), (1920, 8), (1008, 7), (768, 8), (1072, 67), (1, 1)]
        {
            assert_eq!(restart_blocks(width), expected, "{width}");
        }
    }

    #[test]
    fn files_hold_what_was_written() {
        for (width, height) in [(64, 48), (33, 17), (1, 1), (2, 3)] {
            let grey = |level: u8| vec![level; width * height * 3];
            let mut writer = JpegWriter::new(95, width as u32).unwrap();
            let stride = width.next_multiple_of(2);
            let planes = JpegPlanes {
                width,
                height,
                y: vec![90; stride * height.next_multiple_of(2)],
                cb: vec![128; stride / 2 * height.div_ceil(2)],
                cr: vec![128; stride / 2 * height.div_ceil(2)],
            };
            for (jpeg, level) in [
                (writer.planes(&planes).unwrap(), 90),
                (writer.bgr(&grey(200), (width, height)).unwrap(), 200),
            ] {
                let picture = image::load_from_memory(&jpeg).unwrap().to_rgb8();
                assert_eq!(picture.dimensions(), (width as u32, height as u32));
                assert!(picture.as_raw().iter().all(|&value| value.abs_diff(level) <= 1));
                assert!(jpeg.windows(2).any(|marker| marker == [0xff, 0xdd]), "no interval");
            }
        }
    }
}
