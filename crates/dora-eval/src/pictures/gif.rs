//! Animated GIFs.

use image::RgbImage;
use rayon::prelude::*;

/// How carefully colours are chosen, from 1 (slow) to 30: what the quantiser's author advises.
const QUANTISER_SPEED: i32 = 10;

/// Why an animation cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum GifError {
    /// GIFs have at most 65535 pixels on a side, and at least one.
    #[error("a GIF cannot have {width}x{height} px")]
    Size {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A frame is not of the animation's size.
    #[error("a frame of {found:?} px in a GIF of {expected:?} px")]
    OtherSize {
        /// Columns and rows of the frame.
        found: (u32, u32),
        /// Columns and rows of the animation.
        expected: (u32, u32),
    },
    /// The encoder failed.
    #[error(transparent)]
    Encoding(#[from] gif::EncodingError),
}

/// An animation that is made frame by frame and repeats for ever.
pub struct Gif {
    encoder: gif::Encoder<Vec<u8>>,
    size: (u32, u32),
    delay_cs: u16,
}

impl Gif {
    /// An animation of `size` (columns, rows), `fps` frames a second: as near as whole hundredths of a
    /// second come, at most 50, beyond which viewers slow down.
    ///
    /// # Errors
    /// A size that GIFs cannot have.
    pub fn new(size: (u32, u32), fps: f64) -> Result<Self, GifError> {
        let (width, height) = size;
        let side = |px: u32| u16::try_from(px).ok().filter(|px| *px > 0);
        let (Some(columns), Some(rows)) = (side(width), side(height)) else {
            return Err(GifError::Size { width, height });
        };
        let mut encoder = gif::Encoder::new(Vec::new(), columns, rows, &[])?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        // Casts saturate.
        let delay_cs = ((100.0 / fps).round() as u16).max(2);
        Ok(Self { encoder, size, delay_cs })
    }

    /// Adds frames, each with 256 colours of its own, which all cores choose.
    ///
    /// # Errors
    /// One has another size.
    pub fn push(&mut self, frames: &[RgbImage]) -> Result<(), GifError> {
        let (size, delay_cs) = (self.size, self.delay_cs);
        let reduced = frames.par_iter().map(|frame| {
            if frame.dimensions() != size {
                return Err(GifError::OtherSize { found: frame.dimensions(), expected: size });
            }
            let (width, height, pixels) = (size.0 as u16, size.1 as u16, frame.as_raw());
            let mut frame = gif::Frame::from_rgb_speed(width, height, pixels, QUANTISER_SPEED);
            frame.delay = delay_cs;
            Ok(frame)
        });
        for frame in reduced.collect::<Result<Vec<_>, GifError>>()? {
            self.encoder.write_frame(&frame)?;
        }
        Ok(())
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn finish(self) -> Result<Vec<u8>, GifError> {
        Ok(self.encoder.into_inner()?)
    }
}
