//! `inspect`: what a frame store holds.

use std::path::Path;

use super::ingest;
use crate::{
    args::{Args, CommandSpec, Value, option},
    checkout::Checkout,
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "inspect",
    about: "Shows what a frame store holds: figures, a contact sheet, loading speed",
    options: &[
        option(
            "sheet",
            Value::Text("FILE"),
            "where the contact sheet goes (default: beside the store, a PNG of\nits name)",
        ),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
    ],
    operands: "STORE",
    rest: "",
    notes: "STORE is a folder in data/stores, complete or not.\n\n\
            example: cargo xtask inspect data/stores/toy_walk-4fa12371.store",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let [store] = args.operands.as_slice() else {
        return Err(fixable(format!(
            "`cargo xtask inspect` looks at one frame store at a time, and {} were given: name one \
             folder in {}",
            args.operands.len(),
            ingest::STORES
        )));
    };
    ingest::check_store(Path::new(store))?;
    super::build(checkout)?;
    let mut inspect = checkout.program("dora-data")?;
    inspect.arg("inspect").args(args.forward(&["sheet", "json"]));
    process::run(inspect.arg("--").arg(store))
}
