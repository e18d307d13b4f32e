//! `eval-knn` and `eval-linear`: a folder of images, classified by nearest neighbours or by a linear
//! classifier on frozen features.

use super::{FEATURES, check_encoder, check_exists, encoder_options, start};
use crate::{
    args::{Args, CommandSpec, OptionSpec, Value, flag, option},
    checkout::Checkout,
    process::{self, fixable},
};

const DATA: OptionSpec = option(
    "data",
    Value::Text("DIR"),
    "folder with train/CLASS/IMAGE and val/CLASS/IMAGE, JPEG or PNG",
);
const IMAGE_PX: OptionSpec = option(
    "image-px",
    Value::Count("PX"),
    "side of the square that the encoder sees (default: 224)",
);
const CACHE: OptionSpec =
    option("cache", Value::Text("DIR"), "folder that keeps features (default: data/eval/features)");
const NO_CACHE: OptionSpec = flag("no-cache", "compute features anew and keep none");
const JSON: OptionSpec = option("json", Value::Text("FILE"), "write the figures to a file, too");

pub(crate) const KNN: CommandSpec = CommandSpec {
    name: "eval-knn",
    about: "Judges an encoder by nearest neighbours on a folder of images",
    options: encoder_options![
        DATA,
        option("k", Value::Text("N,..."), "numbers of neighbours (default: 10,20,100,200)"),
        IMAGE_PX,
        CACHE,
        NO_CACHE,
        JSON,
    ],
    operands: "",
    rest: "",
    notes: "example: cargo xtask eval-knn --checkpoint data/runs/toy --data imagenette",
    run: |checkout, args| run(checkout, &KNN, "knn", args),
};

pub(crate) const LINEAR: CommandSpec = CommandSpec {
    name: "eval-linear",
    about: "Judges an encoder by a linear classifier on a folder of images",
    options: encoder_options![
        DATA,
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
        IMAGE_PX,
        CACHE,
        NO_CACHE,
        JSON,
    ],
    operands: "",
    rest: "",
    notes: "example: cargo xtask eval-linear --checkpoint data/runs/toy --data imagenette",
    run: |checkout, args| run(checkout, &LINEAR, "linear", args),
};

fn run(
    checkout: &Checkout,
    command: &CommandSpec,
    subcommand: &str,
    args: &Args,
) -> anyhow::Result<()> {
    const WANTED: &str = "a folder with train/CLASS/IMAGE and val/CLASS/IMAGE";
    check_encoder(command, args)?;
    match args.value("data") {
        Some(data) => check_exists(data, WANTED)?,
        None => {
            return Err(fixable(format!("`cargo xtask {}` needs --data: {WANTED}", command.name)));
        }
    }
    let mut program = start(checkout, command, subcommand, args)?;
    if !args.has("cache") && !args.has("no-cache") {
        program.arg("--cache").arg(checkout.path(FEATURES));
    }
    process::run(&program)
}
