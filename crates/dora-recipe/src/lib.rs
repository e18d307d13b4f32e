//! From a TOML text to a recipe of any type: overrides, unknown keys, wrong types, all problems at once.
//!
//! A recipe has sections of keys, and each key a default; a text states what differs.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

/// A recipe that cannot be used: every problem, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("the recipe {path} cannot be used:{}", list(problems))]
pub struct RecipeError {
    /// The file.
    pub path: String,
    /// What is wrong and what would be right.
    pub problems: Vec<String>,
}

/// Reads a file and lays `overrides`, each `section.key=value`, over it; `problems` finds values that are
/// impossible, or do not go with one another.
///
/// # Errors
/// The file cannot be read, or see [`parse`].
pub fn read<R: Default + Serialize + DeserializeOwned>(
    path: &Path,
    overrides: &[String],
    problems: impl Fn(&R) -> Vec<String>,
) -> Result<R, RecipeError> {
    let failed = |problems| RecipeError { path: path.display().to_string(), problems };
    let text = fs::read_to_string(path)
        .map_err(|error| failed(vec![format!("it cannot be read: {error}")]))?;
    parse(&text, overrides, problems).map_err(failed)
}

/// The recipe of a text with overrides.
///
/// # Errors
/// All problems: those of sections, keys and types, or, where there are none, those that `problems` finds.
pub fn parse<R: Default + Serialize + DeserializeOwned>(
    text: &str,
    overrides: &[String],
    problems: impl Fn(&R) -> Vec<String>,
) -> Result<R, Vec<String>> {
    let mut written: Table =
        toml::from_str(text).map_err(|error| vec![format!("it is not TOML: {error}")])?;
    let mut structural: Vec<String> =
        overrides.iter().filter_map(|text| lay_over(&mut written, text).err()).collect();
    let defaults = Table::try_from(R::default())
        .map_err(|error| vec![format!("its defaults are not TOML: {error}")])?;
    structural.extend(structural_problems::<R>(&written, &defaults));
    if !structural.is_empty() {
        return Err(structural);
    }
    let recipe: R = Value::Table(written).try_into().map_err(|error| vec![error.to_string()])?;
    let problems = problems(&recipe);
    if problems.is_empty() { Ok(recipe) } else { Err(problems) }
}

/// Keys whose values differ between two recipes, one sentence each; without those whose `section.key` is
/// harmless.
pub fn differing_keys<R: Serialize>(
    recipe: &R,
    before: &R,
    is_harmless: impl Fn(&str) -> bool,
) -> Vec<String> {
    let [now, then] = [recipe, before].map(|recipe| Table::try_from(recipe).unwrap_or_default());
    let mut keys = Vec::new();
    for (section, values) in &now {
        for (key, value) in values.as_table().into_iter().flatten() {
            let name = format!("{section}.{key}");
            let before = then.get(section).and_then(|section| section.get(key));
            if !is_harmless(&name) && before != Some(value) {
                let before = before.map_or("nothing".into(), ToString::to_string);
                keys.push(format!("`{name}` is {value} and was {before}"));
            }
        }
    }
    keys
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
fn structural_problems<R: DeserializeOwned>(written: &Table, defaults: &Table) -> Vec<String> {
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
            if let Err(error) = Value::Table(alone).try_into::<R>() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Recipe {
        oven: Oven,
        dough: Dough,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Oven {
        degrees: i64,
        name: String,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Dough {
        eggs: u8,
    }

    fn read(text: &str, overrides: &[&str]) -> Result<Recipe, Vec<String>> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        parse(text, &overrides, |recipe: &Recipe| {
            let is_hot = recipe.oven.degrees > 300;
            is_hot.then(|| "`oven.degrees` is too hot".to_owned()).into_iter().collect()
        })
    }

    #[test]
    fn overrides_win_over_the_text_and_the_text_over_defaults() {
        let recipe = read("[oven]\ndegrees = 200", &["oven.degrees = 220", "oven.name=wood fire"]);
        let oven = Oven { degrees: 220, name: "wood fire".into() };
        assert_eq!(recipe, Ok(Recipe { oven, dough: Dough::default() }));
    }

    #[test]
    fn every_problem_is_told_with_what_was_meant() {
        let text = "[oven]\ndegree = 1\nname = 2\n[duogh]\neggs = 1";
        let problems = read(text, &["dough.eggs=300", "nonsense", "x.y=1"]).unwrap_err().join("\n");
        for part in [
            "no key `oven.degree`; did you mean `degrees`?",
            "`oven.name` is 2: ",
            "no section [duogh]; did you mean `dough`?",
            "`dough.eggs` is 300: ",
            "`--set nonsense` must have the form",
            "no section [x]",
        ] {
            assert!(problems.contains(part), "no {part} in\n{problems}");
        }
        assert_eq!(problems.lines().count(), 6, "{problems}");
        assert_eq!(read("[oven]\ndegrees = 400", &[]).unwrap_err(), ["`oven.degrees` is too hot"]);
        assert_eq!(read("oven = 1", &[]).unwrap_err().len(), 1);
        assert!(read("not toml", &[]).unwrap_err()[0].starts_with("it is not TOML"));
    }

    #[test]
    fn a_file_is_named_where_it_cannot_be_read() {
        let read = super::read::<Recipe>(Path::new("none.toml"), &[], |_| Vec::new());
        let message = read.unwrap_err().to_string();
        assert!(message.starts_with("the recipe none.toml cannot be used:\n  it cannot be read"));
    }

    #[test]
    fn what_differs_is_told_unless_it_is_harmless() {
        let (now, then) = (read("", &["oven.degrees=2", "dough.eggs=1"]), read("", &[]));
        let differing = |is_harmless: fn(&str) -> bool| {
            differing_keys(now.as_ref().unwrap(), then.as_ref().unwrap(), is_harmless)
        };
        assert_eq!(differing(|name| name == "dough.eggs"), ["`oven.degrees` is 2 and was 0"]);
        assert_eq!(differing(|_| false).len(), 2);
    }
}
