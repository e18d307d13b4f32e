//! The `dora-data` binary: measures how fast a frame store feeds training, and shows what it holds.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dora_data::bench::{LoaderBench, bench_loader};
use dora_data::inspect::{Inspect, inspect};

#[derive(Parser)]
#[command(name = "dora-data", about = "Measures and shows frame stores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures how fast clips come out of a store
    Bench {
        #[command(subcommand)]
        subject: BenchSubject,
    },
    /// Prints what a store holds and draws a contact sheet
    Inspect(Inspect),
}

#[derive(Subcommand)]
enum BenchSubject {
    /// Clips decoded, cropped and as views, beside bare decodes of the same frames
    Loader(LoaderBench),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bench { subject: BenchSubject::Loader(bench) } => bench_loader(&bench),
        Command::Inspect(what) => inspect(&what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
