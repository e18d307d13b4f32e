//! What was measured of one input, kept so that it is not decoded again.

use super::frames::{End, Frames};
use super::lightness::LightMeter;
use super::scenes::ContentMeter;
use super::summary::Frame;
use crate::error::IngestError;
use crate::input::Input;
use crate::progress::Progress;
use dora_store::record::{self, Record};
use dora_store::{IngestOptions, Source};
use opencv::core::MatTraitConstManual;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The frames of an input, from the first one on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    source: Source,
    images_fps: Option<f64>,
    /// Whether the input has no more.
    pub(super) is_whole: bool,
    /// The end of the last frame, in microseconds.
    pub(super) end_us: i64,
    /// At least one, in the order of time.
    pub(super) frames: Vec<Frame>,
    /// What was lost or odd, in sentences.
    pub(super) notes: Vec<String>,
}

impl Record for Measured {
    const NAME: &'static str = "file of measured frames";
    const MAGIC: [u8; 8] = *b"DORAMEAS";
    /// Raised as well when the same frame would give other figures.
    const VERSION: u32 = 1;
}

impl Measured {
    /// What an earlier run kept in `folder`, if it reaches `end_us` or the input's end.
    pub(super) fn load(
        folder: &Path,
        input: &Input,
        images_fps: Option<f64>,
        end_us: i64,
    ) -> Option<Self> {
        // Whatever is wrong with the file, measuring again mends it.
        let kept: Self = record::read_file(&path_of(folder, input, images_fps)).ok()?;
        let fits = kept.source == input.source
            && kept.images_fps == images_fps
            && (kept.is_whole || kept.end_us >= end_us);
        fits.then_some(kept)
    }

    /// Decodes and measures an input up to its end or a little beyond `end_us`, and keeps the result
    /// in `folder`; nothing when the user interrupted.
    ///
    /// `images_fps` is there for images alone; `promised_s` is the duration that the input claims.
    pub(super) fn measure(
        folder: &Path,
        input: &Input,
        images_fps: Option<f64>,
        promised_s: Option<f64>,
        end_us: i64,
        stop: &AtomicBool,
    ) -> Result<Option<Self>, IngestError> {
        let end_s = promised_s.unwrap_or(f64::INFINITY).min(end_us as f64 * 1e-6);
        let mut progress = Progress::new(&input.source.name, None, 0.0, end_s, None);
        let (light, mut content) = (LightMeter::new(), ContentMeter::default());
        let mut frames = Vec::new();
        let read = Frames::open(input, images_fps)?.read(
            end_us,
            stop,
            |bgr| Ok((light.mean(bgr.data_bytes()?), content.score(bgr)?)),
            |pts_us, source_frame, (lightness, score)| {
                frames.push(Frame { source_frame, pts_us, lightness, score });
                progress.frame(pts_us);
            },
        );
        progress.finish();
        let read = read?;
        if read.end == End::Stopped {
            return Ok(None);
        }
        if frames.is_empty() {
            let what = "has no frame that can be decoded; copy or download it again";
            return Err(IngestError::input(&input.path, what));
        }
        let mut notes = read.notes;
        if read.lost > 0 {
            notes.push(format!("{} frames could not be converted", read.lost));
        }
        let read_s = read.end_us as f64 * 1e-6;
        let expected_s = promised_s.filter(|s| read_s < s - (s * 0.02).max(1.0));
        if let (Some(expected_s), End::Source) = (expected_s, read.end) {
            notes.push(format!("{read_s:.1} of {expected_s:.1} s could be decoded"));
        }
        let measured = Self {
            source: input.source.clone(),
            images_fps,
            is_whole: read.end == End::Source,
            end_us: read.end_us,
            frames,
            notes,
        };
        if let Err(error) = record::write_file(&path_of(folder, input, images_fps), &measured) {
            // The figure does not need it.
            eprintln!("warning: {:#}; it would be measured again", anyhow::Error::from(error));
        }
        Ok(Some(measured))
    }
}

/// Named as a frame store would be: other files, other name.
fn path_of(folder: &Path, input: &Input, images_fps: Option<f64>) -> PathBuf {
    // The frames are measured before any of these is applied, but for the rate.
    let options = IngestOptions { images_fps, ..IngestOptions::default() };
    input.store_folder(folder, &options).with_extension("measured")
}
