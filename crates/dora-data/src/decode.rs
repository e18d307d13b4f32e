//! One frame from its JPEG file to the planes of a crop.
//!
//! A JPEG holds luma and two colour differences, mostly at half the resolution. They are resampled as
//! they are and become colours only at the size of the result: the colours of a whole frame would
//! cost as much as all the rest. Where restart markers allow it ([`crate::jpeg_part`]), only the part
//! under the crop is decoded.

use turbojpeg::{Colorspace, Decompressor, Subsamp, YuvImage, yuv_pixels_len};

use crate::crop::CropBox;
use crate::jpeg_part;
use crate::planes::{Plane, Resampler, Stretch};

/// More pixels than any video frame: 16,384 x 8,192.
const MOST_PX: usize = 1 << 27;

/// Why a frame cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no whole JPEG.
    #[error("its JPEG is damaged ({0})")]
    Jpeg(#[from] turbojpeg::Error),
    /// The JPEG is not what its store announces.
    #[error("its JPEG is {}x{} px, but frames of the store are {}x{}", got.0, got.1, expected.0, expected.1)]
    Size {
        /// Width and height in the JPEG.
        got: (usize, usize),
        /// Width and height in the store's header.
        expected: (usize, usize),
    },
    /// The frames are too large for any video.
    #[error("its {0}x{1} px are more than a video frame has")]
    Huge(usize, usize),
    /// The JPEG holds other components than luma and colour differences.
    #[error("its JPEG holds {0:?}, not YCbCr or grey")]
    Colours(Colorspace),
    /// The crop is empty or leaves the frame.
    #[error("its {1}x{2} px do not hold the crop {0:?}")]
    Crop(CropBox, usize, usize),
}

/// Decodes and crops; keeps its buffers for the next frame, so each thread has one.
#[derive(Debug)]
pub struct Decoder {
    decompressor: Decompressor,
    resampler: Resampler,
    part: Vec<u8>,
    samples: Vec<u8>,
}

/// What was decoded into [`Decoder::samples`].
#[derive(Clone, Copy, Debug)]
struct Decoded {
    part: CropBox,
    subsamp: Subsamp,
}

impl Decoder {
    /// A decoder without buffers yet.
    ///
    /// # Errors
    /// If libjpeg-turbo finds no memory for its state.
    pub fn new() -> Result<Self, DecodeError> {
        Ok(Self {
            decompressor: Decompressor::new()?,
            resampler: Resampler::default(),
            part: vec![],
            samples: vec![],
        })
    }

    /// Decodes `jpeg`, whose frame must be `width_px` x `height_px`, resizes the box `crop` of it
    /// to a square of `out_px` (bilinear with antialiasing as Pillow does, from the box alone), and
    /// writes red, green and blue, each `out_px` x `out_px`, into `out_CHW`.
    ///
    /// What lies outside of the crop may be damaged without being noticed.
    ///
    /// # Errors
    /// If the JPEG is damaged, of another size, or neither YCbCr nor grey; if the crop leaves it.
    ///
    /// # Panics
    /// If `out_CHW` does not hold 3 x `out_px` x `out_px` bytes.
    pub fn crop(
        &mut self,
        jpeg: &[u8],
        size_px: (u32, u32),
        crop: CropBox,
        out_px: u32,
        out_CHW: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Decoded { part, subsamp } = self.decode(jpeg, size_px, crop)?;
        let (width, height) = (part.width_px as usize, part.height_px as usize);
        let picture = YuvImage { pixels: (), width, align: 1, height, subsamp };
        let (y_size, c_size) = (picture.y_size(), picture.uv_size());
        // A sample of a colour difference covers whole samples of luma, centred among them.
        let plane = |samples, width, (across, down): (usize, usize)| {
            let stretch = |start_px: u32, length_px: u32, by: usize| Stretch {
                start: f64::from(start_px) / by as f64,
                length: f64::from(length_px) / by as f64,
            };
            let across = stretch(crop.left_px - part.left_px, crop.width_px, across);
            let down = stretch(crop.top_px - part.top_px, crop.height_px, down);
            Plane { samples, width, across, down }
        };
        let (luma, differences) = self.samples.split_at(y_size.0 * y_size.1);
        let luma = plane(luma, y_size.0, (1, 1));
        let planes = if subsamp == Subsamp::Gray {
            let one = Stretch { start: 0.0, length: 1.0 };
            let none = Plane { samples: &[128], width: 1, across: one, down: one };
            [luma, none, none]
        } else {
            let (blue, red) = differences.split_at(c_size.0 * c_size.1);
            [luma, plane(blue, c_size.0, subsamp.size()), plane(red, c_size.0, subsamp.size())]
        };
        self.resampler.crop_to_rgb(&planes, out_px as usize, out_CHW);
        Ok(())
    }

    /// The first half of [`Self::crop`], to be timed: decodes what `crop` needs and leaves it.
    pub(crate) fn decode_only(
        &mut self,
        jpeg: &[u8],
        size_px: (u32, u32),
        crop: CropBox,
    ) -> Result<(), DecodeError> {
        self.decode(jpeg, size_px, crop).map(|_| ())
    }

    /// Decodes at least what `crop` needs into `samples`, plane after plane.
    fn decode(
        &mut self,
        jpeg: &[u8],
        (width_px, height_px): (u32, u32),
        crop: CropBox,
    ) -> Result<Decoded, DecodeError> {
        let (width, height) = (width_px as usize, height_px as usize);
        if width.saturating_mul(height) > MOST_PX {
            return Err(DecodeError::Huge(width, height));
        }
        if !crop.is_within(width_px, height_px) {
            return Err(DecodeError::Crop(crop, width, height));
        }
        let header = self.decompressor.read_header(jpeg)?;
        if (header.width, header.height) != (width, height) {
            let got = (header.width, header.height);
            return Err(DecodeError::Size { got, expected: (width, height) });
        }
        if !matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray) {
            return Err(DecodeError::Colours(header.colorspace));
        }
        let cut = jpeg_part::cut(jpeg, crop, &mut self.part);
        let (jpeg, part) = match cut {
            Some(part) => (self.part.as_slice(), part),
            None => (jpeg, CropBox { left_px: 0, top_px: 0, width_px, height_px }),
        };
        let (width, height) = (part.width_px as usize, part.height_px as usize);
        let subsamp = header.subsamp;
        self.samples.resize(yuv_pixels_len(width, 1, height, subsamp)?, 0);
        let pixels = self.samples.as_mut_slice();
        let image = YuvImage { pixels, width, align: 1, height, subsamp };
        self.decompressor.decompress_to_yuv(jpeg, image)?;
        Ok(Decoded { part, subsamp })
    }
}
