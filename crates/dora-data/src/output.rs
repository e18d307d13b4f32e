//! Where figures go: a table on standard output, JSON into a file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use dora_store::atomic;
use serde::Serialize;

/// Finds out whether the file behind `option` can be written, and leaves it as it is.
pub fn check_writable(option: &str, path: &Path) -> anyhow::Result<()> {
    atomic::check_writable(path).map_err(|error| unwritable(option, path, &error))
}

/// Prints a table, and writes the figures where asked.
pub fn tell(
    table: &[(&str, String)],
    figures: &impl Serialize,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    let width = table.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let text: String = table
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned() + "\n")
        .collect();
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    let Some(path) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures).context("cannot write the figures as JSON")?;
    fs::write(path, text + "\n").map_err(|error| unwritable("--json", path, &error))
}

/// The error for a file that cannot be written.
pub fn unwritable(option: &str, path: &Path, error: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!(
        "cannot write `{}`: {error}; give {option} a file in a folder that exists and may be written",
        path.display()
    )
}
