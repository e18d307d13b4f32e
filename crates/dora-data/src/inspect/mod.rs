//! What a frame store holds, in figures, and a contact sheet of it.

pub mod label;
mod sheet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dora_store::{Decoder, FrameStore, Gap, IngestOptions, Source};
use serde::Serialize;

use crate::bench::{clip_for, measure, shard_bytes};
use crate::crop::CropBox;
use crate::jpeg_part;
use crate::output::{JsonFile, check_writable};

/// How long the loader is measured.
const LOADER_S: f64 = 2.0;
/// The most gaps that are listed one by one.
const MOST_GAPS: usize = 10;

/// What to look at, and where the results go.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Folder of a frame store, complete or not
    store: PathBuf,
    /// PNG to draw the contact sheet to [default: beside the store]
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    #[command(flatten)]
    json: JsonFile,
}

/// The figures of a store.
#[derive(Debug, Serialize)]
struct Figures {
    store: String,
    complete: bool,
    source: Source,
    options: IngestOptions,
    notes: Vec<String>,
    width_px: u32,
    height_px: u32,
    frames: usize,
    bytes: u64,
    /// Whether the loader can decode the part of a frame alone.
    parts: bool,
    #[serde(flatten)]
    times: Times,
    #[serde(skip_serializing_if = "Option::is_none")]
    loader: Option<Speed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sheet: Option<PathBuf>,
}

/// When the frames are.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Times {
    start_s: f64,
    /// From the first stamp to the last.
    duration_s: f64,
    mean_fps: f64,
    /// By the longest interval between two frames.
    min_fps: f64,
    /// By the shortest one.
    max_fps: f64,
    /// The first gaps; `gaps_in_all` is how many there are.
    gaps: Vec<Pause>,
    gaps_in_all: usize,
}

/// A [`Gap`] in seconds.
#[derive(Debug, PartialEq, Serialize)]
struct Pause {
    at_s: f64,
    length_s: f64,
}

impl Pause {
    fn of(gap: &Gap) -> Self {
        Self { at_s: gap.from_us as f64 * 1e-6, length_s: gap.length_s() }
    }
}

#[derive(Debug, Serialize)]
struct Speed {
    threads: usize,
    clips_per_s: f64,
    frames_per_s: f64,
}

/// Prints the figures of a store, draws its contact sheet, and writes JSON where asked.
///
/// # Errors
/// There is no store, it is damaged or being written, or a result cannot be written.
pub fn inspect(what: &Inspect) -> anyhow::Result<()> {
    let store = Arc::new(FrameStore::open(&what.store)?);
    store.check_index()?;
    let sheet = what.sheet.clone().unwrap_or_else(|| beside(store.folder()));
    check_writable("--sheet", &sheet)?;
    what.json.check()?;
    let stamps_us = (0..store.len()).map(|frame| store.pts_us(frame));
    let times = Times::new(stamps_us, &store.gaps()?)?;
    let mut figures = Figures {
        store: store.folder().display().to_string(),
        complete: store.is_complete(),
        source: store.header().source.clone(),
        options: store.header().options.clone(),
        notes: store.complete().map_or_else(Vec::new, |complete| complete.report.notes.clone()),
        width_px: store.header().width_px,
        height_px: store.header().height_px,
        frames: store.len(),
        bytes: shard_bytes(&store)?,
        parts: has_parts(&store)?,
        times,
        loader: None,
        sheet: None,
    };
    if !store.is_empty() {
        say!("drawing the contact sheet ...");
        sheet::draw(&store, &sheet)?;
        figures.sheet = Some(sheet);
        say!("measuring the loader, about {LOADER_S:.0} s ...");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let rates = measure(&store, clip_for(&store)?, threads, LOADER_S, false)?;
        figures.loader = Some(Speed {
            threads,
            clips_per_s: rates.decode_crop_clips_per_s,
            frames_per_s: rates.decode_crop_frames_per_s,
        });
    }
    what.json.tell(&figures.table(), &figures)
}

impl Times {
    /// From the time stamps in order, in microseconds.
    fn new<E>(stamps_us: impl Iterator<Item = Result<i64, E>>, gaps: &[Gap]) -> Result<Self, E> {
        let stamps_us = stamps_us.collect::<Result<Vec<_>, _>>()?;
        let (Some(&first_us), Some(&last_us)) = (stamps_us.first(), stamps_us.last()) else {
            return Ok(Self::default());
        };
        let intervals = || stamps_us.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let duration_s = last_us.saturating_sub(first_us) as f64 * 1e-6;
        let fps = |interval_us: Option<i64>| interval_us.map_or(0.0, |us| 1e6 / us as f64);
        Ok(Self {
            start_s: first_us as f64 * 1e-6,
            duration_s,
            mean_fps: if duration_s > 0.0 {
                (stamps_us.len() - 1) as f64 / duration_s
            } else {
                0.0
            },
            min_fps: fps(intervals().max()),
            max_fps: fps(intervals().min()),
            gaps: gaps.iter().take(MOST_GAPS).map(Pause::of).collect(),
            gaps_in_all: gaps.len(),
        })
    }
}

impl Figures {
    fn table(&self) -> Vec<(&'static str, String)> {
        let Times { start_s, duration_s, mean_fps, min_fps, max_fps, gaps, gaps_in_all } =
            &self.times;
        let complete = if self.complete {
            "complete"
        } else {
            "not complete: `cargo xtask ingest` goes on with it"
        };
        let files = match self.source.files {
            1 => String::new(),
            files => format!("{files} files, "),
        };
        let source =
            format!("{} ({files}{:.1} MB)", self.source.name, self.source.size_bytes as f64 / 1e6);
        let IngestOptions {
            short_side_px,
            jpeg_quality,
            start_s: from,
            end_s: to,
            images_fps,
            store_fps,
            keep_stills,
            decoder,
        } = &self.options;
        let mut options = format!("short side {short_side_px} px, JPEG quality {jpeg_quality}");
        let times = [
            ("from", from, " s"),
            ("to", to, " s"),
            ("images at", images_fps, "/s"),
            ("at most", store_fps, " frames/s"),
        ];
        for (name, value, unit) in times {
            if let Some(value) = value {
                options += &format!(", {name} {value}{unit}");
            }
        }
        options += match decoder {
            Decoder::Ffmpeg => "",
            Decoder::OpenCv => ", decoded by OpenCV",
        };
        options += if *keep_stills { ", with blank and frozen stretches" } else { "" };
        let each_kb = self.bytes as f64 / 1e3 / self.frames.max(1) as f64;
        let size = format!("{:.1} MB, {each_kb:.1} kB a frame", self.bytes as f64 / 1e6);
        let rate = format!("{mean_fps:.2} frames/s, from {min_fps:.2} to {max_fps:.2}");
        let mut table = vec![
            ("store", self.store.clone()),
            ("state", complete.to_owned()),
            ("source", source),
            ("options", options),
            ("frames", format!("{} of {}x{} px", self.frames, self.width_px, self.height_px)),
            ("size", size),
            ("parts", if self.parts { "decoded alone" } else { "no, whole frames" }.to_owned()),
            ("time", format!("{} from {} on", clock(*duration_s), clock(*start_s))),
            ("rate", rate),
        ];
        if gaps.is_empty() {
            table.push(("gaps", "none".to_owned()));
        }
        for Pause { at_s, length_s } in gaps {
            table.push(("gap", format!("{length_s:.1} s at {}", clock(*at_s))));
        }
        if *gaps_in_all > gaps.len() {
            table.push(("", format!("{} more", gaps_in_all - gaps.len())));
        }
        table.extend(self.notes.iter().map(|note| ("note", note.clone())));
        if let Some(Speed { threads, clips_per_s, frames_per_s }) = &self.loader {
            let speed = format!(
                "{clips_per_s:.1} clips/s, {frames_per_s:.0} frames/s with {threads} thread(s)"
            );
            table.push(("loader", speed));
        }
        let sheet = self.sheet.iter().map(|path| ("sheet", path.display().to_string()));
        table.extend(sheet);
        table
    }
}

/// Whether a corner of the first frame can be cut out of its JPEG.
fn has_parts(store: &FrameStore) -> anyhow::Result<bool> {
    if store.is_empty() {
        return Ok(false);
    }
    let corner = CropBox { left_px: 0, top_px: 0, width_px: 1, height_px: 1 };
    Ok(jpeg_part::cut(store.jpeg(0)?, corner, &mut Vec::new()).is_some())
}

/// `stores/a.store` to `stores/a.png`.
fn beside(store: &Path) -> PathBuf {
    // `.` and `..` have no name to change.
    let whole = store.canonicalize().unwrap_or_else(|_| store.to_owned());
    let path = if store.file_name().is_some() { store } else { &whole };
    path.with_extension("png")
}

/// Seconds as "0:01:23.4".
pub fn clock(time_s: f64) -> String {
    let tenths = (time_s.abs() * 10.0).round() as u64;
    let (sign, seconds) = (if time_s < 0.0 && tenths > 0 { "-" } else { "" }, tenths / 10);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{sign}{hours}:{minutes:02}:{:02}.{}", seconds % 60, tenths % 10)
}
