//! The little of FFmpeg that its Rust crate lacks: hardware decoders, and what a decoder had to
//! invent.

#![allow(unsafe_code)]

use ffmpeg::Error;
use ffmpeg::codec::Context;
use ffmpeg::ffi;
use ffmpeg::frame::Video;
use std::ffi::CString;
use std::ptr::null_mut;

/// Whether a kind of hardware decoder is there; the reason when not.
pub(super) fn check(kind: &str) -> Result<(), String> {
    let name = CString::new(kind).unwrap_or_default();
    // SAFETY: the name ends with a zero byte.
    let found = unsafe { ffi::av_hwdevice_find_type_by_name(name.as_ptr()) };
    if found == ffi::AVHWDeviceType::NONE {
        return Err("FFmpeg knows no such kind".to_owned());
    }
    attach(&mut Context::new(), kind).map_err(|error| error.to_string())
}

/// Makes a decoder that is not open yet use a hardware device of a kind, as `cuda` or `vaapi`.
pub(super) fn attach(context: &mut Context, kind: &str) -> Result<(), Error> {
    let name = CString::new(kind).map_err(|_| Error::InvalidData)?;
    // SAFETY: the name ends with a zero byte. The device is a new reference, which the codec context
    // owns from here on and frees with itself.
    unsafe {
        let kind = ffi::av_hwdevice_find_type_by_name(name.as_ptr());
        let mut device = null_mut();
        let status = ffi::av_hwdevice_ctx_create(&mut device, kind, null_mut(), null_mut(), 0);
        if status < 0 {
            return Err(Error::from(status));
        }
        (*context.as_mut_ptr()).hw_device_ctx = device;
    }
    Ok(())
}

/// A frame in the memory of the machine; one that is there already stays as it is.
pub(super) fn download(frame: Video) -> Result<Video, Error> {
    let mut here = Video::empty();
    // SAFETY: both frames are valid; FFmpeg allocates the second one's memory and keeps a reference
    // to the first one's only during the call.
    unsafe {
        if (*frame.as_ptr()).hw_frames_ctx.is_null() {
            return Ok(frame);
        }
        for status in [
            ffi::av_hwframe_transfer_data(here.as_mut_ptr(), frame.as_ptr(), 0),
            ffi::av_frame_copy_props(here.as_mut_ptr(), frame.as_ptr()),
        ] {
            if status < 0 {
                return Err(Error::from(status));
            }
        }
    }
    Ok(here)
}

/// Whether parts of the frame were damaged in the file and made up by the decoder.
pub(super) fn is_concealed(frame: &Video) -> bool {
    // SAFETY: the frame is valid, and the field is a plain number.
    frame.is_corrupt() || unsafe { (*frame.as_ptr()).decode_error_flags } != 0
}
