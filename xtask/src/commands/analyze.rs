//! `analyze`: what sets a set of videos apart, as one figure and two tables.

use std::path::Path;

use super::ingest::{FPS, check_exists};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process::{self, fixable},
};

/// Where figure and tables go, in the checkout.
const OUT: &str = "data/analysis";

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "analyze",
    about: "Draws lightness, cuts and object classes of videos, as the paper's figure 2",
    options: &[
        option(
            "seconds",
            Value::Text("TIME"),
            "compare the beginnings of this length, in seconds or as h:mm:ss\n\
             (default: as much as the shortest video has)",
        ),
        option(
            "detections",
            Value::Text("FILE"),
            "a detector's output: CSV with the columns frame and class, and\n\
             video where several are compared",
        ),
        FPS,
        option("out", Value::Text("DIR"), "where to write (default: data/analysis)"),
        flag("verbose", "let OpenCV and FFmpeg say what they think of the files"),
    ],
    operands: "PATH...",
    rest: "",
    notes: "PATH is a video, a folder of images, or a text file that lists images; images need --fps.\n\
            Writes figure.svg, videos.csv (a row for each video) and frames.csv (a row for each\n\
            frame); docs/analysis.md says what they hold. Each video is decoded once: another length\n\
            or detections that come later take seconds.\n\n\
            example:\n  \
              cargo xtask analyze walk.mp4 film.mp4 --seconds 1:00:00",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    if args.operands.is_empty() {
        return Err(fixable(
            "`cargo xtask analyze` needs the path of a video; see `cargo xtask analyze --help`",
        ));
    }
    for path in &args.operands {
        check_exists(Path::new(path))?;
    }
    if let Some(file) = args.value("detections").filter(|file| !Path::new(file).exists()) {
        return Err(fixable(format!(
            "`{}` does not exist; give the CSV file of a detector's output",
            file.to_string_lossy()
        )));
    }
    let out = args.value("out").map_or_else(|| checkout.path(OUT), Into::into);
    super::ensure(checkout)?;
    checkout.build()?;
    let mut command = checkout.program("dora-ingest")?;
    command.arg("analyze").arg("--out").arg(out);
    command.args(args.forward(&["seconds", "detections", "fps", "verbose"]));
    process::run(command.arg("--").args(&args.operands))
}
