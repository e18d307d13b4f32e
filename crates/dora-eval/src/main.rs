//! The `dora-eval` binary: judges an encoder and draws what it sees.
#![allow(non_snake_case)]

mod commands;

use std::process::ExitCode;

use clap::Parser;
use commands::Command;

#[derive(Parser)]
#[command(name = "dora-eval", about = "Judges an encoder")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
