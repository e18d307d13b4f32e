//! Where frames come from: FFmpeg's libraries, OpenCV or a list of images, behind small traits.
//!
//! A [`Footage`] is opened once and says what it promises; it then gives a [`Reading`]: what each
//! thread that decodes works with, and the spans of the source that they take in turn.

pub(crate) mod ffmpeg;
mod images;
mod mp4;
pub(crate) mod opencv;

pub(crate) use images::ImageSequence;

use crate::error::IngestError;
use crate::picture::Picture;

/// What is wrong with a video or images of which nothing can be decoded.
const NO_FRAME: &str = "has no frame that can be decoded; copy or download it again";

/// What a source promises before it is read; estimates, for the progress bar and for the report of
/// what was lost.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    /// Average time between frames, above 0.
    pub(crate) interval_us: i64,
    /// Duration in seconds.
    pub(crate) duration_s: Option<f64>,
    /// The number of frames, where the container counts them.
    pub(crate) frames: Option<u64>,
    /// Bytes that the file should have and does not.
    pub(crate) missing_bytes: u64,
}

/// A frame's stored time stamp and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Microseconds since the start of the source.
    pub(crate) pts_us: i64,
    /// Number among the frames that were decoded, from 0.
    pub(crate) source_frame: u64,
}

/// A stretch of a source that one thread decodes, in microseconds: from a frame that can be decoded
/// without those before it, to before the frame at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from_us: Option<i64>,
    pub(crate) until_us: Option<i64>,
}

impl Span {
    pub(crate) const WHOLE: Self = Self { from_us: None, until_us: None };
}

/// Where reading shall begin.
pub(crate) struct Begin<'a> {
    /// Frames before it are not wanted.
    pub(crate) start_us: i64,
    /// The last frame that an earlier run stored, ...
    pub(crate) anchor: Option<Stamp>,
    /// ... and the number of any stored frame with exactly this time stamp.
    pub(crate) stored: &'a dyn Fn(i64) -> Option<u64>,
}

/// A source ready to be decoded.
pub(crate) struct Reading {
    /// One for each thread that decodes.
    pub(crate) lanes: Vec<Box<dyn FrameSource>>,
    /// The spans, in order.
    pub(crate) spans: Box<dyn Iterator<Item = Span> + Send>,
    /// The number of the first frame that comes.
    pub(crate) first_frame: u64,
}

/// Something that holds frames.
pub(crate) trait Footage {
    /// What it claims to hold.
    fn promise(&self) -> Promise;

    /// A line about how it will be decoded, for the user.
    fn describe(&self) -> Option<String>;

    /// Width and height of its frames as shown, in pixels: those of the first one that decodes.
    fn size_px(&mut self) -> Result<(u32, u32), IngestError>;

    /// Prepares to decode it.
    fn read(self: Box<Self>, begin: &Begin<'_>) -> Result<Reading, IngestError>;
}

/// What decoders had to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Pieces of the file that could not be decoded.
    pub(crate) packets: u64,
    /// Frames with parts that the decoder had to invent.
    pub(crate) concealed: u64,
}

impl Damage {
    /// Of two decoders together.
    pub(crate) fn and(self, other: Self) -> Self {
        let (packets, concealed) = (other.packets, other.concealed);
        Self { packets: self.packets + packets, concealed: self.concealed + concealed }
    }

    /// Sentences for the user.
    pub(crate) fn notes(self) -> Vec<String> {
        let Self { packets, concealed } = self;
        let mut notes = Vec::new();
        if packets > 0 {
            notes.push(format!("{packets} damaged pieces could not be decoded and were skipped"));
        }
        if concealed > 0 {
            notes.push(format!(
                "{concealed} frames are damaged in part, and the decoder filled the holes"
            ));
        }
        notes
    }
}

/// Frames of a span in the order of time.
///
/// [`grab`](FrameSource::grab) is the cheap half of reading: frames that are skipped are never
/// converted.
pub(crate) trait FrameSource: Send {
    /// Goes to the beginning of a span.
    fn enter(&mut self, span: Span) -> Result<(), IngestError>;

    /// Moves to the next frame and gives its time stamp in microseconds since the start of the
    /// source, as the decoder gives it: single ones may be wrong, and 0 stands for none. Nothing at
    /// the end of the span, or where no more can be decoded.
    fn grab(&mut self) -> Result<Option<i64>, IngestError>;

    /// The frame that was grabbed last; false when there is none. `picture` may hold an old one,
    /// whose memory is used again.
    fn retrieve(&mut self, picture: &mut Option<Picture>) -> Result<bool, IngestError>;

    /// The intervals before each of the last `count` frames, in microseconds, where the container
    /// tells them apart from the frames. `frames` is how many were grabbed from the start on.
    fn last_steps_us(&self, _frames: u64, _count: usize) -> Option<Vec<i64>> {
        None
    }

    /// What was odd so far.
    fn damage(&self) -> Damage {
        Damage::default()
    }
}
