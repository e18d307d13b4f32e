//! Video files, decoded by OpenCV with its FFmpeg backend.

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

/// A grab fails at the end, and at each packet that the decoder refuses: this many in a row are the
/// end.
const MOST_BAD_PACKETS: u64 = 10_000;

/// A video file.
///
/// Time stamps are those of the container, less the stream's start time. OpenCV gives them in
/// `CAP_PROP_POS_MSEC` after each grab; its frame numbers and its seeking are inexact.
#[derive(Debug)]
pub struct VideoFile {
    path: PathBuf,
    capture: VideoCapture,
    next_frame: u64,
    bad_packets: u64,
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
        Ok(Self { path: path.to_owned(), capture, next_frame: 0, bad_packets: 0, mp4 })
    }

    /// Moves on and gives the decoder's time stamp.
    fn grab_us(&mut self) -> Result<Option<i64>, IngestError> {
        for bad_packets in 0..MOST_BAD_PACKETS {
            let grabbed = self.capture.grab();
            if grabbed.map_err(IngestError::opencv("decode", &self.path))? {
                self.bad_packets += bad_packets;
                let time_ms = self.capture.get(CAP_PROP_POS_MSEC);
                let time_ms = time_ms.map_err(IngestError::opencv("decode", &self.path))?;
                // A cast from floating point saturates and takes NaN for 0.
                return Ok(Some((time_ms * 1e3).round() as i64));
            }
        }
        Ok(None)
    }
}

impl FrameSource for VideoFile {
    fn grab(&mut self) -> Result<Option<Stamp>, IngestError> {
        let Some(pts_us) = self.grab_us()? else { return Ok(None) };
        let stamp = Stamp { pts_us, source_frame: self.next_frame };
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
        while let Some(pts_us) = self.grab_us()? {
            if pts_us == to.pts_us {
                self.next_frame = to.source_frame + 1;
                return Ok(true);
            }
            if pts_us > to.pts_us {
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
        let fps = Some(get(CAP_PROP_FPS)).filter(|fps| (1e-2..=1e4).contains(fps));
        let frames = Some(get(CAP_PROP_FRAME_COUNT)).filter(|&frames| frames >= 1.0);
        Promise {
            interval_us: (1e6 / fps.unwrap_or(25.0)).round() as i64,
            // The rate is the average of the whole file, also where it varies.
            duration_s: frames.zip(fps).map(|(frames, fps)| frames / fps),
            // Other containers do not count: OpenCV multiplies duration and rate.
            frames: self.mp4.and(frames).map(|frames| frames as u64),
            missing_bytes: self.mp4.map_or(0, |mp4| mp4.missing_bytes),
        }
    }

    fn last_steps_us(&self, count: usize) -> Option<Vec<i64>> {
        self.mp4?;
        // A table that cannot be read is as good as none: the usual interval then serves.
        let (frames, steps_us) = mp4::last_steps_us(&self.path, count).ok().flatten()?;
        // Frames were lost, and nobody knows which: the table's end may not be ours.
        (frames == self.next_frame).then_some(steps_us)
    }

    fn notes(&self) -> Vec<String> {
        match self.bad_packets {
            0 => Vec::new(),
            count => vec![format!("{count} damaged pieces could not be decoded and were skipped")],
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
