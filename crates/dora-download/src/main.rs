//! The `dora-download` binary: parses the command line and dispatches.

use clap::Parser;
use dora_download::{child, command};
use std::io::Write;
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
    let outcome = if words.next_if(|word| word == child::WORD).is_some() {
        Err(child::become_program(words))
    } else {
        command::run(&Cli::parse().args)
    };
    outcome.unwrap_or_else(|error| {
        let status = command::status_of(&error);
        // A closed pipe there is no reason to panic.
        let _ = writeln!(std::io::stderr(), "error: {:#}", anyhow::Error::from(error));
        ExitCode::from(status)
    })
}
