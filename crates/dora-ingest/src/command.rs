//! `dora-ingest ingest`: the command line, several inputs one after the other.

use crate::ingest::{Outcome, ingest, stored_frames};
use crate::input::{Input, Means};
use crate::quiet;
use crate::usage::peak_memory_bytes;
use anyhow::Context;
use dora_store::{Decoder, IngestOptions};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What `dora-ingest ingest` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Video files, folders of images, or `.txt` lists of images
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Folder for the frame stores
    #[arg(long, value_name = "DIR", default_value = "data/stores")]
    pub stores: PathBuf,
    /// Scale down until the shorter side has this many pixels; never up
    #[arg(long, value_name = "PX", default_value_t = 576, value_parser = clap::value_parser!(u32).range(16..=8192))]
    pub short_side: u32,
    /// JPEG quality
    #[arg(long, value_name = "Q", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Leave out what comes before, in seconds or as h:mm:ss
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub start: Option<f64>,
    /// Leave out what comes at or after, in seconds or as h:mm:ss
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub end: Option<f64>,
    /// How many images are a second; videos beside them keep their own times
    #[arg(long, value_name = "F", value_parser = parse_fps)]
    pub fps: Option<f64>,
    /// Store so many frames a second, not all of them; frames that nothing refers to are then not decoded
    #[arg(long, value_name = "F", value_parser = parse_fps)]
    pub store_fps: Option<f64>,
    /// Keep blank and frozen stretches
    #[arg(long)]
    pub keep_stills: bool,
    /// What decodes: FFmpeg's libraries, or OpenCV, which is slower
    #[arg(long, value_enum, default_value_t = DecoderName::Ffmpeg)]
    pub decoder: DecoderName,
    /// Use a hardware decoder of this kind, as `cuda` or `vaapi`; the CPU where there is none
    #[arg(long, value_name = "KIND")]
    pub hwaccel: Option<String>,
    /// Let OpenCV and FFmpeg say what they think of the file
    #[arg(short, long)]
    pub verbose: bool,
}

/// [`Decoder`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DecoderName {
    /// FFmpeg's libraries.
    Ffmpeg,
    /// OpenCV.
    Opencv,
}

/// Ingests every input; prints each store's folder on stdout, everything else on stderr.
///
/// An input that fails is reported and the others go on. The exit status is 0, 2 when an input
/// failed, 128 + n when signal n interrupted.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let (Some(start_s), Some(end_s)) = (args.start, args.end) {
        anyhow::ensure!(
            start_s < end_s,
            "`--start` is at {start_s} s, not before `--end` at {end_s} s"
        );
    }
    // What is wrong with any of them should be known before hours of decoding.
    let inputs: Result<Vec<Input>, _> =
        args.inputs.iter().map(|path| Input::identify(path)).collect();
    let inputs = inputs?;
    let options = IngestOptions {
        short_side_px: args.short_side,
        jpeg_quality: args.quality,
        start_s: args.start,
        end_s: args.end,
        images_fps: args.fps,
        store_fps: args.store_fps,
        keep_stills: args.keep_stills,
        decoder: match args.decoder {
            DecoderName::Ffmpeg => Decoder::Ffmpeg,
            DecoderName::Opencv => Decoder::OpenCv,
        },
    };
    // Videos among images keep their own times; where there are only videos, a rate is a mistake.
    let has_images = inputs.iter().any(Input::is_images);
    let options_of = |input: &Input| IngestOptions {
        images_fps: options.images_fps.filter(|_| input.is_images() || !has_images),
        ..options.clone()
    };
    let means = Means { hwaccel: args.hwaccel.clone() };
    quiet::silence_ffmpeg(!args.verbose);
    // A start anew takes a moment, which most runs can save.
    let stored = |input: &Input| {
        matches!(stored_frames(input, &options_of(input), &args.stores), Ok(Some(_)))
    };
    let by_opencv = |input: &&Input| options.decoder == Decoder::OpenCv || input.is_images();
    if !args.verbose && !inputs.iter().filter(by_opencv).all(stored) {
        quiet::restart_silenced();
    }
    let (stop, signal) = stop_on_signals().context("cannot listen for Ctrl-C")?;
    std::fs::create_dir_all(&args.stores)
        .with_context(|| format!("cannot make the folder `{}`", args.stores.display()))?;

    let mut failed = false;
    for input in &inputs {
        let name = input.path.display();
        let folder = match ingest(input, &options_of(input), &means, &args.stores, &stop) {
            Ok(Outcome::NothingToDo { folder, frames }) => {
                eprintln!("{name}: nothing to do, its {frames} frames are stored");
                folder
            }
            Ok(Outcome::Complete { folder, frames, decoders, notes }) => {
                for note in notes {
                    eprintln!("warning: {name}: {note}");
                }
                let memory = peak_memory_bytes().map(|bytes| bytes as f64 / 1e6);
                let memory = memory.map(|mb| format!("; memory {mb:.0} MB at most"));
                let by = match decoders {
                    1 => String::new(),
                    n => format!(" by {n} decoders side by side"),
                };
                eprintln!("{name}: {frames} frames stored{by}{}", memory.unwrap_or_default());
                folder
            }
            Ok(Outcome::Interrupted { frames, .. }) => {
                eprintln!(
                    "{name}: interrupted, {frames} frames are stored; run the same command again \
                     to go on"
                );
                return Ok(ExitCode::from(128 + signal.load(Ordering::Relaxed) as u8));
            }
            Err(error) => {
                failed = true;
                eprintln!("error: {:#}", anyhow::Error::from(error));
                continue;
            }
        };
        writeln!(std::io::stdout(), "{}", folder.display()).context("cannot write to stdout")?;
    }
    Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// A flag that Ctrl-C or SIGTERM sets, and which of them it was; a second signal ends the process at
/// once.
pub(crate) fn stop_on_signals() -> std::io::Result<(Arc<AtomicBool>, Arc<AtomicUsize>)> {
    let (stop, which) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down, sets it, and only the next one acts.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register_usize(signal, Arc::clone(&which), signal as usize)?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok((stop, which))
}

/// "90", "90.5", "1:30", "0:01:30.5" as seconds.
pub(crate) fn parse_time(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no time; write seconds or h:mm:ss");
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return Err(wrong());
    }
    let mut time_s = 0.0;
    for (place, part) in parts.iter().enumerate() {
        let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let value: f64 = part.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
        let last = place + 1 == parts.len();
        if (place > 0 && value >= 60.0) || (!last && value.fract() != 0.0) {
            return Err(wrong());
        }
        time_s = time_s * 60.0 + value;
    }
    // Far beyond any video, and still exact in microseconds.
    if time_s < 1e9 { Ok(time_s) } else { Err(wrong()) }
}

pub(crate) fn parse_fps(text: &str) -> Result<f64, String> {
    let fps = text.parse::<f64>().ok().filter(|fps| (1e-3..=1e3).contains(fps));
    fps.ok_or_else(|| format!("`{text}` is no frame rate from 0.001 to 1000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_clock_times() {
        for (text, expected_s) in [
            ("0", 0.0),
            ("90", 90.0),
            ("90.25", 90.25),
            ("1:30", 90.0),
            ("0:01:30.5", 90.5),
            ("2:00:00", 7200.0),
        ] {
            assert_eq!(parse_time(text), Ok(expected_s), "{text}");
        }
        for text in [
            "",
            "x",
            "-1",
            "1:60",
            "1:2:3:4",
            "1.5:00",
            "inf",
            "nan",
            "1e3",
            ":5",
            "5:",
            "9999999999",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn frame_rates_are_positive_and_finite() {
        assert_eq!(parse_fps("29.97"), Ok(29.97));
        for text in ["0", "-1", "nan", "inf", "1e9", "fast"] {
            assert!(parse_fps(text).is_err(), "{text}");
        }
    }
}
