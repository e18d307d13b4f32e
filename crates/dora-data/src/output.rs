//! Where figures go: a table on standard output, JSON into a file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use dora_store::atomic;
use serde::Serialize;

/// `--json FILE`: figures go there too, beside the table.
#[derive(Clone, Debug, Default, Args)]
pub struct JsonFile {
    /// File to write the figures to
    #[arg(long = "json", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl JsonFile {
    /// Finds out whether the file can be written, before the work whose figures it shall hold.
    pub fn check(&self) -> anyhow::Result<()> {
        self.path.as_deref().map_or(Ok(()), |path| check_writable("--json", path))
    }

    /// Prints a table, its values one below the other, and writes the figures where asked.
    pub fn tell(
        &self,
        table: &[(impl AsRef<str>, String)],
        figures: &impl Serialize,
    ) -> anyhow::Result<()> {
        let names = || table.iter().map(|(name, _)| name.as_ref());
        let width = names().map(|name| name.chars().count()).max().unwrap_or(0);
        let rows = names().zip(table);
        let text: String = rows
            .map(|(name, (_, value))| {
                format!("{name:width$}  {value}").trim_end().to_owned() + "\n"
            })
            .collect();
        self.tell_text(&text, figures)
    }

    /// Prints a text, and writes the figures where asked.
    pub fn tell_text(&self, text: &str, figures: &impl Serialize) -> anyhow::Result<()> {
        io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
        let Some(path) = &self.path else { return Ok(()) };
        let json =
            serde_json::to_string_pretty(figures).context("cannot write the figures as JSON")?;
        // Not by a rename, since it may be a pipe or a terminal.
        fs::write(path, json + "\n").map_err(|error| unwritable("--json", path, &error))
    }
}

/// Finds out whether the file behind `option` can be written, and leaves it as it is.
pub fn check_writable(option: &str, path: &Path) -> anyhow::Result<()> {
    atomic::check_writable(path).map_err(|error| unwritable(option, path, &error))
}

/// The error for a file that cannot be written.
pub fn unwritable(option: &str, path: &Path, error: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!(
        "cannot write `{}`: {error}; give {option} a file in a folder that exists and may be written",
        path.display()
    )
}
