//! One input into its store: found complete, gone on with, or made.

use crate::clock::Clock;
use crate::error::IngestError;
use crate::input::Input;
use crate::pipeline::{self, Decoded, Encoder, End, Format, Range};
use crate::progress::Progress;
use crate::report::{Gaps, clock_time, notes};
use crate::source::{FrameSource, Stamp};
use dora_store::{FrameStore, IngestOptions, Report, StoreHeader, StoreWriter};
use opencv::core::{Mat, MatTraitConst, MatTraitConstManual};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// How an ingest ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The store was complete already.
    NothingToDo {
        /// Its folder.
        folder: PathBuf,
        /// Its frames.
        frames: usize,
    },
    /// The store is complete now.
    Complete {
        /// Its folder.
        folder: PathBuf,
        /// Its frames, those of earlier runs included.
        frames: usize,
        /// What was lost or odd, in sentences.
        notes: Vec<String>,
    },
    /// The user interrupted; what is stored is kept.
    Interrupted {
        /// Its folder.
        folder: PathBuf,
        /// Frames stored so far.
        frames: usize,
    },
}

/// Brings an input's frames into its store below the folder `stores`.
///
/// Goes on where an earlier run of the same input and options stopped, with the same result as one
/// run. Setting `stop` ends it after the frames that are on their way.
pub fn ingest(
    input: &Input,
    options: &IngestOptions,
    stores: &Path,
    stop: &AtomicBool,
) -> Result<Outcome, IngestError> {
    let folder = input.store_folder(stores, options);
    if let Some(frames) = stored_frames(input, options, stores)? {
        return Ok(Outcome::NothingToDo { folder, frames });
    }
    let mut source = input.open(options)?;
    let promise = source.promise();

    let mut picture = Mat::default();
    let first = first_picture(source.as_mut(), input, stop, &mut picture)?;
    let format = Format::for_picture(&picture, options.short_side_px, options.jpeg_quality);
    let header = StoreHeader {
        source: input.source.clone(),
        options: options.clone(),
        width_px: format.width_px as u32,
        height_px: format.height_px as u32,
    };
    let (mut writer, resumed) = StoreWriter::create_or_resume(&folder, &header)?;
    let (anchor, mut gaps) = kept(&writer)?;
    if let Some(anchor) = &anchor {
        let time = clock_time(anchor.stamp.pts_us as f64 * 1e-6);
        eprintln!("{}: going on after {} frames, at {time}", input.path.display(), resumed.frames);
    }

    let picture_bytes = picture.data_bytes().map_or(0, <[u8]>::len);
    let (current, after) = match anchor {
        None => (Some(first), None),
        Some(anchor) => (None, go_to(source.as_mut(), &anchor, format, &mut picture)?),
    };
    drop(picture);
    let us = |time_s: f64| (time_s * 1e6).round() as i64;
    let range = Range {
        interval_us: promise.interval_us,
        start_us: options.start_s.map_or(i64::MIN, us),
        end_us: options.end_s.map_or(i64::MAX, us),
        after,
    };

    let end_s = options.end_s.unwrap_or(f64::MAX).min(promise.duration_s.unwrap_or(f64::MAX));
    let mut progress = Progress::new(
        &input.source.name,
        options.start_s.unwrap_or(0.0),
        end_s,
        writer.last_pts_us(),
    );
    // Reading from the start again gives every frame its stamp again.
    let known_us = writer.last_pts_us().filter(|_| after.is_none());
    let mut clock = Clock::new(promise.interval_us, known_us);
    let mut push = |pts_us: i64, (frame, jpeg): (u64, Option<Vec<u8>>)| {
        let Some(jpeg) = jpeg else { return Ok(()) };
        writer.push(pts_us, frame, &jpeg)?;
        gaps.see(pts_us);
        progress.frame(pts_us);
        Ok::<(), IngestError>(())
    };
    let store = |stamp: Stamp, jpeg| {
        let ready = clock.push(stamp.pts_us, (stamp.source_frame, jpeg));
        ready.into_iter().try_for_each(|(pts_us, frame)| push(pts_us, frame))
    };
    let mut decoded =
        pipeline::run(source.as_mut(), current, range, format, picture_bytes, stop, store);
    if let Ok(Decoded { end: end @ (End::Source | End::Range), .. }) = decoded {
        let steps_us = match end {
            End::Source => source.last_steps_us(clock.held()),
            _ => None,
        };
        let rest = clock.finish(steps_us.as_deref());
        let stored = rest.into_iter().try_for_each(|(pts_us, frame)| push(pts_us, frame));
        decoded = stored.and(decoded);
    }
    progress.finish();
    // Also after an error: the frames before it are good.
    let flushed = writer.flush();
    let decoded = decoded?;
    flushed?;

    let frames = writer.len();
    match decoded.end {
        End::Stopped => return Ok(Outcome::Interrupted { folder, frames }),
        End::Changed => {
            let what = format!(
                "no longer gives the frames that `{}` holds; delete that folder and ingest again",
                folder.display()
            );
            return Err(IngestError::input(&input.path, what));
        }
        End::Source | End::Range => {}
    }
    if frames == 0 {
        writer.discard()?;
        return Err(no_frames(input, options, &decoded));
    }
    let notes = notes(&promise, &decoded, &gaps, clock.mended(), source.notes());
    let report = Report { expected_s: promise.duration_s, notes: notes.clone() };
    writer.finish(report)?;
    Ok(Outcome::Complete { folder, frames, notes })
}

/// The number of frames of the input's store when that is complete; nothing when there is work to do.
pub fn stored_frames(
    input: &Input,
    options: &IngestOptions,
    stores: &Path,
) -> Result<Option<usize>, IngestError> {
    let folder = input.store_folder(stores, options);
    if !folder.join("complete").exists() {
        return Ok(None);
    }
    let store = FrameStore::open(&folder)?;
    store.check_index()?;
    // The folder's name follows from both, unless somebody renamed it.
    let stored = store.header();
    let (source, options) = (input.source.clone(), options.clone());
    stored.expect_equal(&StoreHeader { source, options, ..stored.clone() }, &folder)?;
    Ok(Some(store.len()))
}

/// The last stored frame, by which the place in the source is found again.
struct Anchor {
    stamp: Stamp,
    jpeg: Vec<u8>,
}

/// What earlier runs stored: the last frame, and the gaps between all.
fn kept(writer: &StoreWriter) -> Result<(Option<Anchor>, Gaps), IngestError> {
    let store = writer.stored()?;
    let mut gaps = Gaps::default();
    for frame in 0..store.len() {
        gaps.see(store.pts_us(frame)?);
    }
    let Some(last) = store.len().checked_sub(1) else { return Ok((None, gaps)) };
    let stamp = Stamp { pts_us: store.pts_us(last)?, source_frame: store.source_frame(last)? };
    Ok((Some(Anchor { stamp, jpeg: store.jpeg(last)?.to_vec() }), gaps))
}

/// The first frame that can be had: it tells the size of all.
fn first_picture(
    source: &mut dyn FrameSource,
    input: &Input,
    stop: &AtomicBool,
    picture: &mut Mat,
) -> Result<Stamp, IngestError> {
    while let Some(stamp) = source.grab()? {
        if source.retrieve(picture)? && !picture.empty() {
            return Ok(stamp);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let what = "has no frame that can be decoded; copy or download it again";
    Err(IngestError::input(&input.path, what))
}

/// Makes the source go on after the anchor, by a seek where that gives the very same frame.
///
/// Otherwise reading starts again, and all frames up to the number given back must be skipped.
fn go_to(
    source: &mut dyn FrameSource,
    anchor: &Anchor,
    format: Format,
    picture: &mut Mat,
) -> Result<Option<u64>, IngestError> {
    let found = source.seek(anchor.stamp)?
        && source.retrieve(picture)?
        && Encoder::new(format)?.encode(picture)? == anchor.jpeg;
    if found {
        return Ok(None);
    }
    source.rewind()?;
    Ok(Some(anchor.stamp.source_frame))
}

fn no_frames(input: &Input, options: &IngestOptions, decoded: &Decoded) -> IngestError {
    let from = clock_time(options.start_s.unwrap_or(0.0));
    let to = options.end_s.map_or("its end".into(), clock_time);
    let last = clock_time(decoded.last_us as f64 * 1e-6);
    let what = match decoded.end {
        End::Source => format!("has no frames from {from} to {to}: its last frame is at {last}"),
        _ => format!("has no frames from {from} to {to}; give a longer range"),
    };
    IngestError::input(&input.path, what)
}
