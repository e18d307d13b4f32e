//! A folder or list of images as a video of constant frame rate.

use super::{FrameSource, Promise, Stamp};
use crate::error::IngestError;
use opencv::core::{Mat, MatTraitConst};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use std::path::PathBuf;

/// Images of one size, shown at a constant rate.
#[derive(Debug)]
pub struct ImageSequence {
    paths: Vec<PathBuf>,
    fps: f64,
    next: usize,
    size_px: Option<(i32, i32)>,
}

impl ImageSequence {
    /// `paths` in the order of time; `fps` above 0.
    pub fn new(paths: Vec<PathBuf>, fps: f64) -> Self {
        Self { paths, fps, next: 0, size_px: None }
    }

    fn stamp(&self, image: usize) -> Stamp {
        let pts_us = (image as f64 * 1e6 / self.fps).round() as i64;
        Stamp { pts_us, source_frame: image as u64 }
    }
}

impl FrameSource for ImageSequence {
    fn grab(&mut self) -> Result<Option<Stamp>, IngestError> {
        if self.next == self.paths.len() {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.stamp(self.next - 1)))
    }

    fn retrieve(&mut self, picture: &mut Mat) -> Result<bool, IngestError> {
        let Some(path) = self.next.checked_sub(1).and_then(|image| self.paths.get(image)) else {
            return Ok(false);
        };
        *picture = imread(path, IMREAD_COLOR).map_err(IngestError::opencv("read", path))?;
        if picture.empty() {
            let what = "is not an image that OpenCV can read; repair it or leave it out";
            return Err(IngestError::input(path, what));
        }
        let (width_px, height_px) = (picture.cols(), picture.rows());
        let expected_px = *self.size_px.get_or_insert((width_px, height_px));
        if (width_px, height_px) != expected_px {
            let what = format!(
                "is {width_px}x{height_px} where the images before are {}x{}; all frames of one \
                 store have one size, so ingest it apart",
                expected_px.0, expected_px.1
            );
            return Err(IngestError::input(path, what));
        }
        Ok(true)
    }

    fn seek(&mut self, to: Stamp) -> Result<bool, IngestError> {
        let image = usize::try_from(to.source_frame).ok().filter(|&image| image < self.paths.len());
        let Some(image) = image.filter(|&image| self.stamp(image) == to) else { return Ok(false) };
        self.next = image + 1;
        Ok(true)
    }

    fn rewind(&mut self) -> Result<(), IngestError> {
        self.next = 0;
        Ok(())
    }

    fn promise(&self) -> Promise {
        Promise {
            interval_us: (1e6 / self.fps).round() as i64,
            duration_s: Some(self.paths.len() as f64 / self.fps),
            frames: Some(self.paths.len() as u64),
            missing_bytes: 0,
        }
    }

    fn last_steps_us(&self, _count: usize) -> Option<Vec<i64>> {
        // Every stamp is good already.
        None
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seek_gives_the_frame_after() {
        let paths = (0..100).map(|image| PathBuf::from(format!("{image}.png"))).collect();
        let mut images = ImageSequence::new(paths, 3.0);
        let stamps: Vec<Stamp> = std::iter::from_fn(|| images.grab().unwrap()).collect();
        assert_eq!(stamps.len(), 100);
        assert_eq!(stamps[50], Stamp { pts_us: 16_666_667, source_frame: 50 });
        assert!(images.seek(stamps[50]).unwrap());
        assert_eq!(images.grab().unwrap(), Some(stamps[51]));
        assert!(!images.seek(Stamp { pts_us: 1, source_frame: 50 }).unwrap());
        assert!(!images.seek(Stamp { pts_us: 0, source_frame: u64::MAX }).unwrap());
        images.rewind().unwrap();
        assert_eq!(images.grab().unwrap(), Some(stamps[0]));
    }
}
