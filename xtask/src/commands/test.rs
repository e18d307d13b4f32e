//! `test`: every test of the workspace.

use std::ffi::OsString;

use crate::{
    args::{Args, CommandSpec},
    checkout::Checkout,
    process,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "test",
    about: "Runs every test",
    options: &[],
    operands: "",
    rest: "[-- ARG...]",
    notes: "What follows `--` goes to `cargo test --workspace`, and what follows a second `--` to the\n\
            tests: `cargo xtask test -- tracker -- --nocapture`.",
    run: |checkout, args: &Args| run(checkout, &args.rest),
};

/// Sets up what is missing and runs all tests, with `extra` words for `cargo test`.
pub(crate) fn run(checkout: &Checkout, extra: &[OsString]) -> anyhow::Result<()> {
    super::ensure(checkout)?;
    let mut cargo = checkout.cargo();
    cargo.arg("test").arg("--manifest-path");
    cargo.arg(checkout.root().join("Cargo.toml"));
    process::run(cargo.arg("--workspace").args(checkout.features()).args(extra))
}
