//! `dora-ingest analyze`: the paper's figure 2 for any set of videos, at equal length.
//!
//! Lightness over time drifts in a walk and jumps elsewhere; a walk has next to no cuts and shows many
//! classes of objects. docs/analysis.md defines every figure.
//!
//! Frames are decoded once, in order, and measured one by one; nothing of a video is kept but a few
//! numbers for each frame.

mod detections;
mod figure;
mod frames;
mod lightness;
mod output;
mod scenes;
mod summary;
mod table;

use crate::command::{parse_fps, parse_time, stop_on_signals};
use crate::error::IngestError;
use crate::input::Input;
use crate::progress::Progress;
use crate::quiet;
use crate::report::clock_time;
use anyhow::Context;
use frames::Frames;
use lightness::LightMeter;
use opencv::core::MatTraitConstManual;
use output::Output;
use scenes::ContentMeter;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use summary::{Frame, Video};

/// What `dora-ingest analyze` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Video files, folders of images, or `.txt` lists of images
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Folder for the figure and the tables
    #[arg(long, value_name = "DIR", default_value = "data/analysis")]
    pub out: PathBuf,
    /// Compare the beginnings of this length, in seconds or as h:mm:ss; by default, as much as the
    /// shortest has
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub seconds: Option<f64>,
    /// A detector's output: CSV with the columns frame and class, and video for several videos
    #[arg(long, value_name = "FILE")]
    pub detections: Option<PathBuf>,
    /// Images only: how many of them are a second
    #[arg(long, value_name = "F", value_parser = parse_fps)]
    pub fps: Option<f64>,
    /// Let OpenCV and FFmpeg say what they think of the files
    #[arg(short, long)]
    pub verbose: bool,
}

/// Analyses the inputs and writes figure and tables; prints their paths on stdout, everything else on
/// stderr.
///
/// The exit status is 0, or 128 + n when signal n interrupted: nothing is written then.
///
/// # Errors
/// An input or a file of detections that cannot be used, a folder that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let inputs: Result<Vec<Input>, _> =
        args.inputs.iter().map(|path| Input::identify(path)).collect();
    let inputs = inputs?;
    check(args, &inputs)?;
    if !args.verbose {
        quiet::restart_silenced();
    }
    let paths: Vec<&Path> = inputs.iter().map(|input| input.path.as_path()).collect();
    let detections = args.detections.as_ref().map(|file| detections::read(file, &paths));
    let detections = detections.transpose()?;
    let promised_s = promises(&inputs, args)?;
    let output = Output::create(&args.out)?;
    let (stop, signal) = stop_on_signals().context("cannot listen for Ctrl-C")?;

    let mut length_us = args.seconds.map_or(i64::MAX, |seconds| (seconds * 1e6).round() as i64);
    let mut measured = Vec::with_capacity(inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        // What others will not reach need not be read; promises are estimates.
        let others_s = promised_s[number + 1..].iter().flatten().copied().fold(1e9, f64::min);
        let end_us = length_us.min(((others_s * 1.02 + 1.0) * 1e6) as i64);
        let Some((frames, found_us)) = read(input, args.fps, promised_s[number], end_us, &stop)?
        else {
            eprintln!("interrupted; nothing is written");
            return Ok(ExitCode::from(128 + signal.load(Ordering::Relaxed) as u8));
        };
        if args.seconds.is_some() && found_us < length_us {
            let found = clock_time(found_us as f64 * 1e-6);
            eprintln!("warning: {}: ends at {found}; all are cut to that", input.path.display());
        }
        length_us = length_us.min(found_us);
        measured.push(frames);
    }

    let mut videos = Vec::with_capacity(inputs.len());
    for (number, frames) in measured.into_iter().enumerate() {
        let found = detections.as_ref().map(|detections| &detections[number]);
        let video = Video::new(name(&inputs, number), frames, found, length_us);
        videos.push(video.ok_or_else(|| {
            let length = clock_time(length_us as f64 * 1e-6);
            let what = format!("has no frame before {length}, where all are cut; leave it out");
            IngestError::input(paths[number], what)
        })?);
    }
    videos.iter().for_each(|video| tell(video, length_us));
    for path in output.finish(&videos, length_us)? {
        writeln!(std::io::stdout(), "{}", path.display()).context("cannot write to stdout")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what cannot be compared.
fn check(args: &Args, inputs: &[Input]) -> anyhow::Result<()> {
    anyhow::ensure!(args.seconds != Some(0.0), "`--seconds 0` leaves nothing to compare");
    anyhow::ensure!(
        args.fps.is_none() || inputs.iter().any(Input::is_images),
        "`--fps` is for images, and there are none; leave it out"
    );
    for (number, input) in inputs.iter().enumerate() {
        if inputs[..number].iter().any(|other| other.source.digest == input.source.digest) {
            let what = "is there twice; give each video once";
            return Err(IngestError::input(&input.path, what).into());
        }
    }
    Ok(())
}

/// The duration in seconds that each input claims, where it does.
fn promises(inputs: &[Input], args: &Args) -> Result<Vec<Option<f64>>, IngestError> {
    let promise = |input: &Input| {
        let promised_s = Frames::open(input, args.fps)?.promised_s();
        if let (Some(promised_s), Some(seconds)) = (promised_s, args.seconds)
            // The claim is an estimate.
            && promised_s * 1.001 < seconds
        {
            let what = format!(
                "lasts {promised_s:.1} s, less than `--seconds {seconds}`: all are compared over the \
                 same length, so ask for less or leave it out"
            );
            return Err(IngestError::input(&input.path, what));
        }
        Ok(promised_s)
    };
    inputs.iter().map(promise).collect()
}

/// Measures the frames of an input up to about `end_us`, and says where they end; nothing when the
/// user interrupted.
fn read(
    input: &Input,
    fps: Option<f64>,
    promised_s: Option<f64>,
    end_us: i64,
    stop: &AtomicBool,
) -> Result<Option<(Vec<Frame>, i64)>, IngestError> {
    let end_s = promised_s.unwrap_or(f64::MAX).min(end_us as f64 * 1e-6);
    let mut progress = Progress::new(&input.source.name, 0.0, end_s, None);
    let (light, mut content) = (LightMeter::new(), ContentMeter::default());
    let mut found = Vec::new();
    let ended = Frames::open(input, fps)?.read(
        end_us,
        stop,
        |bgr| Ok((light.mean(bgr.data_bytes()?), content.score(bgr)?)),
        |pts_us, source_frame, (lightness, score)| {
            found.push(Frame { source_frame, pts_us, lightness, score });
            progress.frame(pts_us);
        },
    );
    progress.finish();
    let ended = ended?;
    if ended.stopped {
        return Ok(None);
    }
    if found.is_empty() {
        let what = "has no frame that can be decoded; copy or download it again";
        return Err(IngestError::input(&input.path, what));
    }
    let mut notes = ended.notes;
    if ended.lost > 0 {
        notes.push(format!("{} frames could not be converted", ended.lost));
    }
    let found_s = ended.end_us as f64 * 1e-6;
    if found_s < end_s - (end_s * 0.02).max(1.0) && end_s < 1e9 {
        notes.push(format!("{found_s:.1} of {end_s:.1} s could be decoded"));
    }
    for note in notes {
        eprintln!("warning: {}: {note}", input.path.display());
    }
    Ok(Some((found, ended.end_us)))
}

/// What a video is called: its file's name, or its path where another has the same.
fn name(inputs: &[Input], number: usize) -> String {
    let input = &inputs[number];
    let same = inputs.iter().filter(|other| other.source.name == input.source.name).count();
    if same > 1 { input.path.display().to_string() } else { input.source.name.clone() }
}

fn tell(video: &Video, length_us: i64) {
    let summary = video.summary();
    let cuts = video.cuts.len();
    let mut said = format!(
        "{}: {cuts} cut{} in {:.1} s; lightness {:.1} with a deviation of {:.1}",
        video.name,
        if cuts == 1 { "" } else { "s" },
        length_us as f64 * 1e-6,
        summary.lightness_mean,
        summary.lightness_sd,
    );
    if let (Some(mean), Some(classes)) = (summary.classes_per_frame, summary.classes) {
        said += &format!("; {mean:.1} classes per frame, {classes} in all");
    }
    eprintln!("{said}");
}
