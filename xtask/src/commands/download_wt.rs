//! `download-wt`: the videos of the paper, from figshare or YouTube.

use std::ffi::OsStr;

use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process,
    setup::{machine::Machine, yt_dlp},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "download-wt",
    about: "Fetches Walking Tours, the videos of the paper; without arguments lists them",
    options: &[
        option(
            "source",
            Value::Text("SOURCE"),
            "figshare (the default: the same bytes for everybody, with checksums)\n\
             or youtube (the originals, through yt-dlp, which is fetched if missing)",
        ),
        option(
            "max-height",
            Value::Count("PX"),
            "YouTube only: the best format of at most so many lines (default: 2160)",
        ),
        option("out", Value::Text("DIR"), "the folder of the videos (default: data)"),
        option("jobs", Value::Count("N"), "files to fetch at a time (default: 2)"),
        flag("dry-run", "list what would be fetched, and how large it is"),
        flag(
            "blur-faces",
            "then write a copy with blurred faces beside each video, with the\nprogram deface",
        ),
        flag("upgrade-yt-dlp", "fetch the newest yt-dlp first; alone, do only that"),
    ],
    operands: "[CITY...|all]",
    rest: "[-- ARG...]",
    notes: "A video in 4K takes about 28 GiB. What was interrupted goes on when the same command is given\n\
            again; what is here is not fetched again and never overwritten. Beside each video lies where\n\
            it came from; data/walking_tours.toml lists the tours.\n\
            What follows `--` goes to yt-dlp.\n\n\
            examples:\n  \
              cargo xtask download-wt all --dry-run\n  \
              cargo xtask download-wt venice\n  \
              cargo xtask download-wt venice --source youtube --max-height 1080\n  \
              cargo xtask download-wt venice --source youtube -- --cookies-from-browser firefox",
    run,
};

/// Where videos lie, in the checkout: recipes look for them there.
const VIDEOS: &str = "data";

const MANIFEST: &str = "data/walking_tours.toml";

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let machine = Machine::this();
    if args.has("upgrade-yt-dlp") {
        yt_dlp::fetch(&machine)?;
        if args.operands.is_empty() {
            return Ok(());
        }
    }
    checkout.build_alone("dora-download")?;
    let mut download = checkout.program("dora-download")?;
    download.arg("--manifest").arg(checkout.path(MANIFEST));
    download.arg("--out").arg(args.value("out").map_or_else(|| checkout.path(VIDEOS), Into::into));
    if args.value("source") == Some(OsStr::new("youtube")) && !args.operands.is_empty() {
        download.arg("--yt-dlp").arg(yt_dlp::ensure(&machine)?);
    }
    download.args(args.forward(&["source", "max-height", "jobs", "dry-run", "blur-faces"]));
    download.args(&args.operands);
    if !args.rest.is_empty() {
        download.arg("--").args(&args.rest);
    }
    process::run(&download)
}
