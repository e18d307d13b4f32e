//! From a TOML text to a recipe: overrides, unknown keys, wrong types.

use std::{fs, path::Path};

use toml::{Table, Value};

use super::Recipe;

/// A recipe that cannot be used: every problem, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("the recipe {path} cannot be used:{}", list(problems))]
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
        let mut recipe = Self::parse(&text, overrides).map_err(failed)?;
        if recipe.output.run_dir.is_empty() {
            let name = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
            recipe.output.run_dir = format!("data/runs/{name}");
        }
        Ok(recipe)
    }

    /// The recipe of a text with overrides, or all its problems.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, Vec<String>> {
        let mut written: Table =
            toml::from_str(text).map_err(|error| vec![format!("it is not TOML: {error}")])?;
        let mut problems: Vec<String> =
            overrides.iter().filter_map(|text| lay_over(&mut written, text).err()).collect();
        let defaults = Table::try_from(Self::default())
            .map_err(|error| vec![format!("its defaults are not TOML: {error}")])?;
        problems.extend(structural_problems(&written, &defaults));
        if !problems.is_empty() {
            return Err(problems);
        }
        let recipe: Self =
            Value::Table(written).try_into().map_err(|error| vec![error.to_string()])?;
        let problems = recipe.problems();
        if problems.is_empty() { Ok(recipe) } else { Err(problems) }
    }

    /// The recipe as TOML, every key written out.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Keys whose values differ from another recipe's in a way that changes the training.
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let [ours, theirs] =
            [self, other].map(|recipe| Table::try_from(recipe).unwrap_or_default());
        let harmless = |key: &str| {
            key.starts_with("output.")
                || key.starts_with("monitor.")
                || ["data.videos", "data.threads", "data.prefetch_batches"].contains(&key)
                || ["train.device"].contains(&key)
        };
        let mut keys = Vec::new();
        for (section, values) in &ours {
            for (key, value) in values.as_table().into_iter().flatten() {
                let name = format!("{section}.{key}");
                let other = theirs.get(section).and_then(|section| section.get(key));
                if !harmless(&name) && other != Some(value) {
                    let other = other.map_or("nothing".into(), ToString::to_string);
                    keys.push(format!("`{name}` is {value} and was {other}"));
                }
            }
        }
        keys
    }
}

/// Puts `section.key=value` into a table; a value that is not TOML is text.
fn lay_over(table: &mut Table, text: &str) -> Result<(), String> {
    let wanted = format!("`--set {text}` must have the form `--set section.key=value`");
    let (path, value) = text.split_once('=').ok_or_else(|| wanted.clone())?;
    let (section, key) = path.trim().split_once('.').ok_or(wanted)?;
    let value = value.trim();
    let value: Value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let section_table = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    match section_table.as_table_mut() {
        Some(section_table) => section_table.insert(key.to_owned(), value),
        None => return Err(format!("`{section}` must be a section, but is a single value")),
    };
    Ok(())
}

/// Unknown keys, and values of the wrong type, each tried alone against the defaults.
fn structural_problems(written: &Table, defaults: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (section, values) in written {
        let Some(known) = defaults.get(section).and_then(Value::as_table) else {
            let hint = suggestion(section, defaults.keys());
            problems.push(format!("there is no section [{section}]{hint}"));
            continue;
        };
        let Some(values) = values.as_table() else {
            problems.push(format!("`{section}` must be a section, but is a single value"));
            continue;
        };
        for (key, value) in values {
            if !known.contains_key(key) {
                let hint = suggestion(key, known.keys());
                problems.push(format!("there is no key `{section}.{key}`{hint}"));
                continue;
            }
            let mut alone = defaults.clone();
            if let Some(table) = alone.get_mut(section).and_then(Value::as_table_mut) {
                table.insert(key.clone(), value.clone());
            }
            if let Err(error) = Value::Table(alone).try_into::<Recipe>() {
                let reason = error.message().replace('\n', " ");
                problems.push(format!("`{section}.{key}` is {value}: {}", reason.trim()));
            }
        }
    }
    problems
}

fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> String {
    let near = known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map_or(String::new(), |(_, candidate)| format!("; did you mean `{candidate}`?"))
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
