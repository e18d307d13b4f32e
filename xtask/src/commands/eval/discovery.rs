//! `eval-discovery`: objects found without labels, on VOC, a folder with boxes, or the toy walk.

use super::{check_encoder, check_exists, encoder_options, start, toy_walk};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "eval-discovery",
    about: "Judges an encoder by the objects that it finds without labels",
    options: encoder_options![
        option(
            "data",
            Value::Text("DIR"),
            "data set in the layout of VOC or DAVIS, or images with --boxes\n(default: the toy walk)",
        ),
        option(
            "set",
            Value::Text("NAME"),
            "which list of ImageSets (default: trainval of VOC, val\nor the only one of DAVIS)",
        ),
        option(
            "boxes",
            Value::Text("FILE"),
            "JSON with the boxes of images below --data:\n{\"a/1.jpg\": [[x0, y0, x1, y1]]}",
        ),
        flag(
            "no-hard",
            "leave out VOC's truncated and difficult objects, and images with no other"
        ),
        option("every", Value::Count("N"), "of a sequence, take one frame in so many (default: 5)"),
        option(
            "short-side",
            Value::Count("PX"),
            "scale images to this short side first (default: as they are)",
        ),
        option(
            "k-patches",
            Value::Count("K"),
            "patches of lowest degree that a seed may take along (default: 100)",
        ),
        option(
            "out",
            Value::Text("DIR"),
            "write the boxes found as boxes.json, and the pictures asked for",
        ),
        option("pictures", Value::Count("N"), "draw so many images with their boxes into --out"),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
    ],
    operands: "",
    rest: "",
    notes: "CorLoc is the share of images where the box that LOST finds has an IoU of at least 0.5\n\
            with one of the data set; Jaccard compares the patches that hold 60 % of a head's\n\
            attention with masks, where there are some.\n\n\
            example: cargo xtask eval-discovery --checkpoint data/runs/toy --data VOCdevkit/VOC2007",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    check_encoder(&COMMAND, args)?;
    if let Some(data) = args.value("data") {
        check_exists(data, "a data set in the layout of VOC or DAVIS, or a folder of images")?;
    }
    let mut program = start(checkout, &COMMAND, "discovery", args)?;
    if !args.has("data") {
        program.arg("--data").arg(toy_walk(checkout)?.join("davis"));
    }
    process::run(&program)
}
