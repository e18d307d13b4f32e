//! Video files, decoded by OpenCV with its FFmpeg backend.

use super::mp4::{self, Mp4};
use super::{Begin, Damage, Footage, FrameSource, Promise, Reading, Span};
use crate::error::IngestError;
use crate::picture::Picture;
use opencv::core::{Mat, Vector};
use opencv::prelude::{VideoCaptureTrait, VideoCaptureTraitConst};
use opencv::videoio::{
    CAP_FFMPEG, CAP_PROP_FPS, CAP_PROP_FRAME_COUNT, CAP_PROP_HW_ACCELERATION, CAP_PROP_POS_MSEC,
    VIDEO_ACCELERATION_ANY, VIDEO_ACCELERATION_NONE, VideoCapture,
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
pub(crate) struct OpenCvVideo {
    path: PathBuf,
    capture: VideoCapture,
    accelerate: bool,
    /// The stamp of a frame that was found by a seek and is grabbed already.
    found_us: Option<i64>,
    bad_packets: u64,
    mp4: Option<Mp4>,
}

impl OpenCvVideo {
    /// Opens a video. Errors say what is wrong with the file.
    ///
    /// With `accelerate` a hardware decoder is used where OpenCV finds one.
    pub(crate) fn open(path: &Path, accelerate: bool) -> Result<Self, IngestError> {
        let mp4 = mp4::probe(path).map_err(IngestError::io("read", path))?;
        if mp4.as_ref().is_some_and(|mp4| !mp4.has_index) {
            return Err(IngestError::input(path, mp4::NO_INDEX));
        }
        let capture = open_capture(path, accelerate)?;
        Ok(Self { path: path.to_owned(), capture, accelerate, found_us: None, bad_packets: 0, mp4 })
    }

    /// Makes the frame with the stamp `to_us`, seen in an earlier run, the one that comes next,
    /// quickly. False when no such frame is found near that time; the position is then unknown.
    fn seek(&mut self, to_us: i64) -> Result<bool, IngestError> {
        let target_ms = to_us as f64 * 1e-3 - SEEK_MARGIN_MS;
        if target_ms <= 0.0 {
            return Ok(false);
        }
        let moved = self.capture.set(CAP_PROP_POS_MSEC, target_ms);
        if !moved.map_err(IngestError::opencv("seek in", &self.path))? {
            return Ok(false);
        }
        // Only the very same stamp will do: it also tells the frame's number.
        while let Some(pts_us) = self.grab()? {
            if pts_us >= to_us {
                self.found_us = (pts_us == to_us).then_some(pts_us);
                return Ok(pts_us == to_us);
            }
        }
        Ok(false)
    }

    fn rewind(&mut self) -> Result<(), IngestError> {
        self.capture = open_capture(&self.path, self.accelerate)?;
        (self.found_us, self.bad_packets) = (None, 0);
        Ok(())
    }
}

impl FrameSource for OpenCvVideo {
    fn enter(&mut self, _: Span) -> Result<(), IngestError> {
        Ok(())
    }

    fn grab(&mut self) -> Result<Option<i64>, IngestError> {
        if let Some(found_us) = self.found_us.take() {
            return Ok(Some(found_us));
        }
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

    fn retrieve(&mut self, picture: &mut Option<Picture>) -> Result<bool, IngestError> {
        let mut bgr = match picture.take() {
            Some(Picture::Bgr(bgr)) => bgr,
            _ => Mat::default(),
        };
        let retrieved = self.capture.retrieve(&mut bgr, 0);
        let retrieved = retrieved.map_err(IngestError::opencv("decode", &self.path))?;
        *picture = Some(Picture::Bgr(bgr));
        Ok(retrieved)
    }

    fn last_steps_us(&self, frames: u64, count: usize) -> Option<Vec<i64>> {
        self.mp4?;
        // A table that cannot be read is as good as none: the usual interval then serves.
        let (promised, steps_us) = mp4::last_steps_us(&self.path, count).ok().flatten()?;
        // Frames were lost, and nobody knows which: the table's end may not be ours.
        (promised == frames).then_some(steps_us)
    }

    fn damage(&self) -> Damage {
        Damage { packets: self.bad_packets, concealed: 0 }
    }
}

impl Footage for OpenCvVideo {
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

    fn describe(&self) -> Option<String> {
        let used = self.capture.get(CAP_PROP_HW_ACCELERATION).unwrap_or(0.0) as i32;
        (self.accelerate && used == VIDEO_ACCELERATION_NONE)
            .then(|| "OpenCV finds no hardware decoder for it; decoding on the CPU".to_owned())
    }

    fn size_px(&mut self) -> Result<(u32, u32), IngestError> {
        let mut picture = None;
        while self.grab()?.is_some() {
            let is_there = self.retrieve(&mut picture)?;
            let shown = picture.as_ref().filter(|_| is_there);
            if let Some(size_px) = shown.map(Picture::size_px).filter(|px| px.0 > 0 && px.1 > 0) {
                self.rewind()?;
                return Ok(size_px);
            }
        }
        Err(IngestError::input(&self.path, super::NO_FRAME))
    }

    fn read(mut self: Box<Self>, begin: &Begin<'_>) -> Result<Reading, IngestError> {
        let mut first_frame = 0;
        if let Some(anchor) = begin.anchor {
            if self.seek(anchor.pts_us)? {
                first_frame = anchor.source_frame;
            } else {
                self.rewind()?;
            }
        }
        let spans = std::iter::once(Span::WHOLE);
        Ok(Reading { lanes: vec![self], spans: Box::new(spans), first_frame })
    }
}

fn open_capture(path: &Path, accelerate: bool) -> Result<VideoCapture, IngestError> {
    let kind = if accelerate { VIDEO_ACCELERATION_ANY } else { VIDEO_ACCELERATION_NONE };
    let parameters = Vector::from_slice(&[CAP_PROP_HW_ACCELERATION, kind]);
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
        let mut video = OpenCvVideo::open(&path, false).unwrap();
        let mut picture = None;
        let mut grey = |video: &mut OpenCvVideo| {
            assert!(video.retrieve(&mut picture).unwrap());
            let Some(Picture::Bgr(bgr)) = &picture else { panic!("no picture") };
            bgr.at_2d::<Vec3b>(9, 9).unwrap()[0]
        };
        let mut read = Vec::new();
        while let Some(pts_us) = video.grab().unwrap() {
            read.push((pts_us, grey(&mut video)));
        }
        assert_eq!(read.len(), 200);
        let promise = video.promise();
        assert_eq!((promise.interval_us, promise.frames), (40_000, Some(200)));
        assert!((promise.duration_s.unwrap() - 8.0).abs() < 1e-6);
        assert_eq!(video.last_steps_us(200, 3), Some(vec![40_000; 3]));
        assert_eq!(video.last_steps_us(199, 3), None);

        for frame in [60, 199 - 40, 100] {
            let (pts_us, expected) = read[frame];
            assert!(video.seek(pts_us).unwrap(), "frame {frame}");
            assert_eq!(video.grab().unwrap(), Some(pts_us));
            assert_eq!(grey(&mut video), expected);
            assert_eq!(video.grab().unwrap(), Some(read[frame + 1].0));
        }
        // A stamp that no frame has, and one too early for a seek to pay.
        assert!(!video.seek(read[100].0 + 1).unwrap());
        assert!(!video.seek(read[10].0).unwrap());
        video.rewind().unwrap();
        assert_eq!(video.grab().unwrap(), Some(read[0].0));
    }
}
