//! The worker: trains on frame stores as one process on one device, alone or with others; also checks
//! recipes and measures steps.

mod bench_args;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use dora_data::{say, training_folder::put_aside};
use dora_train::{
    bench::bench_step,
    dry_run, guard, monitor,
    plan::Placement,
    recipe::Recipe,
    run::{self, Ended},
    world::{Lost, World},
};
use signal_hook::consts::SIGUSR1;

use bench_args::BenchSubject;

#[derive(Parser)]
#[command(name = "dora-train", about = "Trains an encoder on frame stores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a recipe and prints what it needs as one line of JSON
    Check {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Video to train on instead of the recipe's
        #[arg(long = "video")]
        videos: Vec<String>,
    },
    /// Trains, from the newest checkpoint of the run's folder on when it has one
    Train {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Frame store to train on
        #[arg(long = "store")]
        stores: Vec<PathBuf>,
        /// The run's folder instead of the recipe's
        #[arg(long)]
        run_dir: Option<PathBuf>,
        /// Resume with another length, learning rate and the like than the run was started with
        #[arg(long)]
        allow_changes: bool,
        /// Seconds that processes wait for one another, when they meet and in each exchange
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
        timeout_s: u64,
        /// Print the resolved plan, take one step on synthetic frames, and stop
        #[arg(long)]
        dry_run: bool,
    },
    /// Measures how fast this machine trains
    Bench {
        #[command(subcommand)]
        subject: BenchSubject,
    },
    /// Renames the run in a folder, if there is one, so that the next starts anew
    PutAside {
        /// The run's folder
        #[arg(long)]
        run_dir: PathBuf,
    },
}

#[derive(Args)]
struct RecipeArgs {
    /// TOML file
    #[arg(long)]
    recipe: PathBuf,
    /// `section.key=value` to lay over the recipe
    #[arg(long = "set")]
    overrides: Vec<String>,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    match guard::without_memory_panics(|| start(command)) {
        Ok(code) => code,
        Err(error) => {
            say!("error: {error:#}");
            // Nothing is wrong with the input of a process whose peer is gone.
            ExitCode::from(if error.is::<Lost>() { 1 } else { 2 })
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check { recipe, videos } => check(&recipe, videos),
        Command::Bench { subject: BenchSubject::Step(args) } => {
            bench_step(&args.read()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::PutAside { run_dir } => {
            put_aside(&run_dir, "--run-dir")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Train { recipe, stores, run_dir, allow_changes, timeout_s, dry_run } => {
            let recipe = recipe.read()?;
            let run_dir = run_dir.unwrap_or_else(|| PathBuf::from(&recipe.output.run_dir));
            if dry_run {
                dry_run::dry_run(&recipe)?;
                return Ok(ExitCode::SUCCESS);
            }
            if stores.is_empty() {
                bail!(
                    "no frame store to train on: give --store, or use `cargo xtask train --video FILE`"
                );
            }
            let mut world = World::join(Duration::from_secs(timeout_s))?;
            world.divide_cores();
            let placement = world.take_place(&recipe)?;
            let ended = run::train(&recipe, &placement, &stores, &run_dir, allow_changes, &world)?;
            Ok(report(&ended, &run_dir, &stores[0]))
        }
    }
}

fn check(recipe: &RecipeArgs, videos: Vec<String>) -> anyhow::Result<ExitCode> {
    let recipe = recipe.read()?;
    // Before hours of decoding: can this machine do what the recipe asks?
    Placement::new(&recipe, &World::alone())?;
    monitor::check(&recipe)?;
    let videos = if videos.is_empty() { recipe.data.videos.clone() } else { videos };
    if videos.is_empty() {
        bail!(
            "the recipe names no video: give one with --video, or set `data.videos` in the recipe"
        );
    }
    let needs = serde_json::json!({
        "videos": videos,
        "short_side_px": recipe.data.short_side_px,
        "jpeg_quality": recipe.data.jpeg_quality,
        "run_dir": recipe.output.run_dir,
        "arch": recipe.model.arch,
        "patch_px": recipe.model.patch_px,
    });
    println!("{needs}");
    Ok(ExitCode::SUCCESS)
}

/// Says on the first rank how the run ended; gives the exit status on every rank.
fn report(ended: &Ended, run_dir: &Path, store: &Path) -> ExitCode {
    let status = match ended.signal {
        // It asks for a checkpoint before the job starts again, so that saving is success.
        None | Some(SIGUSR1) => ExitCode::SUCCESS,
        Some(signal) => ExitCode::from((128 + signal) as u8),
    };
    let Some(checkpoint) = &ended.checkpoint else { return status };
    let (shown, checkpoint) = (run_dir.display(), checkpoint.display());
    if ended.signal.is_some() {
        say!(
            "stopped after step {} of {}; the same command goes on from {checkpoint}",
            ended.step,
            ended.last_step,
        );
        return status;
    }
    say!("trained {} steps", ended.step);
    if ended.skipped_steps > 0 {
        let count = ended.skipped_steps;
        say!(
            "  skipped     {count} of them: a number was not finite (`is_skipped` in metrics.jsonl)"
        );
    }
    say!("  checkpoint  {checkpoint}");
    say!("  metrics     {shown}/metrics.jsonl");
    say!("  pictures    {shown}/tracks/");
    say!("  TensorBoard {shown}/tensorboard/");
    say!("next: cargo xtask visualize --checkpoint {shown} --store {}", store.display());
    status
}

impl RecipeArgs {
    fn read(&self) -> anyhow::Result<Recipe> {
        Ok(Recipe::read(&self.recipe, &self.overrides)?)
    }
}
