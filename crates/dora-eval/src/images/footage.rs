//! Frames to look at: of a frame store, or of image files.

use std::path::{Path, PathBuf};

use dora_store::{FrameStore, StoreError};
use tch::Tensor;

use crate::images::{ImageError, cover, decode_rgb, image_size, read_rgb};

/// Frames that can be read in any order.
#[derive(Debug)]
pub enum Footage {
    /// A video.
    Store(Box<FrameStore>),
    /// Images, in their order.
    Images(Vec<PathBuf>),
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum FootageError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A frame of the store is damaged.
    #[error("frame {frame} of the frame store {} cannot be decoded ({reason}): ingest the video again", store.display())]
    Frame {
        /// The store.
        store: PathBuf,
        /// The frame's number.
        frame: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no frame.
    #[error("the frame store {} has no frame", .0.display())]
    Empty(PathBuf),
    /// The clip is not in the video.
    #[error(
        "the clip from {from_s:.1} s to {to_s:.1} s is not within the video, which has {start_s:.1} s to \
         {end_s:.1} s: begin elsewhere with --clip, or take fewer --frames or a shorter --stride-s"
    )]
    Outside {
        /// Where the clip begins.
        from_s: f64,
        /// Where its last frame is.
        to_s: f64,
        /// Where the video begins.
        start_s: f64,
        /// Where the video ends.
        end_s: f64,
    },
}

impl Footage {
    /// The store in a folder, which must have a frame.
    pub fn open(store: &Path) -> Result<Self, FootageError> {
        let store = FrameStore::open(store)?;
        store.check_index()?;
        if store.is_empty() {
            return Err(FootageError::Empty(store.folder().to_owned()));
        }
        Ok(Self::Store(Box::new(store)))
    }

    /// Width and height of the first frame.
    pub fn size_px(&self) -> Result<(u32, u32), FootageError> {
        match self {
            Self::Store(store) => Ok((store.header().width_px, store.header().height_px)),
            Self::Images(paths) => Ok(paths.first().map_or(Ok((1, 1)), |path| image_size(path))?),
        }
    }

    /// When a frame is; nothing for images.
    pub fn time_s(&self, frame: usize) -> Result<Option<f64>, FootageError> {
        match self {
            Self::Store(store) => Ok(Some(store.pts_us(frame)? as f64 * 1e-6)),
            Self::Images(_) => Ok(None),
        }
    }

    /// The frames nearest to `frames` moments, one `stride_s` after the other: from `start_s` on, of the
    /// video's own time, or from its first frame. Of images, all.
    ///
    /// # Errors
    /// The first or the last moment is not within the video.
    pub fn clip(
        &self,
        start_s: Option<f64>,
        frames: usize,
        stride_s: Option<f64>,
    ) -> Result<Vec<usize>, FootageError> {
        let store = match self {
            Self::Images(paths) => return Ok((0..paths.len()).collect()),
            Self::Store(store) => store,
        };
        let (first_s, end_s) = span_s(store)?;
        let from_s = start_s.unwrap_or(first_s);
        let steps = frames.saturating_sub(1) as f64;
        // A video shorter than the usual clip is shown as a whole.
        let left_s = ((end_s - from_s) / steps.max(1.0)).max(0.0);
        let stride_s = stride_s.unwrap_or(left_s.min(1.0));
        let to_s = from_s + stride_s * steps;
        // Half a microsecond for what does not divide evenly.
        if from_s < first_s - 5e-7 || to_s > end_s + 5e-7 {
            return Err(FootageError::Outside { from_s, to_s, start_s: first_s, end_s });
        }
        moments(store, from_s, stride_s, frames)
    }

    /// The frames nearest to every `stride_s` seconds of the whole video; of images, all.
    pub fn whole(&self, stride_s: f64) -> Result<Vec<usize>, FootageError> {
        let store = match self {
            Self::Images(paths) => return Ok((0..paths.len()).collect()),
            Self::Store(store) => store,
        };
        let (first_s, end_s) = span_s(store)?;
        let frames = ((end_s - first_s) / stride_s + 1e-6) as usize + 1;
        let mut frames = moments(store, first_s, stride_s, frames)?;
        // No more than there are, and none twice where the video has a gap.
        frames.dedup();
        Ok(frames)
    }

    /// A frame, uint8 `[3, rows, columns]`: as much of its middle as has that shape, scaled.
    pub fn read(&self, frame: usize, rows: i64, columns: i64) -> Result<Tensor, FootageError> {
        let image_CHW = match self {
            Self::Images(paths) => read_rgb(&paths[frame])?,
            Self::Store(store) => decode_rgb(store.jpeg(frame)?).map_err(|reason| {
                FootageError::Frame { store: store.folder().to_owned(), frame, reason }
            })?,
        };
        Ok(cover(&image_CHW, rows, columns))
    }
}

fn span_s(store: &FrameStore) -> Result<(f64, f64), FootageError> {
    let first_s = store.pts_us(0)? as f64 * 1e-6;
    Ok((first_s, first_s + store.duration_s()))
}

fn moments(
    store: &FrameStore,
    from_s: f64,
    stride_s: f64,
    frames: usize,
) -> Result<Vec<usize>, FootageError> {
    let moment = |index| ((from_s + stride_s * index as f64) * 1e6).round() as i64;
    Ok((0..frames).map(|index| store.frame_at_us(moment(index))).collect::<Result<_, _>>()?)
}
