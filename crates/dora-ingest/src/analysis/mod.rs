//! `dora-ingest analyze`: the paper's figure 2 for any set of videos, at equal length.
//!
//! Lightness over time drifts in a walk and jumps elsewhere; a walk has next to no cuts and shows many
//! classes of objects. docs/analysis.md defines every figure.
//!
//! Frames are decoded once, in order, and measured one by one; nothing of a video is kept but a few
//! numbers for each frame. Those are kept in a file too, so that another length, another set or a file
//! of detections that comes later need no decoding.

mod detections;
mod figure;
mod frames;
mod lightness;
mod measured;
mod output;
mod scenes;
mod summary;
mod table;

use crate::command::{parse_fps, parse_time, stop_on_signals};
use crate::error::IngestError;
use crate::input::Input;
use crate::quiet;
use crate::report::clock_time;
use anyhow::Context;
use detections::Detections;
use frames::Frames;
use measured::Measured;
use output::Output;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use summary::Video;

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
/// The exit status is 0, or 128 + n when signal n interrupted: figure and tables are not written then,
/// but the videos that were measured are not measured again.
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

    let Some(measured) = measure_all(&inputs, args, &promised_s, &output.measured(), &stop)? else {
        return Ok(ExitCode::from(128 + signal.load(Ordering::Relaxed) as u8));
    };
    let length_us = measured.iter().map(|measured| measured.end_us).fold(wanted_us(args), i64::min);
    let mut videos = Vec::with_capacity(inputs.len());
    for (number, measured) in measured.into_iter().enumerate() {
        let detections = detections.as_ref().map(|detections| &detections[number]);
        let last_frame = measured.frames.last().map(|frame| frame.source_frame);
        let last_detected = detections.and_then(Detections::last_frame);
        if measured.is_whole && last_detected > last_frame {
            let (named, last) = (last_detected.unwrap_or(0), last_frame.unwrap_or(0));
            let video = paths[number].display();
            eprintln!("warning: {video}: ends with frame {last}, but detections name {named}");
        }
        let video = Video::new(name(&inputs, number), measured.frames, detections, length_us);
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

/// Measures every input as far as all of them go, or finds it measured in `kept`; nothing when the user
/// interrupted.
fn measure_all(
    inputs: &[Input],
    args: &Args,
    promised_s: &[Option<f64>],
    kept: &Path,
    stop: &AtomicBool,
) -> Result<Option<Vec<Measured>>, IngestError> {
    let wanted_us = wanted_us(args);
    let mut length_us = wanted_us;
    let mut all = Vec::with_capacity(inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        // What others will not reach need not be read; promises are estimates.
        let others_s = promised_s[number + 1..].iter().flatten().copied().fold(1e9, f64::min);
        let end_us = length_us.min(((others_s * 1.02 + 1.0) * 1e6) as i64);
        let (fps, promised_s) = (fps_of(input, args), promised_s[number]);
        let measured = match Measured::load(kept, input, fps, end_us) {
            Some(measured) => Some(measured),
            None => Measured::measure(kept, input, fps, promised_s, end_us, stop)?,
        };
        let Some(measured) = measured else {
            eprintln!(
                "interrupted with {number} of {} videos measured; run the same command again to go on",
                inputs.len()
            );
            return Ok(None);
        };
        let name = input.path.display();
        measured.notes.iter().for_each(|note| eprintln!("warning: {name}: {note}"));
        if args.seconds.is_some() && measured.end_us < wanted_us {
            let end = clock_time(measured.end_us as f64 * 1e-6);
            eprintln!("warning: {name}: ends at {end}; all are cut to that");
        }
        length_us = length_us.min(measured.end_us);
        all.push(measured);
    }
    Ok(Some(all))
}

/// The length that the user asked for, in microseconds; without end where there is none.
fn wanted_us(args: &Args) -> i64 {
    args.seconds.map_or(i64::MAX, |seconds| (seconds * 1e6).round() as i64)
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
        let promised_s = Frames::open(input, fps_of(input, args))?.promised_s();
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

/// The rate for an input: videos have their own.
fn fps_of(input: &Input, args: &Args) -> Option<f64> {
    args.fps.filter(|_| input.is_images())
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
