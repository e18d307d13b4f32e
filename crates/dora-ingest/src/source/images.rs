//! A folder or list of images as a video of constant frame rate.

use super::{Begin, Footage, FrameSource, Promise, Reading, Span};
use crate::error::IngestError;
use crate::picture::Picture;
use opencv::core::{Mat, MatTraitConst};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use std::path::{Path, PathBuf};

/// Images of one size, shown at a constant rate.
#[derive(Debug)]
pub(crate) struct ImageSequence {
    paths: Vec<PathBuf>,
    fps: f64,
    next: usize,
    size_px: Option<(i32, i32)>,
}

impl ImageSequence {
    /// `paths` in the order of time; `fps` above 0.
    pub(crate) fn new(paths: Vec<PathBuf>, fps: f64) -> Self {
        Self { paths, fps, next: 0, size_px: None }
    }

    fn pts_us(&self, image: usize) -> i64 {
        (image as f64 * 1e6 / self.fps).round() as i64
    }
}

impl FrameSource for ImageSequence {
    fn enter(&mut self, _: Span) -> Result<(), IngestError> {
        Ok(())
    }

    fn grab(&mut self) -> Result<Option<i64>, IngestError> {
        if self.next == self.paths.len() {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.pts_us(self.next - 1)))
    }

    fn retrieve(&mut self, picture: &mut Option<Picture>) -> Result<bool, IngestError> {
        let Some(path) = self.next.checked_sub(1).and_then(|image| self.paths.get(image)) else {
            return Ok(false);
        };
        let image = read(path)?;
        let (width_px, height_px) = (image.cols(), image.rows());
        let expected_px = *self.size_px.get_or_insert((width_px, height_px));
        if (width_px, height_px) != expected_px {
            let what = format!(
                "is {width_px}x{height_px} where the images before are {}x{}; all frames of one \
                 store have one size, so ingest it apart",
                expected_px.0, expected_px.1
            );
            return Err(IngestError::input(path, what));
        }
        *picture = Some(Picture::Bgr(image));
        Ok(true)
    }
}

impl Footage for ImageSequence {
    fn promise(&self) -> Promise {
        Promise {
            interval_us: (1e6 / self.fps).round() as i64,
            duration_s: Some(self.paths.len() as f64 / self.fps),
            frames: Some(self.paths.len() as u64),
            missing_bytes: 0,
        }
    }

    fn describe(&self) -> Option<String> {
        None
    }

    fn size_px(&mut self) -> Result<(u32, u32), IngestError> {
        // There is one: a folder or list without images is refused before.
        let image = self.paths.first().map(|path| read(path)).transpose()?.unwrap_or_default();
        self.size_px = Some((image.cols(), image.rows()));
        Ok(Picture::Bgr(image).size_px())
    }

    fn read(mut self: Box<Self>, begin: &Begin<'_>) -> Result<Reading, IngestError> {
        let anchor = begin.anchor.and_then(|anchor| usize::try_from(anchor.source_frame).ok());
        let is_there = |&image: &usize| {
            image < self.paths.len() && begin.anchor.is_some_and(|a| a.pts_us == self.pts_us(image))
        };
        self.next = anchor.filter(is_there).unwrap_or(0);
        let (first_frame, spans) = (self.next as u64, std::iter::once(Span::WHOLE));
        Ok(Reading { lanes: vec![self], spans: Box::new(spans), first_frame })
    }
}

fn read(path: &Path) -> Result<Mat, IngestError> {
    let image = imread(path, IMREAD_COLOR).map_err(IngestError::opencv("read", path))?;
    if image.empty() {
        let what = "is not an image that OpenCV can read; repair it or leave it out";
        return Err(IngestError::input(path, what));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Stamp;

    #[test]
    fn reading_goes_on_at_the_last_stored_image() {
        let paths = (0..100).map(|image| PathBuf::from(format!("{image}.png"))).collect();
        let images = ImageSequence::new(paths, 3.0);
        let begin = |stamp: Option<Stamp>| {
            let begin = Begin { start_us: i64::MIN, anchor: stamp, stored: &|_| None };
            let images = ImageSequence::new(images.paths.clone(), 3.0);
            let mut reading = Box::new(images).read(&begin).unwrap();
            (reading.first_frame, reading.lanes[0].grab().unwrap())
        };
        assert_eq!(begin(None), (0, Some(0)));
        let stamp = Stamp { pts_us: 16_666_667, source_frame: 50 };
        assert_eq!(begin(Some(stamp)), (50, Some(16_666_667)));
        assert_eq!(begin(Some(Stamp { pts_us: 1, source_frame: 50 })), (0, Some(0)));
        assert_eq!(begin(Some(Stamp { pts_us: 0, source_frame: u64::MAX })), (0, Some(0)));
    }
}
