//! The `dora-download` binary: parses the command line and dispatches.

use clap::Parser;
use dora_download::{child, command};
use std::process::ExitCode;

/// Fetch Walking Tours from figshare or YouTube
#[derive(Parser)]
#[command(name = "dora-download", args_override_self = true)]
struct Cli {
    #[command(flatten)]
    args: command::Args,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.next_if(|word| word == child::WORD).is_some() {
        eprintln!("error: {:#}", child::become_program(words));
        return ExitCode::FAILURE;
    }
    command::run(&Cli::parse().args).unwrap_or_else(|error| {
        let status = command::status_of(&error);
        eprintln!("error: {:#}", anyhow::Error::from(error));
        ExitCode::from(status)
    })
}
