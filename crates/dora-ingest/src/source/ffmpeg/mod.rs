//! Video files, decoded by FFmpeg's libraries.
//!
//! Where the container says where its key frames are (MP4, MOV, Matroska, WebM), every core decodes
//! a span between two of them by itself: no core waits for another, and the frames are those of
//! decoding in order. Elsewhere, and with few key frames, one decoder uses all cores.

mod lane;
pub(crate) mod raw;
mod spans;

use super::mp4::{self, Mp4};
use super::{Begin, Footage, FrameSource, Promise, Reading, Span};
use crate::error::IngestError;
use crate::picture::{Orientation, Picture, is_deep};
use crate::thin::Thin;
use ffmpeg::format::context::Input;
use ffmpeg::media;
use ffmpeg::{Dictionary, Rational};
use lane::Lane;
use spans::KeyFrames;
use std::path::{Path, PathBuf};
use std::thread;

/// What a decoder keeps: pictures that others refer to, and those on their way out.
const PICTURES_OF_DECODER: u64 = 12;
/// Decoders may take this share of the memory that is free.
const MEMORY_SHARE: u64 = 2;

/// A video file.
pub(crate) struct FfmpegVideo {
    path: PathBuf,
    hwaccel: Option<String>,
    track: Track,
    threads: usize,
    decoders: usize,
}

/// What is known of the file's video before any frame is decoded.
#[derive(Debug, Clone)]
struct Track {
    index: usize,
    time_base: Rational,
    /// The stamp of its beginning, in its time base.
    start: i64,
    codec: &'static str,
    size_px: (u32, u32),
    /// More than 8 bits a sample.
    is_deep: bool,
    promise: Promise,
    orientation: Orientation,
    has_index: bool,
    /// Which frames are wanted, where not all are.
    thin: Option<Thin>,
}

impl FfmpegVideo {
    /// Opens a video. Errors say what is wrong with the file.
    ///
    /// `hwaccel` names a kind of FFmpeg hardware decoder, as `cuda` or `vaapi`. With `store_fps` only so
    /// many frames a second are wanted, and others may be left out.
    pub(crate) fn open(
        path: &Path,
        hwaccel: Option<&str>,
        store_fps: Option<f64>,
    ) -> Result<Self, IngestError> {
        let mp4 = mp4::probe(path).map_err(IngestError::io("read", path))?;
        if mp4.as_ref().is_some_and(|mp4| !mp4.has_index) {
            return Err(IngestError::input(path, mp4::NO_INDEX));
        }
        let input = open_input(path)?;
        let mut track = Track::of(&input, path, mp4.as_ref())?;
        track.thin = store_fps.map(|fps| Thin::new(fps, track.promise.interval_us));
        let hwaccel = hwaccel.filter(|kind| match raw::check_hwaccel(kind) {
            Ok(()) => true,
            Err(reason) => {
                let path = path.display();
                eprintln!(
                    "warning: {path}: no hardware decoder `{kind}` ({reason}); decoding on the CPU"
                );
                false
            }
        });
        let hwaccel = hwaccel.map(str::to_owned);
        // As many as there is memory for: side by side, or as threads of one.
        let threads = if hwaccel.is_some() { 1 } else { track.threads(cores()) };
        let decoders = if threads > 1 && track.has_index {
            spans::decoders(path, &track, threads)?
        } else {
            1
        };
        Ok(Self { path: path.to_owned(), hwaccel, track, threads, decoders })
    }

    /// One decoder, which uses `threads` cores.
    fn lane(&self, threads: usize) -> Result<Lane, IngestError> {
        Lane::open(&self.path, &self.track, self.hwaccel.as_deref(), threads)
    }
}

impl Footage for FfmpegVideo {
    fn promise(&self) -> Promise {
        self.track.promise.clone()
    }

    fn describe(&self) -> Option<String> {
        let Track { codec, size_px: (width, height), .. } = self.track;
        let how = match (&self.hwaccel, self.decoders) {
            (Some(kind), _) => format!("decoded by `{kind}`"),
            (None, 1) => "one decoder".to_owned(),
            (None, n) => format!("{n} decoders side by side"),
        };
        let mb = self.track.decoder_bytes() * self.threads as u64 / 1_000_000;
        Some(format!("{width}x{height} {codec}, {how}, about {mb} MB for their pictures"))
    }

    fn size_px(&mut self) -> Result<(u32, u32), IngestError> {
        let mut lane = self.lane(1)?;
        lane.enter(Span::WHOLE)?;
        let mut picture: Option<Picture> = None;
        while lane.grab()?.is_some() {
            lane.retrieve(&mut picture)?;
            if let Some(picture) = &picture {
                return Ok(picture.size_px());
            }
        }
        Err(IngestError::input(&self.path, super::NO_FRAME))
    }

    fn read(self: Box<Self>, begin: &Begin<'_>) -> Result<Reading, IngestError> {
        let mut keys = KeyFrames::open(&self.path, &self.track)?;
        let (from_us, first_frame) = keys.before(begin);
        if self.decoders == 1 {
            let spans = std::iter::once(Span { from_us, until_us: None });
            let lanes: Vec<Box<dyn FrameSource>> = vec![Box::new(self.lane(self.threads)?)];
            return Ok(Reading { lanes, spans: Box::new(spans), first_frame });
        }
        let lanes = (0..self.decoders)
            .map(|_| Ok(Box::new(self.lane(1)?) as Box<dyn FrameSource>))
            .collect::<Result<_, IngestError>>()?;
        Ok(Reading { lanes, spans: Box::new(keys.spans(from_us)), first_frame })
    }
}

impl Track {
    fn of(input: &Input, path: &Path, mp4: Option<&Mp4>) -> Result<Self, IngestError> {
        let stream = input.streams().best(media::Type::Video).ok_or_else(|| {
            IngestError::input(path, "holds no video that FFmpeg can read; name another file")
        })?;
        let time_base = stream.time_base();
        let parameters = stream.parameters();
        let codec = parameters.id().name();
        let known = |value: i64| Some(value).filter(|&value| value != ffmpeg::ffi::AV_NOPTS_VALUE);
        let duration_s = known(stream.duration())
            .map(|duration| duration as f64 * f64::from(time_base))
            .or_else(|| known(input.duration()).map(|us| us as f64 * 1e-6))
            .filter(|s| (0.0..1e9).contains(s) && *s > 0.0);
        let frames = Some(stream.frames()).filter(|&frames| frames > 0).map(|frames| frames as u64);
        let rates = [stream.avg_frame_rate(), stream.rate()].map(f64::from);
        let fps = rates.into_iter().find(|fps| (1e-2..=1e4).contains(fps)).unwrap_or(25.0);
        let context = ffmpeg::codec::Context::from_parameters(parameters);
        let (size_px, format) = context
            .and_then(|context| context.decoder().video())
            .map(|decoder| ((decoder.width(), decoder.height()), decoder.format()))
            .map_err(|error| {
                let what =
                    format!("cannot be decoded: FFmpeg has no decoder for {codec} ({error})");
                IngestError::input(path, what)
            })?;
        Ok(Self {
            index: stream.index(),
            time_base,
            start: known(stream.start_time()).unwrap_or(0),
            codec,
            size_px,
            is_deep: is_deep(format),
            promise: Promise {
                interval_us: (1e6 / fps).round() as i64,
                duration_s,
                frames: frames.filter(|_| mp4.is_some()),
                missing_bytes: mp4.map_or(0, |mp4| mp4.missing_bytes),
            },
            orientation: mp4
                .and_then(|mp4| mp4.matrix)
                .map_or_else(Default::default, |matrix| Orientation::from_matrix(&matrix)),
            has_index: ["mov", "matroska"].iter().any(|name| input.format().name().contains(name)),
            thin: None,
        })
    }

    /// A stamp of the stream in microseconds since its start.
    fn us(&self, pts: i64) -> i64 {
        let Rational(numerator, denominator) = self.time_base;
        let ticks = i128::from(pts) - i128::from(self.start);
        let us = ticks * i128::from(numerator) * 1_000_000;
        let denominator = i128::from(denominator.max(1));
        // To the nearest, in whole numbers: the same everywhere.
        let us = (2 * us + denominator).div_euclid(2 * denominator);
        i64::try_from(us).unwrap_or(if us < 0 { i64::MIN } else { i64::MAX })
    }

    /// Where FFmpeg must seek to find the key frame of a stamp of ours, or the one before: half a
    /// frame later, since it rounds.
    fn seek_us(&self, pts_us: i64) -> i64 {
        let start_us = self.start as f64 * f64::from(self.time_base) * 1e6;
        pts_us.saturating_add(start_us as i64).saturating_add(self.promise.interval_us / 2)
    }

    fn decoder_bytes(&self) -> u64 {
        let (width, height) = self.size_px;
        let sample_bytes = if self.is_deep { 2 } else { 1 };
        u64::from(width) * u64::from(height) * 3 / 2 * sample_bytes * PICTURES_OF_DECODER
    }

    /// How many decoders, or threads of one, there is memory for.
    fn threads(&self, cores: usize) -> usize {
        let room = free_memory_bytes() / MEMORY_SHARE / self.decoder_bytes().max(1);
        cores.min(usize::try_from(room).unwrap_or(cores)).max(1)
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Opens a local file as that alone: a playlist must not make FFmpeg fetch others.
fn open_input(path: &Path) -> Result<Input, IngestError> {
    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "file");
    ffmpeg::format::input_with_dictionary(path, options).map_err(|error| {
        let what = format!(
            "is not a video that FFmpeg can read ({error}); if it should be one, copy or download \
             it again"
        );
        IngestError::input(path, what)
    })
}

/// What the system says is left, or plenty where it says nothing.
fn free_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}
