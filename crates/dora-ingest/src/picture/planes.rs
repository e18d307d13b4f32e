//! A decoded frame of any format as small planes of 4:2:0 in JPEG's colours.

use super::Orientation;
use super::area::{AreaScaler, Levels, Plane};
use super::layout::Layout;
use crate::source::ffmpeg::raw;
use ffmpeg::color::{Range, Space};
use ffmpeg::format::Pixel;
use ffmpeg::frame::Video;
use ffmpeg::software::scaling::Context;

/// Luma, and both chroma planes with half of its columns and rows (rounded up), full range, BT.601.
/// Rows of luma, and their number, are padded to even ones.
#[derive(Debug, Default)]
pub(crate) struct JpegPlanes {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) cb: Vec<u8>,
    pub(crate) cr: Vec<u8>,
}

impl JpegPlanes {
    /// From one row of luma to the next.
    pub(crate) fn stride(&self) -> usize {
        self.width.next_multiple_of(2)
    }

    /// Repeats the last column and row of luma where their number is odd: chroma covers pairs.
    fn pad(&mut self, spare: &mut Vec<u8>) {
        let (width, stride) = (self.width, self.stride());
        if stride > width {
            spare.clear();
            for row in self.y.chunks_exact(width) {
                spare.extend_from_slice(row);
                spare.push(row[width - 1]);
            }
            std::mem::swap(&mut self.y, spare);
        }
        if self.height % 2 == 1 {
            self.y.extend_from_within(self.y.len() - stride..);
        }
    }
}

/// Makes [`JpegPlanes`] of frames; keeps tables and buffers for the next one.
#[derive(Default)]
pub(crate) struct PlaneMaker {
    luma: Option<AreaScaler>,
    chroma: Option<AreaScaler>,
    planes: JpegPlanes,
    spare: Vec<u8>,
    /// For formats that have no planes of luma and chroma.
    swscale: Option<(SwscaleKey, Context)>,
}

/// What a scaler of FFmpeg was made for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct SwscaleKey {
    format: Pixel,
    from_px: (u32, u32),
    to_px: (u32, u32),
    colours: (Space, Range),
}

impl PlaneMaker {
    /// Scales `frame` to `size_px`, as shown after it is turned.
    ///
    /// # Errors
    /// FFmpeg's reason when the format can be converted by nobody.
    pub(crate) fn make(
        &mut self,
        frame: &Video,
        orientation: Orientation,
        size_px: (u32, u32),
    ) -> Result<&JpegPlanes, ffmpeg::Error> {
        let (width, height) = orientation.size((size_px.0 as usize, size_px.1 as usize));
        let chroma_px = (width.div_ceil(2), height.div_ceil(2));
        self.planes.y.resize(width * height, 0);
        self.planes.cb.resize(chroma_px.0 * chroma_px.1, 0);
        self.planes.cr.resize(chroma_px.0 * chroma_px.1, 0);

        let never_up = |layout: &Layout<'_>| {
            let [y, cb, _] = &layout.planes;
            [(y, (width, height)), (cb, chroma_px)]
                .iter()
                .all(|(plane, to)| plane.width >= to.0 && plane.height >= to.1)
        };
        match Layout::of(frame).filter(never_up) {
            Some(layout) => self.scale(&layout, (width, height), chroma_px),
            None => self.convert(frame, (width, height))?,
        }
        for (plane, width) in [
            (&mut self.planes.y, width),
            (&mut self.planes.cb, chroma_px.0),
            (&mut self.planes.cr, chroma_px.0),
        ] {
            orientation.turn(plane, width, &mut self.spare);
        }
        (self.planes.width, self.planes.height) = orientation.size((width, height));
        self.planes.pad(&mut self.spare);
        Ok(&self.planes)
    }

    fn scale(&mut self, layout: &Layout<'_>, luma_px: (usize, usize), chroma_px: (usize, usize)) {
        let [y, cb, cr] = &layout.planes;
        scaler(&mut self.luma, y, luma_px, layout.luma).scale(y, &mut self.planes.y);
        let chroma = scaler(&mut self.chroma, cb, chroma_px, layout.chroma);
        chroma.scale(cb, &mut self.planes.cb);
        chroma.scale(cr, &mut self.planes.cr);
        if let Some(to_jpeg) = layout.to_jpeg {
            let JpegPlanes { y, cb, cr, .. } = &mut self.planes;
            to_jpeg.apply(y, luma_px.0, cb, cr);
        }
    }

    /// By FFmpeg's own scaler: slower, and good for every format.
    fn convert(
        &mut self,
        frame: &Video,
        (width, height): (usize, usize),
    ) -> Result<(), ffmpeg::Error> {
        let key = SwscaleKey {
            format: frame.format(),
            from_px: (frame.width(), frame.height()),
            to_px: (width as u32, height as u32),
            colours: (frame.color_space(), frame.color_range()),
        };
        if self.swscale.as_ref().is_none_or(|(made_for, _)| *made_for != key) {
            self.swscale = Some((key, raw::scaler(frame, key.to_px)?));
        }
        let mut small = Video::new(Pixel::YUVJ420P, key.to_px.0, key.to_px.1);
        if let Some((_, context)) = &mut self.swscale {
            raw::scale(context, frame, &mut small)?;
        }
        for (index, plane) in
            [&mut self.planes.y, &mut self.planes.cb, &mut self.planes.cr].into_iter().enumerate()
        {
            let width = if index == 0 { width } else { width.div_ceil(2) };
            let rows = small.data(index).chunks(small.stride(index));
            for (to, from) in plane.chunks_exact_mut(width).zip(rows) {
                to.copy_from_slice(&from[..width]);
            }
        }
        Ok(())
    }
}

/// The scaler that is there if it fits, else a new one.
fn scaler<'a>(
    slot: &'a mut Option<AreaScaler>,
    plane: &Plane<'_>,
    to_px: (usize, usize),
    levels: Levels,
) -> &'a mut AreaScaler {
    let kept = slot.take().filter(|scaler| scaler.fits(plane, to_px, levels));
    slot.insert(kept.unwrap_or_else(|| AreaScaler::new(plane, to_px, levels)))
}
