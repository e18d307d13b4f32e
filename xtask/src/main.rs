//! `cargo xtask <command>`: the one command that users meet.
//!
//! It provides the toolchain (system packages, libtorch), builds the programs of the workspace and
//! starts them. It links neither libtorch nor OpenCV, so that it builds in seconds on a bare machine.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod checkout;
mod commands;
mod doctor;
mod jobs;
mod launch;
mod process;
mod setup;
mod signals;
#[cfg(test)]
mod testing;
mod tether;

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.next_if(|word| word == tether::WORD).is_some() {
        return process::report(&tether::become_program(words));
    }
    match signals::watch().and_then(|()| run(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::report(&error),
    }
}

fn run(words: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    match args::parse(commands::ALL, words)? {
        args::Request::Help(text) => {
            process::print(&text);
            Ok(())
        }
        args::Request::Run(command, args) => (command.run)(&checkout::Checkout::find()?, &args),
    }
}
