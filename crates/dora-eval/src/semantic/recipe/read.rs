//! Reading and writing recipes of a head.

use std::path::Path;

use dora_recipe::RecipeError;
use toml::Table;

use super::Recipe;

impl Recipe {
    /// Reads a file and lays `overrides`, each `section.key=value`, over it.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        dora_recipe::read(path, overrides, Self::problems)
    }

    /// The recipe of a text with overrides, or all its problems.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, Vec<String>> {
        dora_recipe::parse(text, overrides, Self::problems)
    }

    /// The recipe as TOML, every key written out.
    pub fn to_toml(&self) -> String {
        // Every field is of a kind that TOML has.
        Table::try_from(self).unwrap_or_default().to_string()
    }

    /// Keys whose values differ from another recipe's in a way that changes the training.
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        dora_recipe::differing_keys(self, other, |name| {
            name.starts_with("test.") || name.ends_with(".checkpoint_every")
        })
    }
}
