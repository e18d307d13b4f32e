//! `bench`: how fast this machine trains. A step's views are made once, outside of what is timed, so
//! that a figure tells of the step alone: draws, teacher, tracker, student, loss, backward, clipping,
//! optimiser and the teacher's update. Where frame stores are given, steps that are fed from them as in
//! training take turns with those.

pub mod flops;
pub mod profile;
mod report;
mod setting;

use std::path::PathBuf;

use dora_data::{output::JsonFile, say};
use indicatif::ProgressBar;

use crate::recipe::{Recipe, RecipeError};
use profile::ProfileFolder;
use report::{Comparison, Report, columns};
use setting::Setting;

/// About how long steps are timed where nobody says how many.
const TIMED_S: f64 = 30.0;

/// The fewest and the most steps that are timed then.
const STEPS: (usize, usize) = (3, 100);

/// What to measure.
#[derive(Debug)]
pub struct StepBench {
    /// The setting.
    pub base: Recipe,
    /// Another setting that takes turns with it, and what is different there in words.
    pub compared: Option<(Recipe, String)>,
    /// Frame stores whose batches take turns with the made-up one, as training reads them; may be none.
    pub stores: Vec<PathBuf>,
    /// Steps to time; `None` is as many as half a minute takes.
    pub steps: Option<usize>,
    /// Where a trace of two steps goes, with its sums by kernel; for one setting alone.
    pub profile: Option<PathBuf>,
    /// Where figures go besides the table.
    pub json: JsonFile,
}

/// Where the recipe of a bench comes from.
#[derive(Clone, Debug, Default)]
pub struct RecipeChoice {
    /// TOML file; `None` is every key's default with one clip in float32.
    pub file: Option<PathBuf>,
    /// `model.arch`.
    pub arch: Option<String>,
    /// `train.precision`, or a short name of it: `fp32`, `bf16`, `fp16`.
    pub precision: Option<String>,
    /// `train.clips`.
    pub clips: Option<usize>,
    /// `section.key=value` to lay over all of these.
    pub overrides: Vec<String>,
}

/// Measures whole steps on synthetic frames, prints a table, and writes JSON where asked.
///
/// # Errors
/// The file cannot be written, which is found out first; the machine cannot do what a setting asks.
pub fn bench_step(bench: &StepBench) -> anyhow::Result<()> {
    bench.json.check()?;
    let folder = bench.profile.as_deref().map(ProfileFolder::create).transpose()?;
    let recipes = [&bench.base].into_iter().chain(bench.compared.iter().map(|(recipe, _)| recipe));
    let mut settings = recipes
        .map(|recipe| Setting::new(recipe, &bench.stores))
        .collect::<anyhow::Result<Vec<_>>>()?;
    measure(&mut settings, bench.steps)?;
    let mut kernels = String::new();
    if let Some(folder) = folder {
        announce("profiling");
        kernels = format!("\n{}", columns(folder.fill(&mut settings[0])?.table()));
    }
    announce("timing the parts");
    settings.iter_mut().try_for_each(Setting::time_parts)?;

    match (&settings[..], &bench.compared) {
        // Both engines lie in the same memory, so its peak says nothing of either.
        ([base, compared], Some((_, title))) => {
            let comparison = Comparison::new(Report::new(base, None), Report::new(compared, None));
            bench.json.tell_text(&comparison.table(title), &comparison)
        }
        (settings, _) => {
            let setting = &settings[0];
            let report = Report::new(setting, setting.peak_memory_bytes());
            bench.json.tell_text(&(report.table() + &kernels), &report)
        }
    }
}

/// Times steps and matrix products. Settings take turns, so that a machine that is busy for a while
/// slows them alike; rates are measured before and after, so that it shows.
fn measure(settings: &mut [Setting<'_>], steps: Option<usize>) -> anyhow::Result<()> {
    announce("multiplying matrices");
    settings.iter_mut().for_each(Setting::measure_rate);
    announce("warming up");
    let mut turn_s = 0.0;
    for setting in &mut *settings {
        turn_s += setting.warm_up()?;
    }
    let turns = steps.unwrap_or_else(|| ((TIMED_S / turn_s) as usize).clamp(STEPS.0, STEPS.1));
    let each = if settings.len() > 1 { " of each" } else { "" };
    announce(&format!("timing {turns} steps{each}, about {:.0} s", (turns as f64 * turn_s).ceil()));
    let bar = ProgressBar::new(turns as u64);
    for _ in 0..turns {
        for setting in &mut *settings {
            setting.time_step()?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    announce("multiplying matrices again");
    settings.iter_mut().for_each(Setting::measure_rate);
    Ok(())
}

impl RecipeChoice {
    /// The recipe, with `others` laid over it too.
    pub fn read(&self, others: &[String]) -> Result<Recipe, RecipeError> {
        let mut overrides = Vec::new();
        if self.file.is_none() {
            overrides.extend(["train.clips=1", "train.precision=float32"].map(str::to_owned));
        }
        overrides.extend(self.arch.as_ref().map(|arch| format!("model.arch={arch}")));
        overrides.extend(self.clips.map(|clips| format!("train.clips={clips}")));
        overrides.extend(self.precision.as_deref().map(|precision| {
            let name = match precision {
                "fp32" => "float32",
                "bf16" => "bfloat16",
                "fp16" => "float16",
                name => name,
            };
            format!("train.precision={name}")
        }));
        overrides.extend(self.overrides.iter().chain(others).cloned());
        match &self.file {
            Some(file) => Recipe::read(file, &overrides),
            None => Recipe::parse("", &overrides).map_err(|problems| RecipeError {
                path: "made of the defaults".to_owned(),
                problems,
            }),
        }
    }
}

/// The overrides in `key=value,key=value`; a comma inside a value's brackets parts nothing.
pub fn split_overrides(text: &str) -> Vec<String> {
    let mut overrides: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match overrides.last_mut() {
            Some(last) if !piece.contains('=') => *last = format!("{last},{piece}"),
            _ => overrides.push(piece.trim().to_owned()),
        }
    }
    overrides
}

fn announce(text: &str) {
    say!("{text} ...");
}
