//! Where frames come from: one small trait, a video decoder and a list of images behind it.

mod images;
mod mp4;
mod video;

pub use images::ImageSequence;
pub use video::VideoFile;

use crate::error::IngestError;
use opencv::core::Mat;

/// When a frame is shown, and which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since the start of the source, as the decoder gives them: frames come in the
    /// order of time, but single stamps may be wrong.
    pub pts_us: i64,
    /// Number in the source, from 0.
    pub source_frame: u64,
}

/// What a source promises before it is read; estimates, for the progress bar and for the report of
/// what was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Promise {
    /// Average time between frames, above 0.
    pub interval_us: i64,
    /// Duration in seconds.
    pub duration_s: Option<f64>,
    /// The number of frames, where the container counts them.
    pub frames: Option<u64>,
    /// Bytes that the file should have and does not.
    pub missing_bytes: u64,
}

/// Frames in the order of time.
///
/// [`grab`](FrameSource::grab) is the cheap half of reading: frames that are skipped are never
/// converted.
pub trait FrameSource: Send {
    /// Moves to the next frame; nothing at the end of the source, or where no more can be decoded.
    fn grab(&mut self) -> Result<Option<Stamp>, IngestError>;

    /// The frame that was grabbed last, as BGR with 8 bits for each channel; false when there is
    /// none.
    fn retrieve(&mut self, picture: &mut Mat) -> Result<bool, IngestError>;

    /// Makes the frame with the stamp `to`, seen in an earlier run, the one grabbed last, quickly.
    ///
    /// False when no such frame is found near that time; the position is then unknown until
    /// [`rewind`](FrameSource::rewind).
    fn seek(&mut self, to: Stamp) -> Result<bool, IngestError>;

    /// Goes back to before the first frame.
    fn rewind(&mut self) -> Result<(), IngestError>;

    /// What the source claims to hold.
    fn promise(&self) -> Promise;

    /// The intervals before each of the last `count` frames, in microseconds, where the container
    /// tells them apart from the frames.
    fn last_steps_us(&self, count: usize) -> Option<Vec<i64>>;

    /// Sentences about what was odd so far.
    fn notes(&self) -> Vec<String>;
}
