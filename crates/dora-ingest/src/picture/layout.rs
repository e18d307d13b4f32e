//! Where the samples of an FFmpeg frame lie, for the formats that videos come in.

use super::area::{Levels, Plane};
use super::colour::{Primaries, ToJpeg};
use ffmpeg::color::{Range, Space};
use ffmpeg::format::Pixel;
use ffmpeg::frame::Video;

/// A frame's planes and what they mean.
pub(crate) struct Layout<'a> {
    /// Luma, blue and red difference.
    pub(crate) planes: [Plane<'a>; 3],
    pub(crate) luma: Levels,
    pub(crate) chroma: Levels,
    /// Nothing where the matrix is JPEG's already.
    pub(crate) to_jpeg: Option<ToJpeg>,
}

impl<'a> Layout<'a> {
    /// Of a frame; nothing when its format, matrix or memory is none of the usual ones.
    pub(crate) fn of(frame: &'a Video) -> Option<Self> {
        let (bits, interleaved, (x_shift, y_shift)) = format(frame.format())?;
        let to_jpeg = matrix(frame.color_space())?.map(ToJpeg::from);
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let chroma = (width.div_ceil(1 << x_shift), height.div_ceil(1 << y_shift));
        let plane = |index: usize, (width, height), step: usize, offset: usize| {
            let stride_bytes = (index < frame.planes()).then(|| frame.stride(index))?;
            let row_bytes = width * step * if bits > 8 { 2 } else { 1 };
            // A picture that is stored from the bottom to the top has a negative stride.
            let is_usual = stride_bytes <= i32::MAX as usize && stride_bytes >= row_bytes;
            let bytes = is_usual.then(|| frame.data(index))?;
            Some(Plane { bytes, stride_bytes, bits, step, offset, width, height })
        };
        let planes = if interleaved {
            [plane(0, (width, height), 1, 0)?, plane(1, chroma, 2, 0)?, plane(1, chroma, 2, 1)?]
        } else {
            [plane(0, (width, height), 1, 0)?, plane(1, chroma, 1, 0)?, plane(2, chroma, 1, 0)?]
        };
        let is_full = frame.color_range() == Range::JPEG || is_full_by_name(frame.format());
        let (luma, chroma) = if is_full {
            (Levels::FULL, Levels::FULL)
        } else {
            (Levels::LIMITED_LUMA, Levels::LIMITED_CHROMA)
        };
        Some(Self { planes, luma, chroma, to_jpeg })
    }
}

/// Bits of a sample, whether both chroma planes are interleaved, and how often chroma's columns and
/// rows are halved.
fn format(format: Pixel) -> Option<(u32, bool, (u32, u32))> {
    Some(match format {
        Pixel::YUV420P | Pixel::YUVJ420P => (8, false, (1, 1)),
        Pixel::YUV422P | Pixel::YUVJ422P => (8, false, (1, 0)),
        Pixel::YUV444P | Pixel::YUVJ444P => (8, false, (0, 0)),
        Pixel::YUV440P | Pixel::YUVJ440P => (8, false, (0, 1)),
        Pixel::YUV411P | Pixel::YUVJ411P => (8, false, (2, 0)),
        Pixel::NV12 => (8, true, (1, 1)),
        Pixel::YUV420P10LE => (10, false, (1, 1)),
        Pixel::YUV422P10LE => (10, false, (1, 0)),
        Pixel::YUV444P10LE => (10, false, (0, 0)),
        Pixel::YUV420P12LE => (12, false, (1, 1)),
        Pixel::YUV422P12LE => (12, false, (1, 0)),
        // Its 10 bits are the upper ones of 16.
        Pixel::P010LE => (16, true, (1, 1)),
        _ => return None,
    })
}

/// Whether samples of a format have more than 8 bits, as far as is known here.
pub(crate) fn is_deep(pixel: Pixel) -> bool {
    format(pixel).is_some_and(|(bits, ..)| bits > 8)
}

fn is_full_by_name(format: Pixel) -> bool {
    matches!(
        format,
        Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P
    )
}

/// The matrix that the video names (ITU-T H.273, table 4); `Some(None)` is JPEG's own.
fn matrix(space: Space) -> Option<Option<Primaries>> {
    Some(match space {
        Space::Unspecified | Space::Reserved | Space::BT470BG | Space::SMPTE170M => None,
        Space::BT709 => Some(Primaries { red: 0.2126, blue: 0.0722 }),
        Space::FCC => Some(Primaries { red: 0.30, blue: 0.11 }),
        Space::SMPTE240M => Some(Primaries { red: 0.212, blue: 0.087 }),
        Space::BT2020NCL => Some(Primaries { red: 0.2627, blue: 0.0593 }),
        _ => return None,
    })
}
