//! Reading and writing recipes of a training run.

use std::path::Path;

use dora_recipe::RecipeError;

use super::Recipe;

/// What a run was started with before and is not any more, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What a run may be resumed with when the user allows it: the state stays of use.
    pub changeable: Vec<String>,
    /// What would make it another run.
    pub fixed: Vec<String>,
}

impl Recipe {
    /// Reads a file and lays `overrides`, each `section.key=value`, over it.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut recipe = dora_recipe::read(path, overrides, Self::problems)?;
        if recipe.output.run_dir.is_empty() {
            let name = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
            recipe.output.run_dir = format!("data/runs/{name}");
        }
        Ok(recipe)
    }

    /// The recipe of a text with overrides, or all its problems.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, Vec<String>> {
        dora_recipe::parse(text, overrides, Self::problems)
    }

    /// The recipe as TOML, every key written out.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Keys whose values differ from another recipe's in a way that changes the training.
    pub fn differing_keys(&self, other: &Self) -> Differences {
        let is_harmless = |name: &str| {
            name.starts_with("output.")
                || name.starts_with("monitor.")
                || ["data.videos", "data.threads", "data.prefetch_batches"].contains(&name)
                || ["train.device", "train.checkpoint_blocks"].contains(&name)
        };
        // Lengths, rates and sizes of a batch: neither tensors nor the order of the clips follow from them.
        let is_changeable = |name: &str| {
            (name.starts_with("train.") && name != "train.seed")
                || name.starts_with("method.warmup_teacher_temp")
                || ["method.teacher_temp", "model.drop_path"].contains(&name)
        };
        let keys = |changeable: bool| {
            dora_recipe::differing_keys(self, other, |name| {
                is_harmless(name) || is_changeable(name) != changeable
            })
        };
        Differences { changeable: keys(true), fixed: keys(false) }
    }
}
