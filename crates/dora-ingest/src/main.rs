//! The `dora-ingest` binary: parses the command line and dispatches.

use clap::{Parser, Subcommand};
use dora_ingest::toy_walk;
use std::process::ExitCode;

/// Decode video once into frame stores
#[derive(Parser)]
#[command(name = "dora-ingest")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Render the toy walk: a street seen by a walker, with object and class masks
    ToyWalk(toy_walk::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::ToyWalk(args) => toy_walk::run(&args).map(|mp4| println!("{}", mp4.display())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
