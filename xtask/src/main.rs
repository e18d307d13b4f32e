//! `cargo xtask <command>`: the one command that users meet.
//!
//! It provides the toolchain (system packages, libtorch), builds the programs of the workspace and
//! starts them. It links neither libtorch nor OpenCV, so that it builds in seconds on a bare machine.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod checkout;
mod commands;
mod doctor;
mod process;
mod setup;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = process::watch_signals().and_then(|()| run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::report(&error),
    }
}

fn run() -> anyhow::Result<()> {
    match args::parse(commands::ALL, std::env::args_os().skip(1))? {
        args::Request::Help(text) => {
            process::print(&text);
            Ok(())
        }
        args::Request::Run(command, args) => (command.run)(&checkout::Checkout::find()?, &args),
    }
}
