//! `ingest` and `toy-walk`: videos into frame stores, and the built-in video.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{
    args::{Args, CommandSpec, OptionSpec, Value, flag, option},
    checkout::Checkout,
    process::{self, fixable},
};

/// Where frame stores lie, in the checkout.
pub(crate) const STORES: &str = "data/stores";

/// Where the built-in video lies, in the checkout.
pub(crate) const TOY_WALK_DIR: &str = "data/toy-walk";

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "ingest",
    about: "Decodes videos once into frame stores, which training reads",
    options: INGEST_OPTIONS,
    operands: "PATH...",
    rest: "",
    notes: "PATH is a video, a folder of images, or a text file that lists images; images need --fps.\n\
            An ingest that was interrupted goes on where it stopped. `train` does this by itself.",
    run,
};

pub(crate) const TOY_WALK: CommandSpec = CommandSpec {
    name: "toy-walk",
    about: "Renders the built-in walk: a video with the masks of its objects",
    options: TOY_WALK_OPTIONS,
    operands: "",
    rest: "",
    notes: "The same seed gives the same video. `train` does this by itself when it needs the walk.",
    run: run_toy_walk,
};

/// The rate of images, which carry no time stamps.
pub(crate) const FPS: OptionSpec =
    option("fps", Value::Number("F"), "frames per second of a folder or list of images");

/// Where to begin.
pub(crate) const START: OptionSpec =
    option("start", Value::Text("TIME"), "leave out what comes before, in seconds or as h:mm:ss");

/// Where to end.
pub(crate) const END: OptionSpec = option(
    "end",
    Value::Text("TIME"),
    "leave out what comes at or after, in seconds or as h:mm:ss",
);

const INGEST_OPTIONS: &[OptionSpec] = &[
    FPS,
    START,
    END,
    option(
        "short-side",
        Value::Count("PX"),
        "scale frames down to this short side, never up (default: 576)",
    ),
    option("quality", Value::Count("Q"), "JPEG quality from 1 to 100 (default: 90)"),
    option(
        "store-fps",
        Value::Number("F"),
        "store so many frames a second, not all of them; frames that\nnothing refers to are then not decoded",
    ),
    flag("keep-stills", "keep blank and frozen stretches"),
    option("decoder", Value::Text("D"), "ffmpeg, or opencv, which is slower (default: ffmpeg)"),
    option(
        "hwaccel",
        Value::Text("KIND"),
        "use a hardware decoder of this kind, as cuda or vaapi; the CPU\nwhere there is none",
    ),
    option("stores", Value::Text("DIR"), "the folder of the stores (default: data/stores)"),
    flag("verbose", "let OpenCV and FFmpeg say what they think of the file"),
];

const TOY_WALK_OPTIONS: &[OptionSpec] = &[
    option("out", Value::Text("DIR"), "where to write (default: data/toy-walk)"),
    option("seed", Value::Count("N"), "another street"),
    option("seconds", Value::Number("S"), "how long to walk"),
];

/// `dora-ingest ingest`, with stores below `stores`.
pub(crate) fn ingest_into(checkout: &Checkout, stores: &Path) -> anyhow::Result<Command> {
    let mut command = checkout.program("dora-ingest")?;
    command.arg("ingest").arg("--stores").arg(stores);
    Ok(command)
}

/// `dora-ingest toy-walk`, writing into `out`.
pub(crate) fn toy_walk_into(checkout: &Checkout, out: &Path) -> anyhow::Result<Command> {
    let mut command = checkout.program("dora-ingest")?;
    command.arg("toy-walk").arg("--out").arg(out);
    Ok(command)
}

/// Sees to it that the built-in walk is there; gives its video.
pub(crate) fn toy_walk(checkout: &Checkout) -> anyhow::Result<OsString> {
    let render = toy_walk_into(checkout, &checkout.path(TOY_WALK_DIR))?;
    let output = process::run_for_output(&render)?;
    let line = output.lines().rfind(|line| !line.trim().is_empty());
    Ok(line.context("`dora-ingest toy-walk` named no video")?.into())
}

/// Runs an ingest of videos; gives their stores, in order.
pub(crate) fn stores_of(mut ingest: Command, videos: &[OsString]) -> anyhow::Result<Vec<PathBuf>> {
    let output = process::run_for_output(ingest.arg("--").args(videos))?;
    let stores: Vec<PathBuf> = output.lines().map(PathBuf::from).collect();
    anyhow::ensure!(
        stores.len() == videos.len(),
        "`dora-ingest ingest` named {} stores for {} videos",
        stores.len(),
        videos.len()
    );
    Ok(stores)
}

/// Refuses what does not exist before anything slow starts.
pub(crate) fn check_exists(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(fixable(format!(
        "`{}` does not exist; give the path of a video or of a folder of images",
        path.display()
    )))
}

/// Refuses what is no frame store before anything slow starts.
pub(crate) fn check_store(path: &Path) -> anyhow::Result<()> {
    if path.join("header").exists() {
        return Ok(());
    }
    Err(fixable(format!(
        "`{}` is no frame store; give a folder that `cargo xtask ingest` made, such as one in {STORES}",
        path.display()
    )))
}

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    if args.operands.is_empty() {
        return Err(fixable(
            "`cargo xtask ingest` needs the path of a video; see `cargo xtask ingest --help`",
        ));
    }
    for path in &args.operands {
        check_exists(Path::new(path))?;
    }
    let stores = args.value("stores").map_or_else(|| checkout.path(STORES), Into::into);
    super::build(checkout)?;
    let mut command = ingest_into(checkout, &stores)?;
    command.args(forwarded_without(args, INGEST_OPTIONS, "stores"));
    process::run(command.arg("--").args(&args.operands))
}

fn run_toy_walk(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let out = args.value("out").map_or_else(|| checkout.path(TOY_WALK_DIR), Into::into);
    super::build(checkout)?;
    let mut command = toy_walk_into(checkout, &out)?;
    process::run(command.args(forwarded_without(args, TOY_WALK_OPTIONS, "out")))
}

fn forwarded_without(args: &Args, options: &[OptionSpec], name: &str) -> Vec<OsString> {
    let names = options.iter().map(|option| option.name);
    let names: Vec<&str> = names.filter(|other| *other != name).collect();
    args.forward(&names)
}
