//! `visualize`: what an encoder attends to, finds and follows, as sheets and moving pictures.

mod pictures;

use std::{fs, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use dora_data::{
    inspect::clock,
    output::{JsonFile, check_writable},
    say,
};
use dora_eval::{
    encoder::{Encoder, EncoderArgs},
    images::{
        footage::Footage,
        grid::{Grid, MOST_PATCHES},
    },
    interrupt::Interrupt,
    pictures::{movie::MovieKind, spread},
    progress::Progress,
    visualize::{
        scene::{Scale, paint},
        tracking::{Follower, Tracking},
    },
};
use dora_model::TrackerLayer;
use serde_json::json;

use pictures::{Movies, write_sheets};

/// Frames that pass through the encoder together.
const FRAMES_AT_ONCE: usize = 8;
/// Frames that colours and heat are chosen by, spread evenly.
const SCALE_FRAMES: usize = 16;
/// Frames on a sheet, spread evenly.
const SHEET_FRAMES: usize = 8;
const CLIP_FRAMES: usize = 8;
const WHOLE_STRIDE_S: f64 = 0.2;

#[derive(Args)]
pub(crate) struct VisualizeArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Images that follow one another, instead of --store; all are shown at the first one's size
    #[arg(value_name = "IMAGE", conflicts_with = "store")]
    images: Vec<PathBuf>,
    /// Frame store of a video
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the clip begins, in seconds or as h:mm:ss of the video's time [default: at its start]
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with_all = ["images", "whole"])]
    clip: Option<f64>,
    /// Frames of the clip; with --whole, frames after which objects are discovered anew [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000), conflicts_with = "images")]
    frames: Option<u64>,
    /// Seconds between frames [default: 1, or what fits into the video; with --whole 0.2]
    #[arg(long, value_name = "S", value_parser = parse_stride, conflicts_with = "images")]
    stride_s: Option<f64>,
    /// Show the whole video
    #[arg(long, conflicts_with = "images")]
    whole: bool,
    /// How many objects to follow: those of the first heads
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(i64).range(1..))]
    objects: i64,
    /// Heads that find an object each, instead of the first ones
    #[arg(long, value_name = "H,...", value_delimiter = ',', value_parser = clap::value_parser!(i64).range(0..))]
    heads: Vec<i64>,
    /// The block whose attention finds and follows objects [default: that of the run's recipe, else last]
    #[arg(long, value_enum)]
    layer: Option<Layer>,
    /// Follow the plain prototypes, not those refined by Sinkhorn-Knopp
    #[arg(long)]
    no_sinkhorn: bool,
    /// Short side of the frames that the encoder sees, rounded down to whole patches
    #[arg(long, value_name = "PX", default_value_t = 480, value_parser = clap::value_parser!(i64).range(16..=4096))]
    short_side: i64,
    /// Colour only the patches that hold most of the attention, and leave the others black
    #[arg(long)]
    foreground: bool,
    /// How moving pictures are written [default: gif; with --whole mp4]
    #[arg(long, value_enum)]
    movie: Option<MovieKind>,
    /// Frames per second of moving pictures [default: as in the video, between 4 and 30]
    #[arg(long, value_name = "F", value_parser = parse_fps)]
    movie_fps: Option<f64>,
    #[command(flatten)]
    json: JsonFile,
}

/// [`TrackerLayer`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Layer {
    Last,
    SecondLast,
}

/// Frames to draw.
struct Plan {
    frames: Vec<usize>,
    /// Frames after which objects are discovered anew.
    window: usize,
    grid: Grid,
    fps: f64,
    kind: MovieKind,
}

pub(crate) fn run(args: &VisualizeArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let footage = open(args)?;
    let frames = choose(args, &footage)?;
    let kind = args.movie.unwrap_or(if args.whole { MovieKind::Mp4 } else { MovieKind::Gif });
    kind.check()?;
    let encoder = Encoder::load(&args.encoder)?;
    let head_ids = heads(args, encoder.config.heads)?;
    let tracking = tracking(args, &encoder)?;
    ensure!(
        tracking.layer == TrackerLayer::Last || encoder.config.depth > 1,
        "--layer second_last: the encoder has one block alone; give --layer last"
    );
    let window = match args.frames {
        Some(frames) if args.whole => frames as usize,
        None if args.whole => CLIP_FRAMES,
        _ => frames.len(),
    };
    let grid = grid(footage.size_px()?, args.short_side, encoder.config.patch_px);
    ensure!(
        grid.patches() as i64 <= MOST_PATCHES,
        "--short-side {}: frames of {}, and {MOST_PATCHES} patches are the most; give a smaller one",
        args.short_side,
        size_text(grid)
    );
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}; give --out a folder", args.out.display()))?;
    for sheet in ["attention.png", "objects.png", "pca.png"] {
        check_writable("--out", &args.out.join(sheet))?;
    }
    let fps = args.movie_fps.map_or_else(|| usual_fps(&footage, &frames), Ok)?;
    let plan = Plan { frames, window, grid, fps, kind };

    let follower = || Follower::new(&encoder, tracking, head_ids.clone());
    let interrupt = Interrupt::listen(&[]).context("cannot listen for signals")?;
    let drawn = draw(args, &footage, &plan, follower, &interrupt);
    if let (Err(_), Some(signal)) = (&drawn, interrupt.caught()) {
        say!("interrupted; the same command draws anew");
        std::process::exit(128 + signal);
    }
    let (files, frames_per_s) = drawn?;
    let shown: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let heads: Vec<String> = head_ids.iter().map(i64::to_string).collect();
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        ("frames", format!("{} of {}", plan.frames.len(), size_text(grid))),
        ("objects", format!("of heads {} of the {}", heads.join(", "), words(&tracking))),
        ("speed", format!("{frames_per_s:.2} frames/s")),
    ];
    table.extend(shown.iter().map(|file| ("picture", file.clone())));
    let figures = json!({
        "encoder": encoder.name,
        "frames": plan.frames.len(),
        "grid": [grid.rows, grid.columns],
        "heads": head_ids,
        "layer": tracking.layer,
        "sinkhorn": tracking.spec.sinkhorn,
        "frames_per_s": frames_per_s,
        "files": shown,
    });
    args.json.tell(&table, &figures)
}

/// Looks at all frames and writes everything; returns the files and the frames per second. What an
/// interrupted one has begun is removed.
fn draw<'a>(
    args: &VisualizeArgs,
    footage: &Footage,
    plan: &Plan,
    follower: impl Fn() -> Follower<'a>,
    interrupt: &Interrupt,
) -> anyhow::Result<(Vec<PathBuf>, f64)> {
    let grid = plan.grid;
    let (rows_px, columns_px) = (grid.rows * grid.patch_px, grid.columns * grid.patch_px);
    let read = |frame: usize| footage.read(frame, rows_px as i64, columns_px as i64);
    let sampled = spread(plan.frames.len(), SCALE_FRAMES);
    let total = plan.frames.len() + sampled.len();
    let mut progress = Progress::new("frames", total as u64);

    let mut sights = Vec::new();
    let go_on = || {
        ensure!(interrupt.caught().is_none(), "interrupted");
        Ok(())
    };
    for chunk in sampled.chunks(FRAMES_AT_ONCE) {
        go_on()?;
        let sight = follower().look(chunk.len(), |at| read(plan.frames[chunk[at]]))?;
        sight.check_finite()?;
        sights.push(sight);
        progress.advance(chunk.len() as u64);
    }
    let scale = Scale::fit(&sights, args.foreground);
    drop(sights);

    let on_sheet = spread(plan.frames.len(), SHEET_FRAMES);
    let mut sheet = Vec::new();
    let mut headings = Vec::new();
    let mut movies = None;
    let mut follower = follower();
    let mut index = 0;
    for window in plan.frames.chunks(plan.window.max(1)) {
        follower.forget();
        for chunk in window.chunks(FRAMES_AT_ONCE) {
            go_on()?;
            let sight = follower.look(chunk.len(), |at| read(chunk[at]))?;
            let painted = paint(&sight, &scale, grid);
            for (frame, painted) in chunk.iter().zip(painted) {
                let movies = match &mut movies {
                    Some(movies) => movies,
                    none => none.insert(Movies::begin(&args.out, plan.kind, plan.fps, &painted)?),
                };
                movies.push(&painted)?;
                if on_sheet.contains(&index) {
                    let number = || index.to_string();
                    headings.push(footage.time_s(*frame)?.map_or_else(number, clock));
                    sheet.push(painted);
                }
                index += 1;
            }
            progress.advance(chunk.len() as u64);
        }
    }
    let frames_per_s = total as f64 / progress.elapsed_s();
    drop(progress);
    let mut files = write_sheets(&args.out, &headings, sheet)?;
    files.extend(movies.context("there is no frame")?.finish()?);
    Ok((files, frames_per_s))
}

/// As the run was trained, if the encoder comes from one, but for what the user says.
fn tracking(args: &VisualizeArgs, encoder: &Encoder) -> anyhow::Result<Tracking> {
    let mut tracking = match &encoder.recipe {
        Some(recipe) => Tracking::of_recipe(recipe)?,
        None => Tracking::default(),
    };
    if let Some(layer) = args.layer {
        tracking.layer = layer.into();
    }
    tracking.spec.sinkhorn &= !args.no_sinkhorn;
    Ok(tracking)
}

fn words(tracking: &Tracking) -> &'static str {
    match (tracking.layer, tracking.spec.sinkhorn) {
        (TrackerLayer::Last, true) => "last block",
        (TrackerLayer::Last, false) => "last block, prototypes not refined",
        (TrackerLayer::SecondLast, true) => "second last block",
        (TrackerLayer::SecondLast, false) => "second last block, prototypes not refined",
    }
}

fn open(args: &VisualizeArgs) -> anyhow::Result<Footage> {
    match &args.store {
        Some(store) => Ok(Footage::open(store)?),
        None => {
            ensure!(!args.images.is_empty(), "there is nothing to show: give images or --store");
            if let Some(missing) = args.images.iter().find(|path| !path.is_file()) {
                bail!(
                    "`{}` does not exist; give images, JPEG or PNG, or --store",
                    missing.display()
                );
            }
            Ok(Footage::Images(args.images.clone()))
        }
    }
}

fn choose(args: &VisualizeArgs, footage: &Footage) -> anyhow::Result<Vec<usize>> {
    Ok(if args.whole {
        footage.whole(args.stride_s.unwrap_or(WHOLE_STRIDE_S))?
    } else {
        let frames = args.frames.map_or(CLIP_FRAMES, |frames| frames as usize);
        footage.clip(args.clip, frames, args.stride_s)?
    })
}

fn heads(args: &VisualizeArgs, known: i64) -> anyhow::Result<Vec<i64>> {
    if args.heads.is_empty() {
        ensure!(
            args.objects <= known,
            "--objects {}: the encoder has {known} heads, and each finds one object",
            args.objects
        );
        return Ok((0..args.objects).collect());
    }
    for (index, head) in args.heads.iter().enumerate() {
        ensure!(*head < known, "--heads {head}: the encoder has the heads 0 to {}", known - 1);
        ensure!(!args.heads[..index].contains(head), "--heads names head {head} twice");
    }
    Ok(args.heads.clone())
}

/// Whole patches, the short side closest below `short_px`, the long one in proportion.
fn grid((width, height): (u32, u32), short_px: i64, patch_px: i64) -> Grid {
    let short = (short_px / patch_px).max(1);
    let (width, height) = (i64::from(width.max(1)), i64::from(height.max(1)));
    let long_px = short * patch_px * width.max(height) / width.min(height);
    // However long an image is, it must fit into memory.
    let long = (long_px / patch_px).min(64 * short);
    let (rows, columns) = if height <= width { (short, long) } else { (long, short) };
    Grid { rows: rows as usize, columns: columns as usize, patch_px: patch_px as usize }
}

/// As fast as it was, within what one likes to look at.
fn usual_fps(footage: &Footage, frames: &[usize]) -> anyhow::Result<f64> {
    let ends = (frames.first(), frames.last());
    let (Some(&first), Some(&last)) = ends else { return Ok(4.0) };
    let fps = match (footage.time_s(first)?, footage.time_s(last)?) {
        (Some(from_s), Some(to_s)) if to_s > from_s => (frames.len() - 1) as f64 / (to_s - from_s),
        _ => 10.0,
    };
    Ok(fps.clamp(4.0, 30.0))
}

fn size_text(grid: Grid) -> String {
    format!(
        "{}x{} px ({}x{} patches)",
        grid.columns * grid.patch_px,
        grid.rows * grid.patch_px,
        grid.columns,
        grid.rows
    )
}

impl From<Layer> for TrackerLayer {
    fn from(layer: Layer) -> Self {
        match layer {
            Layer::Last => Self::Last,
            Layer::SecondLast => Self::SecondLast,
        }
    }
}

/// Seconds, or hours, minutes and seconds with colons between them.
fn parse_time(text: &str) -> Result<f64, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let parsed: Option<Vec<f64>> = parts.iter().map(|part| part.parse().ok()).collect();
    match parsed {
        Some(parts) if parts.len() <= 3 && parts.iter().all(|p| p.is_finite() && *p >= 0.0) => {
            Ok(parts.iter().fold(0.0, |sum, part| sum * 60.0 + part))
        }
        _ => Err("a time is seconds or h:mm:ss".to_owned()),
    }
}

fn parse_stride(text: &str) -> Result<f64, String> {
    let stride_s = text.parse().ok().filter(|s: &f64| (1e-3..=86_400.0).contains(s));
    stride_s.ok_or_else(|| "a stride is at least 0.001 s".to_owned())
}

fn parse_fps(text: &str) -> Result<f64, String> {
    let fps = text.parse().ok().filter(|fps: &f64| (0.1..=120.0).contains(fps));
    fps.ok_or_else(|| "frames per second are between 0.1 and 120".to_owned())
}
