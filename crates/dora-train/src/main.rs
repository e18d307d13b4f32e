//! The worker: checks a recipe, or trains on frame stores as one process on one device.

mod guard;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use dora_train::{
    dry_run,
    plan::Placement,
    recipe::Recipe,
    run::{self, Ended},
};

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
        /// Put an existing run of this folder aside and start anew
        #[arg(long)]
        fresh: bool,
        /// Print the resolved plan, take one step on synthetic frames, and stop
        #[arg(long)]
        dry_run: bool,
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
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check { recipe, videos } => check(&recipe, videos),
        Command::Train { recipe, stores, run_dir, fresh, dry_run } => {
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
            Ok(report(&run::train(&recipe, &stores, &run_dir, fresh)?, &run_dir))
        }
    }
}

fn check(recipe: &RecipeArgs, videos: Vec<String>) -> anyhow::Result<ExitCode> {
    let recipe = recipe.read()?;
    // Before hours of decoding: can this machine do what the recipe asks?
    Placement::new(&recipe)?;
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
    });
    println!("{needs}");
    Ok(ExitCode::SUCCESS)
}

fn report(ended: &Ended, run_dir: &Path) -> ExitCode {
    let shown = run_dir.display();
    if let Some(signal) = ended.signal {
        eprintln!(
            "stopped after step {} of {}; the same command goes on from {}",
            ended.step,
            ended.total_steps,
            ended.checkpoint.display()
        );
        return ExitCode::from((128 + signal) as u8);
    }
    eprintln!("trained {} steps", ended.step);
    eprintln!("  checkpoint  {}", ended.checkpoint.display());
    eprintln!("  metrics     {shown}/metrics.jsonl");
    eprintln!("  pictures    {shown}/tracks/");
    eprintln!("next: cargo xtask train --video YOUR_VIDEO.mp4");
    ExitCode::SUCCESS
}

impl RecipeArgs {
    fn read(&self) -> anyhow::Result<Recipe> {
        Ok(Recipe::read(&self.recipe, &self.overrides)?)
    }
}
