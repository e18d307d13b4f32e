//! How fast clips come out of a store: decoded, cropped, as views, and beside them the rate of bare
//! decodes of the same frames.
//!
//! The four take turns batch by batch with the same frames, so that a machine that others use too
//! slows them alike. Nothing overlaps: a rate is that of its number of threads doing this alone.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use dora_store::FrameStore;
use indicatif::ProgressBar;
use serde::Serialize;
use tch::Tensor;
use torch_ext::keep_freed_memory;
use turbojpeg::{Decompressor, PixelFormat};

use crate::augment::{Together, ViewSpec};
use crate::crop::CropSpec;
use crate::decode::DecodeError;
use crate::loader::{LoaderSpec, Worker};
use crate::output::JsonFile;
use crate::sampler::{ClipSpec, Sampler, Share};

/// Clips that are measured at a time, for each thread.
const CLIPS_PER_THREAD: usize = 2;

/// What to measure.
#[derive(Debug, Args)]
pub struct LoaderBench {
    /// Frame store to read
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Numbers of threads to measure, one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// About how many seconds to measure each
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: u16,
    #[command(flatten)]
    json: JsonFile,
}

/// What one number of threads reaches.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) threads: usize,
    /// Frames a second, decoded whole to RGB and nothing else.
    bare_jpeg_frames_per_s: f64,
    /// Clips a second, of each frame what the crop needs, uncropped.
    decode_clips_per_s: f64,
    /// Clips a second as the loader gives them.
    pub(crate) decode_crop_clips_per_s: f64,
    pub(crate) decode_crop_frames_per_s: f64,
    /// Clips a second from the store to all views; left out where none were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    views_clips_per_s: Option<f64>,
    clips_measured: usize,
}

/// The figures of a bench.
#[derive(Debug, Serialize)]
struct Report {
    store: String,
    width_px: u32,
    height_px: u32,
    bytes_per_frame: f64,
    frames_per_clip: usize,
    crop_px: u32,
    loader: Vec<Rates>,
}

/// Measures, prints a table, and writes JSON where asked.
///
/// # Errors
/// The file cannot be written, which is found out first; the store cannot be read or holds no clip.
pub fn bench_loader(bench: &LoaderBench) -> anyhow::Result<()> {
    bench.json.check()?;
    let store = Arc::new(FrameStore::open(&bench.store)?);
    let bytes_per_frame = shard_bytes(&store)? as f64 / store.len().max(1) as f64;
    let clip = clip_for(&store)?;
    let crop = CropSpec::default();
    let mut loader = Vec::new();
    for &threads in &bench.threads {
        say!("measuring {threads} thread(s), about {} s ...", bench.seconds);
        loader.push(measure(&store, clip, threads.into(), bench.seconds.into(), true)?);
    }
    let (width_px, height_px) = (store.header().width_px, store.header().height_px);
    let report = Report {
        store: bench.store.display().to_string(),
        width_px,
        height_px,
        bytes_per_frame,
        frames_per_clip: clip.frames_per_clip,
        crop_px: crop.px,
        loader,
    };
    bench.json.tell(&report.table(), &report)
}

/// Measures one number of threads for about `seconds`, with views or without.
pub(crate) fn measure(
    store: &Arc<FrameStore>,
    clip: ClipSpec,
    threads: usize,
    seconds: f64,
    with_views: bool,
) -> anyhow::Result<Rates> {
    let sampler = Sampler::new(vec![Arc::clone(store)], clip, Share::default(), 0)?;
    let clips_per_batch = (CLIPS_PER_THREAD * threads).min(sampler.all_clips() as usize);
    let views = with_views.then(ViewSpec::default);
    let crop = CropSpec::default();
    let spec = LoaderSpec { clips_per_batch, crop, views, threads, prefetch_batches: 1 };
    let worker = Worker::new(sampler, spec)?;
    // As in training.
    keep_freed_memory();
    let (spent, batches) = turns(&worker, seconds)?;

    let clips_measured = batches * clips_per_batch;
    let per_s = |seconds: f64| clips_measured as f64 / seconds;
    let frames = clip.frames_per_clip as f64;
    Ok(Rates {
        threads,
        bare_jpeg_frames_per_s: per_s(spent.bare_s) * frames,
        decode_clips_per_s: per_s(spent.decode_s),
        decode_crop_clips_per_s: per_s(spent.crop_s),
        decode_crop_frames_per_s: per_s(spent.crop_s) * frames,
        views_clips_per_s: with_views.then(|| per_s(spent.crop_s + spent.views_s)),
        clips_measured,
    })
}

/// The shape in time of the clips to measure with: the paper's, or what a short store has room for.
pub(crate) fn clip_for(store: &FrameStore) -> anyhow::Result<ClipSpec> {
    anyhow::ensure!(!store.is_empty(), "`{}` holds no frames", store.folder().display());
    let most = ClipSpec::default();
    let frames_per_clip = most.frames_per_clip.min(store.len());
    let intervals = (store.len() - 1).max(1) as f64;
    let room_s = store.duration_s() / (frames_per_clip - 1).max(1) as f64;
    let clip_stride_s =
        most.clip_stride_s.min(room_s).max(store.duration_s() / intervals).max(1e-6);
    Ok(ClipSpec { frames_per_clip, clip_stride_s })
}

/// Size of all frames together.
pub(crate) fn shard_bytes(store: &FrameStore) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(store.folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpgs") {
            bytes += path.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Seconds of each turn, summed.
#[derive(Debug, Default)]
struct Spent {
    bare_s: f64,
    decode_s: f64,
    crop_s: f64,
    views_s: f64,
}

/// Takes turns for about `seconds`; a first turn, which does not count, brings frames into memory.
fn turns(worker: &Worker, seconds: f64) -> anyhow::Result<(Spent, usize)> {
    let mut pixels = Vec::new();
    let mut spent = Spent::default();
    let mut batches = 0;
    turn(worker, 0, &mut pixels, &mut Spent::default())?;
    let bar = ProgressBar::new((seconds * 1e3) as u64);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        turn(worker, batches as u64, &mut pixels, &mut spent)?;
        batches += 1;
        bar.set_position(started.elapsed().as_millis() as u64);
    }
    bar.finish_and_clear();
    anyhow::ensure!(batches > 0, "nothing was measured: give --seconds a number above 0");
    Ok((spent, batches))
}

fn turn(
    worker: &Worker,
    number: u64,
    pixels: &mut Vec<u8>,
    spent: &mut Spent,
) -> anyhow::Result<()> {
    let draw = worker.draw(number)?;
    // Reading from a disk is not what is measured.
    worker.each_frame(&draw, |_, _, _, _| Ok(()))?;
    let lap = |sum: &mut f64, started: Instant| *sum += started.elapsed().as_secs_f64();

    let started = Instant::now();
    worker.each_frame(&draw, |_, jpeg, size_px, _| decode_bare(jpeg, size_px))?;
    lap(&mut spent.bare_s, started);

    let started = Instant::now();
    worker.each_frame(&draw, |decoder, jpeg, size_px, crop| {
        decoder.decode_only(jpeg, size_px, crop)
    })?;
    lap(&mut spent.decode_s, started);

    let started = Instant::now();
    let batch = worker.decode(draw, pixels)?;
    lap(&mut spent.crop_s, started);

    let started = Instant::now();
    let batch = worker.plan_views(batch);
    if let Some(plan) = &batch.views {
        let bytes = Tensor::from_slice(plan.bytes());
        black_box(plan.apply(&batch.frames_BTCHW, &bytes, Together::One));
        lap(&mut spent.views_s, started);
    }
    Ok(())
}

/// What a user of libjpeg-turbo does: one whole frame as RGB, into memory that is there already.
fn decode_bare(jpeg: &[u8], (width_px, height_px): (u32, u32)) -> Result<(), DecodeError> {
    thread_local! {
        static BARE: RefCell<Option<(Decompressor, Vec<u8>)>> = const { RefCell::new(None) };
    }
    let (width, height) = (width_px as usize, height_px as usize);
    BARE.with_borrow_mut(|slot| {
        let (decompressor, pixels) = match slot {
            Some(bare) => bare,
            None => slot.insert((Decompressor::new()?, Vec::new())),
        };
        pixels.resize(width * height * 3, 0);
        let (pixels, format) = (pixels.as_mut_slice(), PixelFormat::RGB);
        let image = turbojpeg::Image { pixels, width, pitch: width * 3, height, format };
        Ok(decompressor.decompress(jpeg, image)?)
    })
}

impl Report {
    fn table(&self) -> Vec<(&'static str, String)> {
        let column = |each: fn(&Rates) -> f64| {
            self.loader.iter().map(|rates| format!("{:>10.1}", each(rates))).collect::<String>()
        };
        let frames = format!(
            "{}x{} px, {:.1} kB each",
            self.width_px,
            self.height_px,
            self.bytes_per_frame / 1e3
        );
        let clips = format!("{} frames, cropped to {} px", self.frames_per_clip, self.crop_px);
        let threads: String =
            self.loader.iter().map(|rates| format!("{:>10}", rates.threads)).collect();
        let bare_clips =
            |rates: &Rates| rates.decode_crop_frames_per_s / rates.bare_jpeg_frames_per_s;
        vec![
            ("store", self.store.clone()),
            ("frames", frames),
            ("clips", clips),
            ("threads", threads),
            ("bare decodes, frames/s", column(|rates| rates.bare_jpeg_frames_per_s)),
            ("decoded, clips/s", column(|rates| rates.decode_clips_per_s)),
            ("and cropped, clips/s", column(|rates| rates.decode_crop_clips_per_s)),
            ("  in frames/s", column(|rates| rates.decode_crop_frames_per_s)),
            (
                "  of the bare rate",
                self.loader.iter().map(|rates| format!("{:>10.2}", bare_clips(rates))).collect(),
            ),
            ("and all views, clips/s", column(|rates| rates.views_clips_per_s.unwrap_or(f64::NAN))),
        ]
    }
}
