//! `visualize`: what an encoder attends to, finds and follows. Videos that are not ingested yet are.

use std::path::Path;

use super::{check_encoder, encoder_options, start};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    commands::ingest,
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "visualize",
    about: "Draws attention, objects with their tracks, and features as colour",
    options: encoder_options![
        option("video", Value::Text("PATH"), "show this video"),
        option("store", Value::Text("DIR"), "show this frame store"),
        option("out", Value::Text("DIR"), "where pictures go (default: data/pictures)"),
        option(
            "clip",
            Value::Text("TIME"),
            "where the clip begins, in seconds or as h:mm:ss (default: at its start)",
        ),
        option(
            "frames",
            Value::Count("N"),
            "frames of the clip; with --whole, after how many objects are\ndiscovered anew (default: 8)",
        ),
        option(
            "stride-s",
            Value::Number("S"),
            "seconds between frames (default: 1, or what fits into the video;\nwith --whole 0.2)",
        ),
        flag("whole", "show the whole video instead of a clip"),
        option("objects", Value::Count("K"), "how many objects to follow (default: 3)"),
        option(
            "heads",
            Value::Text("H,..."),
            "heads that find an object each (default: the first ones)",
        ),
        option(
            "layer",
            Value::Text("L"),
            "whose attention finds and follows: last or second_last (default: that\nof the run's recipe, else last)",
        ),
        flag("no-sinkhorn", "follow prototypes that are not refined by Sinkhorn-Knopp"),
        option(
            "short-side",
            Value::Count("PX"),
            "short side of the frames that the encoder sees (default: 480)",
        ),
        flag("foreground", "colour only the features of patches that hold 60 % of the attention"),
        option(
            "movie",
            Value::Text("KIND"),
            "gif, or mp4 by the program ffmpeg (default: gif; with --whole mp4)",
        ),
        option(
            "movie-fps",
            Value::Number("F"),
            "speed of the movies (default: that of the video, between 4 and 30)",
        ),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
    ],
    operands: "[IMAGE]...",
    rest: "",
    notes: "Writes attention, objects and pca as sheets (PNG), and attention, tracks and pca as movies.\n\
            Without --video, --store and images, the toy walk is shown. Images are the frames of one\n\
            clip, in their order.\n\n\
            examples:\n  \
              cargo xtask visualize --checkpoint data/runs/toy --video walk.mp4 --clip 1:30\n  \
              cargo xtask visualize --checkpoint data/runs/toy --store data/stores/walk-1a2b3c4d.store \
              --whole",
    run,
};

/// Where pictures go, in the checkout.
const PICTURES: &str = "data/pictures";

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    check_encoder(&COMMAND, args)?;
    let sources = [args.has("video"), args.has("store"), !args.operands.is_empty()];
    if sources.iter().filter(|is_given| **is_given).count() > 1 {
        return Err(fixable(
            "`cargo xtask visualize` shows one thing at a time: give --video, --store, or images",
        ));
    }
    if let Some(store) = args.value("store") {
        ingest::check_store(Path::new(store))?;
    }
    let video = args.value("video");
    for path in video.into_iter().chain(args.operands.iter().map(AsRef::as_ref)) {
        ingest::check_exists(Path::new(path))?;
    }
    let mut program = start(checkout, &COMMAND, "visualize", args)?;
    if !args.has("out") {
        program.arg("--out").arg(checkout.path(PICTURES));
    }
    if !args.has("store") && args.operands.is_empty() {
        let video = video.map_or_else(|| ingest::toy_walk(checkout), |video| Ok(video.into()))?;
        let ingest = ingest::ingest_into(checkout, &checkout.path(ingest::STORES))?;
        program.arg("--store").args(ingest::stores_of(ingest, &[video])?);
    }
    process::run(program.arg("--").args(&args.operands))
}
