//! `--dry-run`: the resolved plan, and one step on synthetic frames to see that it works.

use std::{
    io::{self, Write},
    time::Instant,
};

use anyhow::Context;
use dora_eval::memory::peak_memory_bytes;
use dora_model::Network;
use tch::Device;

use crate::{
    memory::MemoryEstimate,
    monitor,
    notice::Notice,
    plan::{Placement, StepImages, draws, network_config},
    recipe::Recipe,
    run::new_engine,
    schedule::{lr_warning, scaled_lr},
    synthetic::{scheduled_at_height, synthetic_views},
    world::World,
};

/// Prints what a recipe means for one process on this machine and takes a step on frames made up here; reads and
/// writes no file.
pub fn dry_run(recipe: &Recipe) -> anyhow::Result<()> {
    let world = World::alone();
    monitor::check(recipe)?;
    let placement = Placement::new(recipe, &world)?;
    let toml = recipe.to_toml().context("cannot write the recipe as TOML")?;
    show(&[toml, String::new()])?;
    show(&describe(recipe, &placement))?;

    let mut engine = new_engine(recipe, &placement, &world)?;
    let scheduled = scheduled_at_height(recipe);
    let started = Instant::now();
    let views = synthetic_views(recipe, placement.device);
    for batch in 0..recipe.train.gradient_accumulation_steps as u64 {
        let draws = draws(recipe, 0, batch, placement.device);
        engine.backward(&views.global_VBTCHW, &views.local_LBTCHW, &draws, &scheduled)?;
    }
    let output = engine.update(&scheduled, Notice::default())?;
    let loss = output.loss.total.double_value(&[]);
    let step_s = started.elapsed().as_secs_f64();
    let mut lines = vec![format!(
        "one step    loss {loss:.4}, {step_s:.2} s, the first and slowest, on synthetic frames"
    )];
    if let (Device::Cpu, Some(peak)) = (placement.device, peak_memory_bytes()) {
        lines.push(format!("memory      {} at the most, measured", gibibytes(peak)));
    }
    show(&lines)
}

/// The plan in lines.
fn describe(recipe: &Recipe, placement: &Placement) -> Vec<String> {
    let config = network_config(recipe);
    let weights = Network::init(&config, &mut dora_data::rng::stream(0, "weights", &[]));
    let millions = |prefix: &str| weights.strip_prefix(prefix).numel() as f64 / 1e6;
    let images = StepImages::new(recipe);
    let estimate = MemoryEstimate::new(recipe, &config, &weights, placement.autocast.is_some());
    let clips = recipe.train.clips;
    let clips_per_step = (clips * recipe.train.gradient_accumulation_steps) as u64;
    let mut lines = vec![
        format!(
            "device      {:?}, {}, {} threads",
            placement.device,
            placement.precision(),
            tch::get_num_threads()
        ),
        format!(
            "parameters  {:.1} M in the encoder, {:.1} M in the head",
            millions("backbone."),
            millions("head.")
        ),
        format!(
            "step        {clips} clips: {} frames for the teacher, {} masked or whole frames and {} local crops for the student",
            images.teacher, images.student_global, images.student_local
        ),
        format!(
            "lr          {:.3e} at its height: {:e} x {clips_per_step} clips / 256",
            scaled_lr(recipe, clips_per_step),
            recipe.train.lr
        ),
        format!(
            "memory      {} estimated: parameters {}, activations {}, logits {}, views {}",
            gibibytes(estimate.total()),
            gibibytes(estimate.parameters),
            gibibytes(estimate.activations),
            gibibytes(estimate.logits),
            gibibytes(estimate.views)
        ),
    ];
    let warnings = lr_warning(recipe, clips_per_step).into_iter();
    let warnings = warnings.chain(placement.warning().map(str::to_owned));
    lines.extend(warnings.map(|text| format!("warning     {text}")));
    lines
}

/// Writes lines to standard output, which a pager may close early.
fn show(lines: &[String]) -> anyhow::Result<()> {
    let text = lines.join("\n") + "\n";
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn gibibytes(bytes: i64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1i64 << 30) as f64)
}
