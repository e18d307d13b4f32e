//! `eval-linear`: a linear classifier on frozen features of a folder of images.

use super::{check_encoder, check_images, encoder_options, start};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "eval-linear",
    about: "Judges an encoder by a linear classifier on a folder of images",
    options: encoder_options![
        option(
            "data",
            Value::Text("DIR"),
            "folder with train/CLASS/IMAGE and val/CLASS/IMAGE, JPEG or PNG",
        ),
        option("epochs", Value::Count("N"), "times that each image is seen (default: 100)"),
        option(
            "views",
            Value::Count("N"),
            "random views of each image, which epochs take in turn; as many as\nepochs is the exact protocol (default: 10)",
        ),
        option(
            "lr",
            Value::Text("X,..."),
            "learning rates for a batch of 256, each for a classifier of its own\n(default: 0.001,0.003,0.01,0.03,0.1,0.3)",
        ),
        option("batch", Value::Count("N"), "images of a step (default: 128)"),
        option(
            "blocks",
            Value::Count("N"),
            "the last blocks whose [CLS] tokens are classified together (default: 4)",
        ),
        option(
            "probe-seed",
            Value::Count("N"),
            "seed of views, order and first weights (default: 0)",
        ),
        option(
            "image-px",
            Value::Count("PX"),
            "side of the square that the encoder sees (default: 224)",
        ),
        option(
            "cache",
            Value::Text("DIR"),
            "folder that keeps features (default: data/eval/features)",
        ),
        flag("no-cache", "compute features anew and keep none"),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
    ],
    operands: "",
    rest: "",
    notes: "example: cargo xtask eval-linear --checkpoint data/runs/toy --data imagenette",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    check_encoder(&COMMAND, args)?;
    check_images(&COMMAND, args)?;
    process::run(&start(checkout, &COMMAND, "linear", args)?)
}
