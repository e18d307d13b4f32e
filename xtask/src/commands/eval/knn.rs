//! `eval-knn`: nearest neighbours on a folder of images.

use super::{check_encoder, check_images, encoder_options, start};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "eval-knn",
    about: "Judges an encoder by nearest neighbours on a folder of images",
    options: encoder_options![
        option(
            "data",
            Value::Text("DIR"),
            "folder with train/CLASS/IMAGE and val/CLASS/IMAGE, JPEG or PNG",
        ),
        option("k", Value::Text("N,..."), "numbers of neighbours (default: 10,20,100,200)"),
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
    notes: "example: cargo xtask eval-knn --checkpoint data/runs/toy --data imagenette",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    check_encoder(&COMMAND, args)?;
    check_images(&COMMAND, args)?;
    process::run(&start(checkout, &COMMAND, "knn", args)?)
}
