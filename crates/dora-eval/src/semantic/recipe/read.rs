//! From a TOML text to a recipe: overrides, unknown keys, wrong types.

use std::{fs, path::Path};

use toml::{Table, Value};

use super::Recipe;

/// A recipe that cannot be used: every problem, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("the recipe {path} cannot be used:{}", problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
pub struct RecipeError {
    /// The file.
    pub path: String,
    /// What is wrong and what would be right.
    pub problems: Vec<String>,
}

impl Recipe {
    /// Reads a file and lays `overrides`, each `section.key=value`, over it.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let failed = |problems| RecipeError { path: path.display().to_string(), problems };
        let text = fs::read_to_string(path)
            .map_err(|error| failed(vec![format!("it cannot be read: {error}")]))?;
        Self::parse(&text, overrides).map_err(failed)
    }

    /// The recipe of a text with overrides, or all its problems.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, Vec<String>> {
        let mut written: Table =
            toml::from_str(text).map_err(|error| vec![format!("it is not TOML: {error}")])?;
        let mut problems: Vec<String> =
            overrides.iter().filter_map(|change| lay_over(&mut written, change).err()).collect();
        let defaults = Self::default().table();
        for (section, values) in &written {
            match (defaults.get(section).and_then(Value::as_table), values.as_table()) {
                (Some(known), Some(values)) => problems.extend(
                    values
                        .iter()
                        .filter_map(|(key, value)| key_problem(section, known, key, value)),
                ),
                (Some(_), None) => {
                    problems.push(format!("`{section}` must be a section, but is a single value"));
                }
                (None, _) => problems.push(format!(
                    "there is no section [{section}]{}",
                    suggestion(section, defaults.keys())
                )),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let recipe: Self =
            Value::Table(written).try_into().map_err(|error| vec![error.to_string()])?;
        let problems = recipe.problems();
        if problems.is_empty() { Ok(recipe) } else { Err(problems) }
    }

    /// The recipe as TOML, every key written out.
    pub fn to_toml(&self) -> String {
        self.table().to_string()
    }

    /// Keys whose values differ from another recipe's in a way that changes the training.
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (self.table(), other.table());
        let mut keys = Vec::new();
        for (section, values) in ours.iter().filter(|(section, _)| *section != "test") {
            for (key, value) in values.as_table().into_iter().flatten() {
                let before = theirs.get(section).and_then(|section| section.get(key));
                if let Some(before) =
                    before.filter(|before| *before != value && key != "checkpoint_every")
                {
                    keys.push(format!("`{section}.{key}` is {value} and was {before}"));
                }
            }
        }
        keys
    }

    fn table(&self) -> Table {
        // Every field is of a kind that TOML has.
        Table::try_from(self).unwrap_or_default()
    }
}

/// Puts `section.key=value` into a table; a value that is not TOML is text.
fn lay_over(table: &mut Table, change: &str) -> Result<(), String> {
    let parts = change.split_once('=').and_then(|(path, value)| {
        let (section, key) = path.trim().split_once('.')?;
        Some((section, key, value.trim()))
    });
    let Some((section, key, text)) = parts else {
        return Err(format!("`--set {change}` must have the form `--set section.key=value`"));
    };
    let parsed = toml::from_str::<Table>(&format!("it = {text}"));
    let value = parsed.ok().and_then(|mut table| table.remove("it"));
    let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let Some(values) = entry.as_table_mut() else {
        return Err(format!("`{section}` must be a section, but is a single value"));
    };
    values.insert(key.to_owned(), value.unwrap_or_else(|| Value::String(text.to_owned())));
    Ok(())
}

/// What is wrong with a key: it is unknown, or its value is of a wrong type (tried alone, so that every
/// wrong one is found).
fn key_problem(section: &str, known: &Table, key: &str, value: &Value) -> Option<String> {
    if !known.contains_key(key) {
        let hint = suggestion(key, known.keys());
        return Some(format!("there is no key `{section}.{key}`{hint}"));
    }
    let values = Table::from_iter([(key.to_owned(), value.clone())]);
    let alone = Table::from_iter([(section.to_owned(), Value::Table(values))]);
    let error = Value::Table(alone).try_into::<Recipe>().err()?;
    let reason = error.message().replace('\n', " ");
    Some(format!("`{section}.{key}` is {value}: {}", reason.trim()))
}

fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> String {
    let near = known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map_or(String::new(), |(_, candidate)| format!("; did you mean `{candidate}`?"))
}
