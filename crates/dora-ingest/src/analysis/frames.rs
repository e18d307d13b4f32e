//! The frames of an input, one after the other, as small pictures with good time stamps.

use crate::clock::Clock;
use crate::error::IngestError;
use crate::input::{Input, Means};
use crate::picture::Picture;
use crate::source::{Begin, Footage};
use dora_store::{Decoder, IngestOptions};
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
    footage: Box<dyn Footage>,
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
            images_fps,
            // PySceneDetect's: another conversion to BGR gives other scores.
            decoder: Decoder::OpenCv,
            ..IngestOptions::default()
        };
        let footage = input.open(&options, &Means::default())?;
        Ok(Self { path: input.path.clone(), footage })
    }

    /// The duration in seconds that the input claims, an estimate.
    pub(super) fn promised_s(&self) -> Option<f64> {
        self.footage.promise().duration_s
    }

    /// Measures every frame before `end_us` that can be decoded.
    ///
    /// `measure` gets the small picture, BGR with 8 bits for each channel; `take` gets the time in
    /// microseconds, rising, the frame's number in the source and what `measure` made of it. Both
    /// are called in the order of time, `take` later where a time stamp has to be found first.
    pub(super) fn read<T>(
        self,
        end_us: i64,
        stop: &AtomicBool,
        mut measure: impl FnMut(&Mat) -> opencv::Result<T>,
        mut take: impl FnMut(i64, u64, T),
    ) -> Result<Read, IngestError> {
        let Self { path, footage } = self;
        let interval_us = footage.promise().interval_us;
        let begin = Begin { start_us: i64::MIN, anchor: None, stored: &|_| None };
        let mut reading = footage.read(&begin)?;
        let mut clock = Clock::new(interval_us);
        let mut read = Read { end: End::Source, end_us: 0, lost: 0, notes: Vec::new() };
        let mut give = |ready: Vec<(i64, (u64, Option<T>))>, end_us: &mut i64| {
            for (pts_us, (frame, measured)) in ready {
                *end_us = pts_us.saturating_add(interval_us);
                if let Some(measured) = measured {
                    take(pts_us, frame, measured);
                }
            }
        };
        let (mut picture, mut small) = (None, Mat::default());
        let mut small_px = None;
        let mut frame = 0;
        // There is one: the whole input is one span, read in order.
        let Some(lane) = reading.lanes.first_mut() else { return Ok(read) };
        while let Some(raw_us) = lane.grab()? {
            if stop.load(Ordering::Relaxed) {
                return Ok(Read { end: End::Stopped, ..read });
            }
            // A single stamp may be wrong, which a few frames beyond the end show.
            if read.end_us > end_us.saturating_add(1_000_000) {
                read.end = End::Limit;
                break;
            }
            let is_there = lane.retrieve(&mut picture)?;
            let measured = match &picture {
                Some(Picture::Bgr(bgr)) if is_there && !bgr.empty() => {
                    let size_px = *small_px.get_or_insert_with(|| scaled(bgr));
                    let pixels = if bgr.size().is_ok_and(|found_px| found_px == size_px) {
                        bgr
                    } else {
                        // Not by area: the scores would no longer be PySceneDetect's.
                        resize(bgr, &mut small, size_px, 0.0, 0.0, INTER_LINEAR)
                            .map_err(IngestError::opencv("scale a frame of", &path))?;
                        &small
                    };
                    let measured = measure(pixels);
                    Some(measured.map_err(IngestError::opencv("measure a frame of", &path))?)
                }
                _ => {
                    read.lost += 1;
                    None
                }
            };
            give(clock.push(raw_us, (frame, measured)), &mut read.end_us);
            frame += 1;
        }
        let steps_us = lane.last_steps_us(frame, clock.held());
        give(clock.finish(steps_us.as_deref()), &mut read.end_us);
        read.notes = lane.damage().notes();
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
