//! What may stand behind `dora-train bench`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use dora_data::output::JsonFile;
use dora_train::bench::{RecipeChoice, StepBench, split_overrides};

#[derive(Subcommand)]
pub(crate) enum BenchSubject {
    /// Whole training steps on synthetic frames, beside the rate of matrix products
    Step(StepBenchArgs),
}

#[derive(Args)]
pub(crate) struct StepBenchArgs {
    /// TOML file; without, one clip, float32, and every other key's default
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Size of the encoder: vit_tiny, vit_small or vit_base
    #[arg(long)]
    arch: Option<String>,
    /// float32, bfloat16 (bf16), float16 (fp16) or auto
    #[arg(long)]
    precision: Option<String>,
    /// Clips in a batch
    #[arg(long)]
    clips: Option<usize>,
    /// `section.key=value` to lay over the recipe
    #[arg(long = "set")]
    overrides: Vec<String>,
    /// `section.key=value[,section.key=value]...` of a second setting that takes turns with the first
    #[arg(long)]
    compare: Option<String>,
    /// Also take steps with batches from a frame store, as training does, by turns with the others
    #[arg(long, requires = "stores")]
    with_loader: bool,
    /// Frame store for --with-loader
    #[arg(long = "store", value_name = "DIR", requires = "with_loader")]
    stores: Vec<PathBuf>,
    /// Steps to time; without, as many as half a minute takes, at least 3
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
    /// Folder for a profile of two steps: trace.json for Chrome or Perfetto, kernels.json with sums
    #[arg(long, value_name = "DIR", conflicts_with = "compare")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    json: JsonFile,
}

impl StepBenchArgs {
    /// The settings, or what is wrong with them.
    pub(crate) fn read(self) -> anyhow::Result<StepBench> {
        let Self {
            recipe,
            arch,
            precision,
            clips,
            overrides,
            compare,
            stores,
            steps,
            profile,
            json,
            ..
        } = self;
        let choice = RecipeChoice { file: recipe, arch, precision, clips, overrides };
        let base = choice.read(&[])?;
        let compared = match compare {
            Some(text) => {
                let recipe = choice.read(&split_overrides(&text));
                Some((
                    recipe.with_context(|| format!("`--compare {text}` gives no setting"))?,
                    text,
                ))
            }
            None => None,
        };
        let steps = steps.map(|steps| steps as usize);
        Ok(StepBench { base, compared, stores, steps, profile, json })
    }
}
