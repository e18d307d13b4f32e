//! Video files, decoded by OpenCV with its FFmpeg backend.

use super::clock::{Clock, us_of_ms};
use super::mp4::{self, Mp4};
use super::{FrameSource, Promise, Stamp};
use crate::error::IngestError;
use opencv::core::{Mat, Vector};
use opencv::prelude::{VideoCaptureTrait, VideoCaptureTraitConst};
use opencv::videoio::{
    CAP_FFMPEG, CAP_PROP_FPS, CAP_PROP_FRAME_COUNT, CAP_PROP_HW_ACCELERATION, CAP_PROP_POS_MSEC,
    VIDEO_ACCELERATION_NONE, VideoCapture,
};
use std::path::{Path, PathBuf};

/// A seek aims this far before the frame it looks for: OpenCV reckons with a constant frame rate.
const SEEK_MARGIN_MS: f64 = 2_000.0;

/// A video file.
///
/// Time stamps are those of the container, less the stream's start time. OpenCV gives them in
/// `CAP_PROP_POS_MSEC` after each grab (frame numbers and its own seeking are inexact).
#[derive(Debug)]
pub struct VideoFile {
    path: PathBuf,
    capture: VideoCapture,
    clock: Clock,
    next_frame: u64,
    mp4: Option<Mp4>,
}

impl VideoFile {
    /// Opens a video. Errors say what is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, IngestError> {
        let mp4 = mp4::probe(path).map_err(IngestError::io("read", path))?;
        if mp4.as_ref().is_some_and(|mp4| !mp4.has_index) {
            return Err(IngestError::input(
                path,
                "is cut: its index (`moov`) is missing, and without it nothing can be decoded; \
                 copy or download the file again",
            ));
        }
        let capture = open_capture(path)?;
        let fps =
            capture.get(CAP_PROP_FPS).map_err(IngestError::opencv("ask for the rate of", path))?;
        Ok(Self { path: path.to_owned(), capture, clock: Clock::new(fps), next_frame: 0, mp4 })
    }

    /// Moves on and gives the decoder's own time stamp.
    fn grab_raw_us(&mut self) -> Result<Option<i64>, IngestError> {
        let mut grab = || {
            let grabbed = self.capture.grab()?;
            Ok(if grabbed { Some(self.capture.get(CAP_PROP_POS_MSEC)?) } else { None })
        };
        let time_ms = grab().map_err(IngestError::opencv("decode", &self.path))?;
        Ok(time_ms.map(us_of_ms))
    }
}

impl FrameSource for VideoFile {
    fn grab(&mut self) -> Result<Option<Stamp>, IngestError> {
        let Some(raw_us) = self.grab_raw_us()? else { return Ok(None) };
        let stamp = Stamp { pts_us: self.clock.stamp(raw_us), source_frame: self.next_frame };
        self.next_frame += 1;
        Ok(Some(stamp))
    }

    fn retrieve(&mut self, picture: &mut Mat) -> Result<bool, IngestError> {
        self.capture.retrieve(picture, 0).map_err(IngestError::opencv("decode", &self.path))
    }

    fn seek(&mut self, to: Stamp) -> Result<bool, IngestError> {
        let target_ms = to.pts_us as f64 * 1e-3 - SEEK_MARGIN_MS;
        if target_ms <= 0.0 {
            return Ok(false);
        }
        let moved = self.capture.set(CAP_PROP_POS_MSEC, target_ms);
        if !moved.map_err(IngestError::opencv("seek in", &self.path))? {
            return Ok(false);
        }
        // Only the very same stamp will do: it also tells the frame's number.
        while let Some(raw_us) = self.grab_raw_us()? {
            if raw_us == to.pts_us {
                self.clock.set(to.pts_us);
                self.next_frame = to.source_frame + 1;
                return Ok(true);
            }
            if raw_us > to.pts_us {
                break;
            }
        }
        Ok(false)
    }

    fn rewind(&mut self) -> Result<(), IngestError> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    fn promise(&self) -> Promise {
        let get = |property| self.capture.get(property).unwrap_or(0.0);
        let frames = get(CAP_PROP_FRAME_COUNT);
        let estimate_s = frames / get(CAP_PROP_FPS);
        let estimate_s = Some(estimate_s).filter(|s| s.is_finite() && *s > 0.0);
        match &self.mp4 {
            Some(mp4) => Promise {
                duration_s: mp4.duration_s.or(estimate_s),
                frames: Some(frames as u64).filter(|&frames| frames > 0),
                missing_bytes: mp4.missing_bytes,
            },
            None => Promise { duration_s: estimate_s, frames: None, missing_bytes: 0 },
        }
    }

    fn notes(&self) -> Vec<String> {
        match self.clock.replaced() {
            0 => Vec::new(),
            count => vec![format!("{count} time stamps did not rise and were replaced")],
        }
    }
}

fn open_capture(path: &Path) -> Result<VideoCapture, IngestError> {
    let parameters = Vector::from_slice(&[CAP_PROP_HW_ACCELERATION, VIDEO_ACCELERATION_NONE]);
    let capture = VideoCapture::from_file_with_params(path, CAP_FFMPEG, &parameters)
        .map_err(IngestError::opencv("open", path))?;
    if !capture.is_opened().map_err(IngestError::opencv("open", path))? {
        return Err(IngestError::input(
            path,
            "is not a video that FFmpeg can read; if it should be one, copy or download it again",
        ));
    }
    Ok(capture)
}
