//! Event files for TensorBoard: figures and pictures by step.
//!
//! A run that goes on begins a new file, which opens with a session's start at its first step: readers
//! then forget what an earlier file says of that step and later ones.

mod event;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub use self::event::Picture;
use self::event::{Event, What, record};

/// What a file's name opens with; readers take no others. The seconds of its beginning follow, by which
/// readers order files.
const PREFIX: &str = "events.out.tfevents.";

/// The event file of a run under way.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Begins a file in the folder for a run that goes on after `step` steps; makes the folder.
    pub fn resume(folder: &Path, step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let (path, file) = create_newest(folder)?;
        let mut board = Self { path, file };
        board.write(&[
            Event { step: 0, what: What::Version },
            Event { step: step + 1, what: What::SessionStart },
        ])?;
        Ok(board)
    }

    /// Appends figures of one step under their tags.
    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> io::Result<()> {
        self.write(&[Event { step, what: What::Scalars(values) }])
    }

    /// Appends a picture.
    pub fn picture(&mut self, tag: &str, step: u64, picture: Picture<'_>) -> io::Result<()> {
        self.write(&[Event { step, what: What::Picture(tag, picture) }])
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One write for all, so that a reader finds whole records; a torn last one ends its reading.
    fn write(&mut self, events: &[Event<'_>]) -> io::Result<()> {
        let now_s = since_1970().as_secs_f64();
        let bytes: Vec<u8> = events.iter().flat_map(|event| record(&event.encode(now_s))).collect();
        self.file.write_all(&bytes)
    }
}

/// A file whose name orders it after all others, also when the clock went back.
fn create_newest(folder: &Path) -> io::Result<(PathBuf, File)> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let seconds = rest.and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        newest = newest.max(seconds);
    }
    let after = newest.map_or(0, |newest| newest.saturating_add(1));
    let path = folder.join(format!("{PREFIX}{:010}.dora", since_1970().as_secs().max(after)));
    let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
    Ok((path, file))
}

fn since_1970() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
