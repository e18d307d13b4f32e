//! The little of FFmpeg that its Rust crate lacks: hardware decoders, what a decoder had to invent, and
//! a scaler that is told about colours.

#![allow(unsafe_code)]

use ffmpeg::Error;
use ffmpeg::codec::Context;
use ffmpeg::color::Range;
use ffmpeg::ffi;
use ffmpeg::format::Pixel;
use ffmpeg::frame::Video;
use ffmpeg::software::scaling::{self, Flags};
use std::ffi::CString;
use std::ptr::null_mut;

/// Whether a kind of hardware decoder is there; the reason when not.
pub(super) fn check_hwaccel(kind: &str) -> Result<(), String> {
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

/// FFmpeg's own scaler, by area, for a frame like `frame`: from its colours to full-range planes in
/// JPEG's.
pub(crate) fn scaler(
    frame: &Video,
    (width, height): (u32, u32),
) -> Result<scaling::Context, Error> {
    let (from, to) = (frame.format(), Pixel::YUVJ420P);
    let (columns, rows) = (frame.width(), frame.height());
    let mut context = scaling::Context::get(from, columns, rows, to, width, height, Flags::AREA)?;
    let is_full = frame.color_range() == Range::JPEG;
    // SAFETY: the context is valid, and the tables of coefficients are constants of the library. The
    // status only says that a format has no matrix.
    unsafe {
        let space = ffi::AVColorSpace::from(frame.color_space());
        let matrix = ffi::sws_getCoefficients(space.0 as i32);
        let jpeg = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT);
        let one = 1 << 16;
        let context = context.as_mut_ptr();
        ffi::sws_setColorspaceDetails(context, matrix, i32::from(is_full), jpeg, 1, 0, one, one);
    }
    Ok(context)
}

/// Scales `from` into `to`, which are of the context's sizes and formats.
pub(crate) fn scale(
    context: &mut scaling::Context,
    from: &Video,
    to: &mut Video,
) -> Result<(), Error> {
    let (input, output) = (*context.input(), *context.output());
    let fits = (from.format(), from.width(), from.height())
        == (input.format, input.width, input.height)
        && (to.format(), to.width(), to.height()) == (output.format, output.width, output.height);
    if !fits {
        return Err(Error::InputChanged);
    }
    // SAFETY: both frames are valid, and have the sizes and formats of the context (checked above).
    let status = unsafe {
        let (from, to) = (&*from.as_ptr(), &mut *to.as_mut_ptr());
        let rows = from.height;
        let (source, strides) = (from.data.as_ptr().cast(), from.linesize.as_ptr());
        let context = context.as_mut_ptr();
        ffi::sws_scale(context, source, strides, 0, rows, to.data.as_ptr(), to.linesize.as_ptr())
    };
    if status < 0 { Err(Error::from(status)) } else { Ok(()) }
}

/// Whether parts of the frame were damaged in the file and made up by the decoder.
pub(super) fn is_concealed(frame: &Video) -> bool {
    // SAFETY: the frame is valid, and the field is a plain number.
    frame.is_corrupt() || unsafe { (*frame.as_ptr()).decode_error_flags } != 0
}
