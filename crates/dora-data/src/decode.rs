//! One frame from its JPEG file to the planes of a crop.

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use turbojpeg::{Decompressor, PixelFormat};

use crate::crop::CropBox;

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
    /// The crop cannot be resized.
    #[error("its crop cannot be resized ({0})")]
    Resize(String),
}

/// Decodes and crops; keeps its buffers for the next frame, so each thread has one.
#[derive(Debug)]
pub struct Decoder {
    decompressor: Decompressor,
    resizer: Resizer,
    pixels_HWC: Vec<u8>,
    crop_HWC: Vec<u8>,
}

impl Decoder {
    /// A decoder without buffers yet.
    ///
    /// # Errors
    /// If libjpeg-turbo finds no memory for its state.
    pub fn new() -> Result<Self, DecodeError> {
        let decompressor = Decompressor::new()?;
        Ok(Self { decompressor, resizer: Resizer::new(), pixels_HWC: vec![], crop_HWC: vec![] })
    }

    /// Decodes `jpeg`, whose frame must be `width_px` x `height_px`, resizes the box `crop` of it
    /// to a square of `out_px` (bilinear with antialiasing, the box alone, as Pillow does), and
    /// writes red, green and blue, each `out_px` x `out_px`, into `out_CHW`.
    ///
    /// # Errors
    /// If the JPEG is damaged or of another size.
    ///
    /// # Panics
    /// If `out_CHW` does not hold 3 x `out_px` x `out_px` bytes.
    pub fn crop(
        &mut self,
        jpeg: &[u8],
        (width_px, height_px): (u32, u32),
        crop: CropBox,
        out_px: u32,
        out_CHW: &mut [u8],
    ) -> Result<(), DecodeError> {
        let (width, height) = (width_px as usize, height_px as usize);
        if width.saturating_mul(height) > MOST_PX {
            return Err(DecodeError::Huge(width, height));
        }
        let header = self.decompressor.read_header(jpeg)?;
        if (header.width, header.height) != (width, height) {
            let got = (header.width, header.height);
            return Err(DecodeError::Size { got, expected: (width, height) });
        }
        self.pixels_HWC.resize(width * height * 3, 0);
        let pixels = self.pixels_HWC.as_mut_slice();
        let format = PixelFormat::RGB;
        let image = turbojpeg::Image { pixels, width, pitch: width * 3, height, format };
        self.decompressor.decompress(jpeg, image)?;

        self.resize((width_px, height_px), crop, out_px)?;
        let plane = out_px as usize * out_px as usize;
        let (red, rest) = out_CHW.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in self.crop_HWC.chunks_exact(3).zip(planes) {
            (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
        }
        Ok(())
    }

    fn resize(
        &mut self,
        (width_px, height_px): (u32, u32),
        crop: CropBox,
        out_px: u32,
    ) -> Result<(), DecodeError> {
        let failed = |error: &dyn std::fmt::Display| DecodeError::Resize(error.to_string());
        self.crop_HWC.resize(out_px as usize * out_px as usize * 3, 0);
        let frame = ImageRef::new(width_px, height_px, &self.pixels_HWC, PixelType::U8x3)
            .map_err(|e| failed(&e))?;
        let CropBox { left_px, top_px, width_px, height_px } = crop;
        let part = CroppedImage::new(&frame, left_px, top_px, width_px, height_px)
            .map_err(|e| failed(&e))?;
        let mut out = Image::from_slice_u8(out_px, out_px, &mut self.crop_HWC, PixelType::U8x3)
            .map_err(|e| failed(&e))?;
        let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
        let options = ResizeOptions::new().resize_alg(bilinear);
        self.resizer.resize(&part, &mut out, &options).map_err(|e| failed(&e))
    }
}
