//! The frames of an input, one after the other, as small pictures with good time stamps.

use crate::clock::Clock;
use crate::error::IngestError;
use crate::input::Input;
use crate::source::FrameSource;
use dora_store::IngestOptions;
use opencv::core::{Mat, MatTraitConst, Size};
use opencv::imgproc::{INTER_LINEAR, resize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longer side of the pictures that are measured. PySceneDetect's default; its threshold belongs
/// to this size.
const LONGER_SIDE_PX: i32 = 256;

/// An input that can be read once.
pub(super) struct Frames {
    path: PathBuf,
    source: Box<dyn FrameSource>,
    interval_us: i64,
}

/// How the reading read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// No more frames.
    Source,
    /// Far enough.
    Limit,
    /// The user interrupted.
    Stopped,
}

/// What was read.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) end: End,
    /// The end of the last frame that was read, in microseconds.
    pub(super) end_us: i64,
    /// The number of frames that were there but could not be converted.
    pub(super) lost: u64,
    /// What was odd, in sentences.
    pub(super) notes: Vec<String>,
}

impl Frames {
    /// Opens an input; `images_fps` is there for images alone.
    pub(super) fn open(input: &Input, images_fps: Option<f64>) -> Result<Self, IngestError> {
        // Size and quality are those of a store, of which there is none.
        let options = IngestOptions {
            short_side_px: 0,
            jpeg_quality: 0,
            start_s: None,
            end_s: None,
            images_fps,
        };
        let source = input.open(&options)?;
        let interval_us = source.promise().interval_us;
        Ok(Self { path: input.path.clone(), source, interval_us })
    }

    /// The duration in seconds that the input claims, an estimate.
    pub(super) fn promised_s(&self) -> Option<f64> {
        self.source.promise().duration_s
    }

    /// Measures every frame before `end_us` that can be decoded.
    ///
    /// `measure` gets the small picture, BGR with 8 bits for each channel; `take` gets the time in
    /// microseconds, rising, the frame's number in the source and what `measure` made of it. Both
    /// are called in the order of time, `take` later where a time stamp has to be found first.
    pub(super) fn read<T>(
        mut self,
        end_us: i64,
        stop: &AtomicBool,
        mut measure: impl FnMut(&Mat) -> opencv::Result<T>,
        mut take: impl FnMut(i64, u64, T),
    ) -> Result<Read, IngestError> {
        let mut clock = Clock::new(self.interval_us, None);
        let mut read = Read { end: End::Source, end_us: 0, lost: 0, notes: Vec::new() };
        let mut give = |ready: Vec<(i64, (u64, Option<T>))>, end_us: &mut i64| {
            for (pts_us, (frame, measured)) in ready {
                *end_us = pts_us.saturating_add(self.interval_us);
                if let Some(measured) = measured {
                    take(pts_us, frame, measured);
                }
            }
        };
        let (mut picture, mut small) = (Mat::default(), Mat::default());
        let mut small_px = None;
        while let Some(stamp) = self.source.grab()? {
            if stop.load(Ordering::Relaxed) {
                return Ok(Read { end: End::Stopped, ..read });
            }
            // A single stamp may be wrong, which a few frames beyond the end show.
            if read.end_us > end_us.saturating_add(1_000_000) {
                read.end = End::Limit;
                break;
            }
            let measured = if self.source.retrieve(&mut picture)? && !picture.empty() {
                let size_px = *small_px.get_or_insert_with(|| scaled(&picture));
                let pixels = if picture.size().is_ok_and(|found_px| found_px == size_px) {
                    &picture
                } else {
                    // Not by area: the scores would no longer be PySceneDetect's.
                    resize(&picture, &mut small, size_px, 0.0, 0.0, INTER_LINEAR)
                        .map_err(IngestError::opencv("scale a frame of", &self.path))?;
                    &small
                };
                let measured = measure(pixels);
                Some(measured.map_err(IngestError::opencv("measure a frame of", &self.path))?)
            } else {
                read.lost += 1;
                None
            };
            let ready = clock.push(stamp.pts_us, (stamp.source_frame, measured));
            give(ready, &mut read.end_us);
        }
        let steps_us = self.source.last_steps_us(clock.held());
        give(clock.finish(steps_us.as_deref()), &mut read.end_us);
        read.notes = self.source.notes();
        Ok(read)
    }
}

/// The size at which a picture is measured: never larger than it is.
fn scaled(picture: &Mat) -> Size {
    let (width_px, height_px) = (picture.cols(), picture.rows());
    let factor = f64::from(width_px.max(height_px)) / f64::from(LONGER_SIDE_PX);
    let side = |px: i32| (f64::from(px) / factor.max(1.0)).round_ties_even().max(1.0) as i32;
    Size::new(side(width_px), side(height_px))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{CV_8UC3, MatExprTraitConst};

    #[test]
    fn the_longer_side_is_scaled_down_and_never_up() {
        for (size_px, expected_px) in [
            ((3840, 2160), (256, 144)),
            ((1080, 1920), (144, 256)),
            ((640, 480), (256, 192)),
            ((256, 100), (256, 100)),
            ((64, 48), (64, 48)),
            ((5000, 1), (256, 1)),
        ] {
            let zeros = Mat::zeros(size_px.1, size_px.0, CV_8UC3).unwrap().to_mat().unwrap();
            let found = scaled(&zeros);
            assert_eq!((found.width, found.height), expected_px);
        }
    }
}
