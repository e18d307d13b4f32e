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

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{CV_8UC3, Scalar, Size, Vec3b};
    use opencv::prelude::*;
    use opencv::videoio::VideoWriter;

    /// 200 grey frames at 25 a second, each brighter than the one before within runs of 50.
    fn write_video(path: &Path) {
        let fourcc = VideoWriter::fourcc('m', 'p', '4', 'v').unwrap();
        let (path, size) = (path.to_str().unwrap(), Size::new(64, 48));
        let mut writer =
            VideoWriter::new_with_backend(path, CAP_FFMPEG, fourcc, 25.0, size, true).unwrap();
        for number in 0..200 {
            let grey = Scalar::all(f64::from(20 + number % 50 * 4));
            let picture = Mat::new_rows_cols_with_default(48, 64, CV_8UC3, grey).unwrap();
            writer.write(&picture).unwrap();
        }
        writer.release().unwrap();
    }

    #[test]
    fn a_seek_gives_the_same_frame_as_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grey.mp4");
        write_video(&path);
        let mut video = VideoFile::open(&path).unwrap();
        let mut picture = Mat::default();
        let mut read = Vec::new();
        while let Some(stamp) = video.grab().unwrap() {
            assert!(video.retrieve(&mut picture).unwrap());
            read.push((stamp, picture.at_2d::<Vec3b>(9, 9).unwrap()[0]));
        }
        assert_eq!(read.len(), 200);
        let promise = video.promise();
        assert_eq!((promise.interval_us, promise.frames), (40_000, Some(200)));
        assert!((promise.duration_s.unwrap() - 8.0).abs() < 1e-6);
        assert_eq!(video.last_steps_us(3), Some(vec![40_000; 3]));

        for frame in [60, 199 - 40, 100] {
            let (stamp, grey) = read[frame];
            assert!(video.seek(stamp).unwrap(), "frame {frame}");
            assert!(video.retrieve(&mut picture).unwrap());
            assert_eq!(picture.at_2d::<Vec3b>(9, 9).unwrap()[0], grey);
            assert_eq!(video.grab().unwrap(), Some(read[frame + 1].0));
        }
        // A stamp that no frame has, and one too early for a seek to pay.
        let absent = Stamp { pts_us: read[100].0.pts_us + 1, source_frame: 100 };
        assert!(!video.seek(absent).unwrap());
        assert!(!video.seek(read[10].0).unwrap());
        video.rewind().unwrap();
        assert_eq!(video.grab().unwrap(), Some(read[0].0));
    }
}
