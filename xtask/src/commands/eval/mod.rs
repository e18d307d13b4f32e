//! The commands that judge an encoder: each checks its words and starts `dora-eval`.

pub(super) mod classification;
pub(super) mod discovery;
pub(super) mod segmentation;
pub(super) mod visualize;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    args::{Args, CommandSpec, OptionSpec},
    checkout::Checkout,
    commands::ingest,
    process::fixable,
};

/// Which encoder: options of every command here, then its own.
macro_rules! encoder_options {
    ($($own:expr),* $(,)?) => {
        &[
            $crate::args::option(
                "checkpoint",
                $crate::args::Value::Text("PATH"),
                "a run's folder (its newest checkpoint), a checkpoint's folder, or a\nfile of weights (safetensors, .pth)",
            ),
            $crate::args::option(
                "checkpoint-key",
                $crate::args::Value::Text("KEY"),
                "teacher or student, where there are both (default: teacher)",
            ),
            $crate::args::flag(
                "random-init",
                "judge the encoder before any training: of the checkpoint's sizes, or\nof --arch",
            ),
            $crate::args::option(
                "arch",
                $crate::args::Value::Text("ARCH"),
                "vit_tiny, vit_small or vit_base, for --random-init without a\ncheckpoint (default: vit_small)",
            ),
            $crate::args::option(
                "patch",
                $crate::args::Value::Count("PX"),
                "side of a patch, likewise (default: 16)",
            ),
            $crate::args::option("seed", $crate::args::Value::Count("N"), "seed of --random-init (default: 0)"),
            $crate::args::option(
                "device",
                $crate::args::Value::Text("D"),
                "auto, cpu or cuda (default: auto, the GPU when there is one)",
            ),
            $($own),*
        ]
    };
}
pub(super) use encoder_options;

/// Refuses what is missing before anything is built.
fn check_encoder(command: &CommandSpec, args: &Args) -> anyhow::Result<()> {
    match args.value("checkpoint") {
        Some(path) => check_exists(path, "a run's folder, a checkpoint or a file of weights"),
        None if args.has("random-init") => Ok(()),
        None => Err(fixable(format!(
            "`cargo xtask {0}` needs an encoder: name a run's folder or a file of weights with \
             --checkpoint, or judge an untrained one with --random-init",
            command.name
        ))),
    }
}

/// Refuses a path that does not exist; `what` is what was to be given.
pub(super) fn check_exists(path: &OsStr, what: &str) -> anyhow::Result<()> {
    if Path::new(path).exists() {
        return Ok(());
    }
    Err(fixable(format!("`{}` does not exist; give {what}", path.to_string_lossy())))
}

/// Where features are kept, in the checkout.
const FEATURES: &str = "data/eval/features";

/// Options that are ours alone: what they name is ingested first.
const OURS: &[&str] = &["video"];

/// `dora-eval SUBCOMMAND` with every option of `command` that was given, built first.
fn start(
    checkout: &Checkout,
    command: &CommandSpec,
    subcommand: &str,
    args: &Args,
) -> anyhow::Result<Command> {
    super::build(checkout)?;
    let mut program = checkout.program("dora-eval")?;
    let names = command.options.iter().map(|option: &OptionSpec| option.name);
    let names: Vec<&str> = names.filter(|name| !OURS.contains(name)).collect();
    program.arg(subcommand).args(args.forward(&names));
    Ok(program)
}

/// The folder of the toy walk with its masks, rendered the first time.
fn toy_walk(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    ingest::toy_walk(checkout)?;
    Ok(checkout.path(ingest::TOY_WALK_DIR))
}
