//! One input into its store: found complete, gone on with, or made.

use crate::clock::Clock;
use crate::encode::Format;
use crate::error::IngestError;
use crate::input::{Input, Means};
use crate::intake::{Anchor, Intake};
use crate::pipeline::{self, Decoded, End, Range};
use crate::progress::Progress;
use crate::report::{clock_time, notes};
use crate::source::{Begin, Damage, Promise, Stamp};
use crate::stills::Stills;
use crate::thin::Thin;
use dora_store::{FrameStore, IngestOptions, Report, StoreHeader, StoreWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A run that goes on looks again at this much of what is stored: the beginning of a stretch that may
/// turn out to be frozen lies in it.
const LOOK_BACK_US: i64 = 4_000_000;

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
        /// How many decoders worked side by side.
        decoders: usize,
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
    means: &Means,
    stores: &Path,
    stop: &AtomicBool,
) -> Result<Outcome, IngestError> {
    let folder = input.store_folder(stores, options);
    if let Some(frames) = stored_frames(input, options, stores)? {
        return Ok(Outcome::NothingToDo { folder, frames });
    }
    let name = input.path.display();
    let mut footage = input.open(options, means)?;
    let promise = footage.promise();
    let how = footage.describe();
    let format = Format::new(footage.size_px()?, options.short_side_px, options.jpeg_quality);
    let header = StoreHeader {
        source: input.source.clone(),
        options: options.clone(),
        width_px: format.width_px,
        height_px: format.height_px,
    };
    let (mut writer, resumed) = StoreWriter::create_or_resume(&folder, &header)?;
    let stored = writer.stored()?;
    let anchor = anchor(&stored)?;
    if let Some(anchor) = &anchor {
        let time = clock_time(anchor.pts_us as f64 * 1e-6);
        eprintln!("{name}: going on after {} frames, at {time}", resumed.frames);
    }

    let us = |time_s: f64| (time_s * 1e6).round() as i64;
    let start_us = options.start_s.map_or(i64::MIN, us);
    let mut reading = footage.read(&Begin {
        start_us,
        anchor: anchor
            .as_ref()
            .map(|anchor| Stamp { pts_us: anchor.pts_us, source_frame: anchor.source_frame }),
        stored: &|pts_us| number_at(&stored, pts_us),
    })?;
    drop(stored);
    let after = anchor.as_ref().map(|anchor| anchor.source_frame);
    let range = Range {
        interval_us: promise.interval_us,
        start_us,
        end_us: options.end_s.map_or(i64::MAX, us),
        after,
        again_us: anchor
            .as_ref()
            .map_or(i64::MIN, |anchor| anchor.pts_us.saturating_sub(LOOK_BACK_US)),
    };
    let changed = || {
        let what = format!(
            "no longer gives the frames that `{}` holds; delete that folder and ingest again",
            folder.display()
        );
        IngestError::input(&input.path, what)
    };
    let thin = options.store_fps.map(|fps| Thin::new(fps, promise.interval_us));
    let end_s = options.end_s.unwrap_or(f64::MAX).min(promise.duration_s.unwrap_or(f64::MAX));
    let start_s = options.start_s.unwrap_or(0.0);
    let mut intake = Intake {
        clock: Clock::new(promise.interval_us),
        thin,
        last_step: anchor.as_ref().and_then(|anchor| Some(thin?.step(anchor.pts_us))),
        // Single images are what the user chose.
        stills: (!options.keep_stills && !input.is_images()).then(Stills::new),
        anchor,
        changed: &changed,
        progress: Progress::new(&input.source.name, how, start_s, end_s, writer.last_pts_us()),
        writer: &mut writer,
    };
    let mut decoded =
        pipeline::run(&mut reading, range, thin, format, stop, |number, us, frame| {
            intake.take(number, us, frame)
        });
    if let Ok(Decoded { end: end @ (End::Source | End::Range), last_frame, .. }) = decoded {
        let frames = last_frame.map_or(0, |last_frame| last_frame + 1);
        let alone = reading.lanes.first().filter(|_| end == End::Source);
        let steps_us = alone.and_then(|lane| lane.last_steps_us(frames, intake.clock.held()));
        let finished = intake.finish(steps_us.as_deref());
        decoded = finished.and(decoded);
    }
    intake.progress.finish();
    let Intake { clock, stills, .. } = intake;
    // Also after an error: the frames before it are good.
    let flushed = writer.flush();
    let decoded = decoded.map_err(|error| error.of(&input.path))?;
    flushed?;

    let frames = writer.len();
    if decoded.end == End::Changed {
        return Err(changed());
    }
    if decoded.end == End::Stopped {
        return Ok(Outcome::Interrupted { folder, frames });
    }
    let stretches = stills.as_ref().map_or(&[][..], Stills::found);
    if frames == 0 {
        writer.discard()?;
        return Err(match stretches {
            [] => no_frames(input, options, &decoded),
            [stretch, ..] => {
                IngestError::input(&input.path, format!("gives no frame: {}", stretch.note()))
            }
        });
    }
    let damage =
        reading.lanes.iter().map(|lane| lane.damage()).fold(Damage::default(), Damage::and);
    // Frames that nobody wants are not all decoded.
    let count = promise.frames.filter(|_| thin.is_none() && options.start_s.is_none());
    let promise = Promise { frames: count, ..promise };
    let gaps = writer.stored()?.gaps()?;
    let notes = notes(&promise, &decoded, &gaps, stretches, clock.mended(), damage);
    let report = Report { expected_s: promise.duration_s, notes: notes.clone() };
    writer.finish(report)?;
    Ok(Outcome::Complete { folder, frames, decoders: reading.lanes.len(), notes })
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

/// The last frame that earlier runs stored.
fn anchor(store: &FrameStore) -> Result<Option<Anchor>, IngestError> {
    let Some(last) = store.len().checked_sub(1) else { return Ok(None) };
    Ok(Some(Anchor {
        pts_us: store.pts_us(last)?,
        source_frame: store.source_frame(last)?,
        jpeg: store.jpeg(last)?.to_vec(),
    }))
}

/// The number of the stored frame with exactly this time stamp.
fn number_at(store: &FrameStore, pts_us: i64) -> Option<u64> {
    let frame = store.frame_at_us(pts_us).ok()?;
    let is_same = store.pts_us(frame).ok()? == pts_us;
    is_same.then(|| store.source_frame(frame).ok())?
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
