//! `test`: every test of the workspace.

use std::{env, ffi::OsString};

use crate::{
    args::{Args, CommandSpec},
    checkout::Checkout,
    process,
    setup::{machine::Machine, test_tools},
};

/// Names the Python with PyTorch, timm and TensorBoard for the tests that compare with those.
const TEST_PYTHON: &str = "DORA_TEST_PYTHON";

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "test",
    about: "Runs every test",
    options: &[],
    operands: "",
    rest: "[-- ARG...]",
    notes: "What follows `--` goes to `cargo test --workspace`, and what follows a second `--` to the\n\
            tests: `cargo xtask test -- tracker -- --nocapture`. Tests that compare with PyTorch, timm and\n\
            TensorBoard need those for Python: `cargo xtask setup --test-tools` brings them, and an exported\n\
            DORA_TEST_PYTHON names a Python of your own that has them. Without one these tests say so and\n\
            pass.",
    run: |checkout, args: &Args| run(checkout, &args.rest),
};

/// The Python with the test tools: the user's own, or the one in the cache, if there is either.
pub(super) fn python() -> Option<OsString> {
    let own = env::var_os(TEST_PYTHON);
    own.or_else(|| test_tools::find(&Machine::this()).map(Into::into))
}

/// Sets up what is missing and runs all tests, with `extra` words for `cargo test`.
pub(crate) fn run(checkout: &Checkout, extra: &[OsString]) -> anyhow::Result<()> {
    super::ensure(checkout)?;
    let mut cargo = checkout.cargo();
    cargo.arg("test").arg("--manifest-path");
    cargo.arg(checkout.root().join("Cargo.toml"));
    if let Some(python) = python() {
        cargo.env(TEST_PYTHON, python);
    }
    process::run(cargo.arg("--workspace").args(checkout.features()).args(extra))
}
