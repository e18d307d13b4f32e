//! Files of JSON lines that each belong to a step, of runs that are killed and go on.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A file that grows by a line at a time.
#[derive(Debug)]
pub(crate) struct StepLines {
    path: PathBuf,
    file: File,
}

impl StepLines {
    /// Opens the file of a run that goes on after `step` steps: what a killed run wrote of later
    /// steps is cut off, and so is a torn last line.
    pub(crate) fn resume(path: PathBuf, step: u64) -> io::Result<Self> {
        /// The one field that decides, so that lines of other versions stay.
        #[derive(Deserialize)]
        struct Line {
            step: u64,
        }
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let mut kept_bytes = 0;
        let mut reader = BufReader::new(&file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let read_bytes = reader.read_until(b'\n', &mut text)?;
            let is_kept = text.ends_with(b"\n")
                && serde_json::from_slice(&text).is_ok_and(|line: Line| line.step <= step);
            if !is_kept {
                break;
            }
            kept_bytes += read_bytes as u64;
        }
        file.set_len(kept_bytes)?;
        Ok(Self { path, file })
    }

    /// Appends a line.
    pub(crate) fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_string(line)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
