//! Reading and writing recipes of a training run.

use std::path::Path;

use dora_recipe::RecipeError;

use super::Recipe;

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
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        dora_recipe::differing_keys(self, other, |name| {
            name.starts_with("output.")
                || name.starts_with("monitor.")
                || ["data.videos", "data.threads", "data.prefetch_batches"].contains(&name)
                || name == "train.device"
        })
    }
}
