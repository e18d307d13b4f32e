//! Decode, scale, compress, store: one thread decodes, several scale and compress, the calling
//! thread stores in order.
//!
//! A fixed number of pictures goes round, so memory is bounded whichever stage is slow: a picture
//! comes back to the decoder only when its frame has been stored.

use crate::clock::RoughClock;
use crate::error::IngestError;
use crate::source::{FrameSource, Stamp};
use crossbeam_channel::{Receiver, Sender, bounded};
use opencv::core::{Mat, MatTraitConst, MatTraitConstManual, Size};
use opencv::imgproc::{INTER_AREA, resize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// Memory for pictures of full size that are on their way (a 4K one has 25 MB).
const PICTURES_BYTES: usize = 256 << 20;
/// Decoding is the limit long before more than this many workers have something to do.
const MOST_WORKERS: usize = 8;
/// Of small pictures, enough to decode on while a batch goes to disk.
const MOST_PICTURES: usize = 64;

/// Which frames are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    /// The usual time between frames, for those without a good time stamp.
    pub(crate) interval_us: i64,
    /// Frames before it are skipped, ...
    pub(crate) start_us: i64,
    /// ... frames at or after it end the reading, ...
    pub(crate) end_us: i64,
    /// ... and frames of the source up to this one are stored already.
    pub(crate) after: Option<u64>,
}

/// Size and quality of the stored frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) width_px: i32,
    pub(crate) height_px: i32,
    pub(crate) quality: u8,
}

/// How the decoder came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// No more frames.
    Source,
    /// The end of the wanted range.
    Range,
    /// The user interrupted.
    Stopped,
    /// The source ended before the last frame that is stored.
    Changed,
}

/// What the decoder saw.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    pub(crate) end: End,
    /// The last frame's number in the source, wanted or not, ...
    pub(crate) last_frame: Option<u64>,
    /// ... and about when it is.
    pub(crate) last_us: i64,
    /// Frames that were there but could not be converted.
    pub(crate) lost: u64,
    /// Frames that had another size than the first.
    pub(crate) resized: u64,
}

impl Format {
    /// The stored size for pictures of a size: the shorter side at most `short_side_px`.
    pub(crate) fn for_picture(picture: &Mat, short_side_px: u32, quality: u8) -> Self {
        let (width_px, height_px) = (picture.cols(), picture.rows());
        let short_px = f64::from(width_px.min(height_px).max(1));
        let scale = (f64::from(short_side_px) / short_px).min(1.0);
        let scaled = |side_px: i32| (f64::from(side_px) * scale).round().max(1.0) as i32;
        Self { width_px: scaled(width_px), height_px: scaled(height_px), quality }
    }
}

/// Scales and compresses pictures, one after the other.
pub(crate) struct Encoder {
    format: Format,
    compressor: Compressor,
    scaled: Mat,
}

impl Encoder {
    pub(crate) fn new(format: Format) -> Result<Self, IngestError> {
        let compressor = Compressor::new().and_then(|mut compressor| {
            compressor.set_quality(i32::from(format.quality))?;
            compressor.set_subsamp(Subsamp::Sub2x2)?;
            Ok(compressor)
        });
        let compressor = compressor.map_err(|source| IngestError::Frame {
            doing: "compress",
            width_px: format.width_px,
            height_px: format.height_px,
            source: source.into(),
        })?;
        Ok(Self { format, compressor, scaled: Mat::default() })
    }

    /// The JPEG file of a BGR picture.
    pub(crate) fn encode(&mut self, picture: &Mat) -> Result<Vec<u8>, IngestError> {
        let (width_px, height_px) = (picture.cols(), picture.rows());
        fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
            doing: &'static str,
            (width_px, height_px): (i32, i32),
        ) -> impl FnOnce(E) -> IngestError {
            move |source| IngestError::Frame { doing, width_px, height_px, source: source.into() }
        }
        let size_px = (width_px, height_px);
        let mut pixels = picture;
        if size_px != (self.format.width_px, self.format.height_px) {
            let target = Size::new(self.format.width_px, self.format.height_px);
            // Averages all pixels under a new one: no aliasing at any factor.
            resize(picture, &mut self.scaled, target, 0.0, 0.0, INTER_AREA)
                .map_err(failed("scale", size_px))?;
            pixels = &self.scaled;
        }
        let image = Image {
            pixels: pixels.data_bytes().map_err(failed("compress", size_px))?,
            width: self.format.width_px as usize,
            pitch: self.format.width_px as usize * 3,
            height: self.format.height_px as usize,
            format: PixelFormat::BGR,
        };
        self.compressor.compress_to_vec(image).map_err(failed("compress", size_px))
    }
}

/// A frame on its way, `order` counts from 0; without a picture when it is not wanted.
struct Frame {
    order: u64,
    stamp: Stamp,
    bgr: Option<Mat>,
}

/// A frame that can be stored; without a JPEG when it is not wanted.
struct Encoded {
    frame: Frame,
    jpeg: Option<Vec<u8>>,
}

/// Runs the stages until the source, the range or the user ends it, or one of them fails.
///
/// `current` is a frame that was grabbed before. `store` gets every frame in order, with its JPEG
/// when it is wanted: those that are skipped tell about time.
pub(crate) fn run(
    source: &mut dyn FrameSource,
    current: Option<Stamp>,
    range: Range,
    format: Format,
    picture_bytes: usize,
    stop: &AtomicBool,
    mut store: impl FnMut(Stamp, Option<Vec<u8>>) -> Result<(), IngestError>,
) -> Result<Decoded, IngestError> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let pictures = (PICTURES_BYTES / picture_bytes.max(1)).clamp(workers + 2, MOST_PICTURES);
    let (free_out, free_in) = bounded(pictures);
    let (frames_out, frames_in) = bounded(pictures);
    let (encoded_out, encoded_in) = bounded(pictures);
    for _ in 0..pictures {
        // There is room for all of them.
        let _ = free_out.send(Mat::default());
    }
    thread::scope(|scope| {
        let skipped_out = encoded_out.clone();
        let decoder = scope.spawn(move || {
            let out = Out { free: free_in, frames: frames_out, skipped: skipped_out };
            decode(source, current, range, stop, &out)
        });
        for _ in 0..workers {
            let (frames_in, encoded_out) = (frames_in.clone(), encoded_out.clone());
            scope.spawn(move || encode(format, &frames_in, &encoded_out));
        }
        drop((frames_in, encoded_out));
        let stored = store_in_order(encoded_in, free_out, &mut store);
        // Its channels are closed by now, so the decoder ends even if storing failed.
        let decoded = match decoder.join() {
            Ok(decoded) => decoded,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        stored.and(decoded)
    })
}

/// The decoder's side of the channels.
struct Out {
    free: Receiver<Mat>,
    frames: Sender<Frame>,
    skipped: Sender<Result<Encoded, IngestError>>,
}

fn decode(
    source: &mut dyn FrameSource,
    mut current: Option<Stamp>,
    range: Range,
    stop: &AtomicBool,
    out: &Out,
) -> Result<Decoded, IngestError> {
    let mut seen = Decoded { end: End::Source, last_frame: None, last_us: 0, lost: 0, resized: 0 };
    let mut clock = RoughClock::new(range.interval_us);
    let mut size_px = None;
    let mut spare = None;
    for order in 0.. {
        if stop.load(Ordering::Relaxed) {
            seen.end = End::Stopped;
            break;
        }
        let next = match current.take() {
            Some(stamp) => Some(stamp),
            None => source.grab()?,
        };
        let Some(stamp) = next else {
            if seen.last_frame < range.after {
                seen.end = End::Changed;
            }
            break;
        };
        let time_us = clock.time_us(stamp.pts_us);
        if time_us >= range.end_us {
            seen.end = End::Range;
            break;
        }
        (seen.last_frame, seen.last_us) = (Some(stamp.source_frame), time_us);
        let mut bgr = None;
        if time_us >= range.start_us && Some(stamp.source_frame) > range.after {
            // A channel's other end is gone only when a later stage has failed and says why.
            let Some(mut picture) = spare.take().or_else(|| out.free.recv().ok()) else { break };
            if source.retrieve(&mut picture)? {
                let found_px = (picture.cols(), picture.rows());
                seen.resized += u64::from(*size_px.get_or_insert(found_px) != found_px);
                bgr = Some(picture);
            } else {
                seen.lost += 1;
                spare = Some(picture);
            }
        }
        let frame = Frame { order, stamp, bgr };
        let sent = match frame.bgr {
            Some(_) => out.frames.send(frame).is_ok(),
            None => out.skipped.send(Ok(Encoded { frame, jpeg: None })).is_ok(),
        };
        if !sent {
            break;
        }
    }
    Ok(seen)
}

fn encode(
    format: Format,
    frames: &Receiver<Frame>,
    encoded: &Sender<Result<Encoded, IngestError>>,
) {
    let mut encoder = match Encoder::new(format) {
        Ok(encoder) => encoder,
        Err(error) => {
            // Nobody listens when another stage failed first.
            let _ = encoded.send(Err(error));
            return;
        }
    };
    for frame in frames {
        let jpeg = frame.bgr.as_ref().map(|bgr| encoder.encode(bgr)).transpose();
        if encoded.send(jpeg.map(|jpeg| Encoded { frame, jpeg })).is_err() {
            break;
        }
    }
}

fn store_in_order(
    encoded: Receiver<Result<Encoded, IngestError>>,
    free: Sender<Mat>,
    store: &mut impl FnMut(Stamp, Option<Vec<u8>>) -> Result<(), IngestError>,
) -> Result<(), IngestError> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for encoded in encoded {
        let encoded = encoded?;
        waiting.insert(encoded.frame.order, encoded);
        while let Some(Encoded { frame, jpeg }) = waiting.remove(&next) {
            store(frame.stamp, jpeg)?;
            next += 1;
            if let Some(bgr) = frame.bgr {
                // The decoder may have come to its end.
                let _ = free.send(bgr);
            }
        }
    }
    Ok(())
}
