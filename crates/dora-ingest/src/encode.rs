//! A decoded picture as the JPEG that the store keeps.

use crate::error::IngestError;
use crate::jpeg::JpegWriter;
use crate::picture::{Picture, PlaneMaker};
use opencv::core::{Mat, MatTraitConstManual, Size};
use opencv::imgproc::{INTER_AREA, resize};
use std::path::PathBuf;

/// Of the stored picture, every so many columns and rows are looked at to tell blank and frozen
/// stretches: single pixels, since noise tells a real picture from a frozen one.
const LOOK_STEP: usize = 4;

/// Size and quality of the stored frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Of the source.
    pub(crate) source_px: (u32, u32),
    /// Of the store.
    pub(crate) width_px: u32,
    pub(crate) height_px: u32,
    pub(crate) quality: u8,
}

impl Format {
    /// The stored size for pictures of a size: the shorter side at most `short_side_px`.
    pub(crate) fn new(source_px: (u32, u32), short_side_px: u32, quality: u8) -> Self {
        let (width_px, height_px) = source_px;
        let short_px = f64::from(width_px.min(height_px).max(1));
        let scale = (f64::from(short_side_px) / short_px).min(1.0);
        let scaled = |side_px: u32| (f64::from(side_px) * scale).round().max(1.0) as u32;
        Self { source_px, width_px: scaled(width_px), height_px: scaled(height_px), quality }
    }

    /// About how large a stored frame is.
    pub(crate) fn jpeg_bytes(&self) -> usize {
        self.width_px as usize * self.height_px as usize / 4
    }
}

/// A frame for the store.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) jpeg: Vec<u8>,
    /// Brightness of some of its pixels, always the same ones.
    pub(crate) look: Vec<u8>,
    /// The picture had another size than the first of the source.
    pub(crate) is_resized: bool,
}

/// Scales and compresses pictures, one after the other.
pub(crate) struct Encoder {
    format: Format,
    writer: JpegWriter,
    scaled: Mat,
    planes: PlaneMaker,
}

impl Encoder {
    pub(crate) fn new(format: Format) -> Result<Self, IngestError> {
        let writer = JpegWriter::new(format.quality, format.width_px);
        let writer = writer.map_err(failed("compress", format.source_px))?;
        Ok(Self { format, writer, scaled: Mat::default(), planes: PlaneMaker::default() })
    }

    /// The JPEG file of a picture.
    pub(crate) fn encode(&mut self, picture: &Picture) -> Result<Encoded, IngestError> {
        let size_px = picture.size_px();
        let (jpeg, look) = match picture {
            Picture::Bgr(picture) => self.encode_bgr(picture, size_px)?,
            Picture::Yuv(frame, orientation) => {
                let target_px = (self.format.width_px, self.format.height_px);
                let planes = self.planes.make(frame, *orientation, target_px);
                let planes = planes.map_err(failed("scale", size_px))?;
                let jpeg = self.writer.planes(planes).map_err(failed("compress", size_px))?;
                (jpeg, look(&planes.y, planes.stride(), 1))
            }
        };
        Ok(Encoded { jpeg, look, is_resized: size_px != self.format.source_px })
    }

    fn encode_bgr(
        &mut self,
        picture: &Mat,
        size_px: (u32, u32),
    ) -> Result<(Vec<u8>, Vec<u8>), IngestError> {
        let (width, height) = (self.format.width_px as usize, self.format.height_px as usize);
        let mut pixels = picture;
        if size_px != (self.format.width_px, self.format.height_px) {
            let target = Size::new(width as i32, height as i32);
            // Averages all pixels under a new one: no aliasing at any factor.
            resize(picture, &mut self.scaled, target, 0.0, 0.0, INTER_AREA)
                .map_err(failed("scale", size_px))?;
            pixels = &self.scaled;
        }
        let pixels = pixels.data_bytes().map_err(failed("compress", size_px))?;
        let jpeg = self.writer.bgr(pixels, (width, height));
        let jpeg = jpeg.map_err(failed("compress", size_px))?;
        // Green is most of brightness.
        Ok((jpeg, look(&pixels[1..], width, 3)))
    }
}

/// Some of the samples of a plane whose next sample is `step` bytes on.
fn look(plane: &[u8], width: usize, step: usize) -> Vec<u8> {
    let rows = plane.chunks(width * step).step_by(LOOK_STEP);
    rows.flat_map(|row| row.iter().step_by(LOOK_STEP * step)).copied().collect()
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: &'static str,
    (width_px, height_px): (u32, u32),
) -> impl FnOnce(E) -> IngestError {
    move |source| IngestError::Frame {
        path: PathBuf::new(),
        doing,
        width_px,
        height_px,
        source: source.into(),
    }
}
