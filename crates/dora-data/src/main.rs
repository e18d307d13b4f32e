//! The `dora-data` binary: measures how fast a frame store feeds training, and shows what it holds.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
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
    Inspect(InspectArgs),
}

#[derive(Subcommand)]
enum BenchSubject {
    /// Clips decoded, cropped and as views, beside bare decodes of the same frames
    Loader(LoaderArgs),
}

#[derive(Args)]
struct LoaderArgs {
    /// Frame store to read
    #[arg(long)]
    store: PathBuf,
    /// Numbers of threads to measure, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// About how long to measure each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: u16,
    /// File to write the figures to
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct InspectArgs {
    /// Folder of a frame store
    store: PathBuf,
    /// Where the contact sheet goes instead of beside the store
    #[arg(long)]
    sheet: Option<PathBuf>,
    /// File to write the figures to
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bench { subject: BenchSubject::Loader(args) } => bench_loader(&args.into()),
        Command::Inspect(InspectArgs { store, sheet, json }) => {
            inspect(&Inspect { store, sheet, json })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl From<LoaderArgs> for LoaderBench {
    fn from(LoaderArgs { store, threads, seconds, json }: LoaderArgs) -> Self {
        let threads = threads.into_iter().map(usize::from).collect();
        Self { store, threads, seconds: f64::from(seconds), json }
    }
}
