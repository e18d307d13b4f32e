//! `davis` and `davis-metrics`: video object segmentation by an encoder, and of masks made elsewhere.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use anyhow::{Context, anyhow};
use clap::Args;
use dora_data::output::JsonFile;
use dora_eval::{
    encoder::{Encoder, EncoderArgs, rate::matrix_flops_per_s},
    images::masks::{Mask, davis_palette, to_palette_png},
    pictures::{gif::Gif, mask_overlay},
    progress::Progress,
    video_segmentation::{
        dataset::{Dataset, DatasetArgs, Sequence},
        follow::{FollowTime, FollowedFrame, Protocol},
        metrics::{ObjectScores, score_frame},
        propagation::Propagation,
        report::{Report, Speed},
    },
};
use dora_store::atomic;
use rayon::prelude::*;
use tch::Kind;

use super::out::OutArgs;

/// Frames that wait for being written; more would only hold memory.
const WAITING_FRAMES: usize = 8;

/// Frames a second of overlays.
const OVERLAY_FPS: f64 = 12.5;

/// The most columns and rows of overlays.
const OVERLAY_PX: u32 = 480;

#[derive(Args)]
pub(crate) struct DavisArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    dataset: DatasetArgs,
    #[command(flatten)]
    out: OutArgs,
    /// Draw the masks over each sequence, as an animated GIF OUT/SEQUENCE.gif
    #[arg(long)]
    video: bool,
    /// Short side that frames are scaled to
    #[arg(long, value_name = "PX", default_value_t = 480, value_parser = clap::value_parser!(i64).range(1..=8192))]
    short_side: i64,
    /// Farthest row and column of a neighbour, in patches
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(i64).range(0..=8192))]
    window: i64,
    /// Neighbours that give their label
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    topk: u16,
    /// Frames to look back at, beside the first
    #[arg(long, value_name = "N", default_value_t = 7)]
    last_frames: u16,
    /// Look through data, encoder and sizes, and stop
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    json: JsonFile,
}

#[derive(Args)]
pub(crate) struct DavisMetricsArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Folder with masks to judge, RESULTS/SEQUENCE/00000.png and so on
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    #[command(flatten)]
    json: JsonFile,
}

/// Follows the objects, writes masks and tells J and F.
pub(crate) fn run(args: &DavisArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let dataset = Dataset::open(&args.dataset)?;
    let encoder = Encoder::load(&args.encoder)?;
    let protocol = args.protocol();
    for sequence in &dataset.sequences {
        protocol.scaled_size(sequence, encoder.config.patch_px)?;
    }
    if args.check {
        return Ok(());
    }
    let name = args.dataset.data.file_name().unwrap_or(OsStr::new("davis")).to_string_lossy();
    // Masks are OUT/SEQUENCE/00000.png and so on.
    let out = args.out.folder(&name, &encoder);
    for sequence in &dataset.sequences {
        prepare_folder(&out.join(&sequence.name))?;
    }
    let mut progress = Progress::new("frames", dataset.frame_count() as u64);
    let mut spent = FollowTime::default();
    let mut scores = Vec::new();
    for sequence in &dataset.sequences {
        let (of_sequence, time) =
            follow(args.video, &out, &encoder, &protocol, sequence, &mut progress)?;
        scores.push(of_sequence);
        spent.encoder += time.encoder;
        spent.propagation += time.propagation;
    }
    let speed = Speed {
        frames: dataset.frame_count(),
        wall_s: progress.elapsed_s(),
        encoder_s: spent.encoder.as_secs_f64(),
        propagation_s: spent.propagation.as_secs_f64(),
        matrix_flops_per_s: matrix_flops_per_s(encoder.device, Kind::Float),
    };
    drop(progress);
    let report = Report::new(&encoder.name, &dataset, scores, Some(speed));
    let mut table = report.table();
    table.push(("written to".into(), out.display().to_string()));
    args.json.tell(&table, &report.figures())
}

/// Tells J and F of masks made elsewhere.
pub(crate) fn run_metrics(args: &DavisMetricsArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let dataset = Dataset::open(&args.dataset)?;
    for sequence in &dataset.sequences {
        for frame in sequence.counted() {
            sequence.result_path(&args.results, frame)?;
        }
    }
    let counted: usize = dataset.sequences.iter().map(|sequence| sequence.counted().len()).sum();
    let progress = Mutex::new(Progress::new("frames", counted as u64));
    let score = |sequence: &Sequence| {
        let frames: Vec<_> = sequence
            .counted()
            .par_iter()
            .map(|frame| {
                let annotation = sequence.annotation(frame)?;
                let result = sequence.result(&args.results, frame)?;
                if let Ok(mut progress) = progress.lock() {
                    progress.advance(1);
                }
                Ok(score_masks(sequence, &annotation, &result))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(by_object(sequence, frames))
    };
    let scores = dataset.sequences.par_iter().map(score).collect::<anyhow::Result<_>>()?;
    drop(progress);
    let report = Report::new(&args.results.display().to_string(), &dataset, scores, None);
    args.json.tell(&report.table(), &report.figures())
}

impl DavisArgs {
    fn protocol(&self) -> Protocol {
        let propagation =
            Propagation { window: self.window, topk: self.topk.into(), ..Propagation::default() };
        Protocol {
            short_side_px: self.short_side,
            last_frames: self.last_frames.into(),
            propagation,
        }
    }
}

/// Follows the objects of one sequence; another thread writes and scores masks meanwhile.
fn follow(
    is_drawn: bool,
    out: &Path,
    encoder: &Encoder,
    protocol: &Protocol,
    sequence: &Sequence,
    progress: &mut Progress,
) -> anyhow::Result<(Vec<ObjectScores>, FollowTime)> {
    let (sender, receiver) = sync_channel(WAITING_FRAMES);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_masks(is_drawn, out, sequence, &receiver));
        let time = protocol.follow(encoder, sequence, |frame| {
            progress.advance(1);
            // A writer that is gone has failed, which it says below.
            sender.send(frame).is_ok()
        });
        drop(sender);
        let scores = writer.join().map_err(|_| anyhow!("the thread that writes masks panicked"))?;
        let time = time?;
        Ok((scores?, time))
    })
}

/// Writes and scores frames as they come, some at once on all cores; the overlay at the end.
fn write_masks(
    is_drawn: bool,
    out: &Path,
    sequence: &Sequence,
    frames: &Receiver<FollowedFrame>,
) -> anyhow::Result<Vec<ObjectScores>> {
    let folder = out.join(&sequence.name);
    let palette = davis_palette();
    let counted = 1..sequence.frames.len() - 1;
    let mut scores = Vec::new();
    let mut gif = None;
    while let Ok(first) = frames.recv() {
        let batch: Vec<FollowedFrame> = std::iter::once(first).chain(frames.try_iter()).collect();
        let overlays = is_drawn.then(|| batch.iter().map(overlay).collect::<Vec<_>>());
        // Tensors stay on this thread.
        let masks: Vec<(usize, Mask)> =
            batch.into_iter().map(|frame| (frame.index, frame.mask)).collect();
        let scored: Vec<_> = masks
            .par_iter()
            .map(|(index, mask)| {
                let frame = &sequence.frames[*index];
                let path = folder.join(format!("{}.png", frame.name));
                atomic::write_file(&path, &to_palette_png(mask, &palette)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                if !counted.contains(index) {
                    return Ok(None);
                }
                Ok(Some(score_masks(sequence, &sequence.annotation(frame)?, mask)))
            })
            .collect::<anyhow::Result<_>>()?;
        scores.extend(scored.into_iter().flatten());
        for overlays in overlays.iter().filter(|overlays| !overlays.is_empty()) {
            let size = overlays[0].dimensions();
            let animation = match &mut gif {
                Some(gif) => gif,
                none => none.insert(Gif::new(size, OVERLAY_FPS)?),
            };
            animation.push(overlays)?;
        }
    }
    if let Some(gif) = gif {
        let path = out.join(format!("{}.gif", sequence.name));
        atomic::write_file(&path, &gif.finish()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(by_object(sequence, scores))
}

fn overlay(frame: &FollowedFrame) -> image::RgbImage {
    mask_overlay(&frame.image_CHW, &frame.mask, OVERLAY_PX)
}

fn score_masks(sequence: &Sequence, annotation: &Mask, result: &Mask) -> Vec<(f64, f64)> {
    score_frame(&annotation.labels, &result.labels, annotation.width, sequence.objects)
}

/// Scores by frame and object as scores by object and frame.
fn by_object(sequence: &Sequence, frames: Vec<Vec<(f64, f64)>>) -> Vec<ObjectScores> {
    let of_object = |object: usize| {
        let (j, f) = frames.iter().map(|objects| objects[object]).unzip();
        ObjectScores { j, f }
    };
    (0..sequence.objects).map(of_object).collect()
}

/// A folder to write into, found out before the work.
fn prepare_folder(folder: &Path) -> anyhow::Result<()> {
    let probe = folder.join(".probe");
    fs::create_dir_all(folder).and_then(|()| atomic::check_writable(&probe)).with_context(|| {
        format!("cannot write into {}; give --out another folder", folder.display())
    })
}
