//! The `dora-ingest` binary: parses the command line and dispatches.

use clap::{Parser, Subcommand};
use dora_ingest::{analysis, bench, command, quiet, toy_walk};
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
    /// Decode videos or images into frame stores; interrupted ones go on where they stopped
    Ingest(command::Args),
    /// Draw lightness, cuts and classes of videos over time, compared at equal length
    Analyze(analysis::Args),
    /// Measure how fast a 4K video is ingested, beside the `ffmpeg` program
    Bench(bench::Args),
    /// Render the toy walk: a street seen by a walker, with object and class masks
    ToyWalk(toy_walk::Args),
}

fn main() -> ExitCode {
    let done = match &Cli::parse().command {
        Command::Ingest(args) => command::run(args),
        Command::Analyze(args) => analysis::run(args),
        Command::Bench(args) => bench::run(args),
        Command::ToyWalk(args) => {
            quiet::restart_silenced();
            toy_walk::run(args).map(|mp4| {
                println!("{}", mp4.display());
                ExitCode::SUCCESS
            })
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
