//! Checkpoints: folders that appear whole or not at all, with a checksum of every file.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use dora_model::{StateDict, StateError};
use dora_store::{
    FrameStore, atomic,
    record::{self, Record, RecordError},
};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;

const STATE: &str = "state.bin";
const STUDENT: &str = "student.safetensors";
const TEACHER: &str = "teacher.safetensors";
const TRAINING: &str = "training.safetensors";
const KEPT_LAST: usize = 2;

/// What a checkpoint says besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps that have been taken.
    pub step: u64,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// The data, in the order of the stores.
    pub stores: Vec<StoreIdentity>,
    files: Vec<FileSum>,
}

/// What makes a frame store the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Name of the source.
    pub source: String,
    /// Digest of the source.
    pub digest: u64,
    /// Number of frames.
    pub frames: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileSum {
    name: String,
    size_bytes: u64,
    crc32: u32,
}

impl Record for State {
    const NAME: &'static str = "checkpoint state";
    const MAGIC: [u8; 8] = *b"DORACKPT";
    const VERSION: u32 = 1;
}

impl StoreIdentity {
    /// The identity of an opened store.
    pub fn new(store: &FrameStore) -> Self {
        let source = &store.header().source;
        Self { source: source.name.clone(), digest: source.digest, frames: store.len() as u64 }
    }
}

/// Why a checkpoint cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The state record is damaged or cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The tensors cannot be read or written, or do not fit the model.
    #[error(transparent)]
    Tensors(#[from] StateError),
    /// A file has lost its tail or changed.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs from what was written.
        what: String,
    },
}

/// The checkpoints of a run.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A checkpoint that was found whole.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// What it says.
    pub state: State,
    /// Newer ones that are damaged, and how.
    pub damaged: Vec<CheckpointError>,
}

impl Checkpoints {
    /// The checkpoints in `run_dir`; makes their folder and removes what a killed save left there.
    pub fn open(run_dir: &Path) -> Result<Self, CheckpointError> {
        let folder = run_dir.join("checkpoints");
        let failed = |source| CheckpointError::Io { doing: "make", path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".step-") && name.ends_with(".tmp") {
                // A leftover that cannot be removed only takes space.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Self { folder })
    }

    /// Saves the engine after `state.step` steps, then removes checkpoints that are neither among
    /// the last two nor at a multiple of `keep_every_steps`. Returns the new folder.
    pub fn save(
        &self,
        engine: &Engine,
        mut state: State,
        keep_every_steps: u64,
    ) -> Result<PathBuf, CheckpointError> {
        let folder = self.folder_of(state.step);
        let io_failed =
            |source| CheckpointError::Io { doing: "save", path: folder.clone(), source };
        let temporary = atomic::temporary_name(&folder).map_err(io_failed)?;
        let written = self.write(engine, &mut state, &temporary).and_then(|()| {
            if folder.exists() {
                // A damaged one, which the run was not resumed from.
                fs::remove_dir_all(&folder).map_err(io_failed)?;
            }
            atomic::publish_folder(&temporary, &folder).map_err(io_failed)
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&temporary);
        }
        written?;
        self.prune(keep_every_steps);
        Ok(folder)
    }

    /// The newest checkpoint that is whole; `None` when there is none at all.
    ///
    /// # Errors
    /// If there are checkpoints, but every one is damaged: the newest one's error.
    pub fn newest(&self) -> Result<Option<Found>, CheckpointError> {
        let mut damaged = Vec::new();
        for (_, folder) in self.list().into_iter().rev() {
            match verify(&folder) {
                Ok(state) => return Ok(Some(Found { folder, state, damaged })),
                Err(error) => damaged.push(error),
            }
        }
        damaged.into_iter().next().map_or(Ok(None), Err)
    }

    fn write(
        &self,
        engine: &Engine,
        state: &mut State,
        folder: &Path,
    ) -> Result<(), CheckpointError> {
        fs::create_dir(folder).map_err(|source| CheckpointError::Io {
            doing: "make",
            path: folder.into(),
            source,
        })?;
        let training = engine.training_state();
        let dicts = [
            (STUDENT, engine.student().state()),
            (TEACHER, engine.teacher().state()),
            (TRAINING, &training),
        ];
        state.files.clear();
        for (name, dict) in dicts {
            let path = folder.join(name);
            dict.write(&path)?;
            state.files.push(sum(&path)?);
        }
        Ok(record::write_file(&folder.join(STATE), state)?)
    }

    fn prune(&self, keep_every_steps: u64) {
        let all = self.list();
        let old = all.len().saturating_sub(KEPT_LAST);
        for (step, folder) in all.into_iter().take(old) {
            if step % keep_every_steps.max(1) != 0 {
                // What cannot be removed only takes space.
                let _ = fs::remove_dir_all(folder);
            }
        }
    }

    /// Steps and folders, oldest first.
    fn list(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                Some((step, entry.path()))
            })
            .collect();
        found.sort();
        found
    }

    /// Where the checkpoint after `step` steps lies.
    pub fn folder_of(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }
}

impl State {
    /// The state of a run after `step` steps.
    pub fn new(step: u64, recipe: String, stores: Vec<StoreIdentity>) -> Self {
        Self { step, recipe, stores, files: Vec::new() }
    }
}

impl Found {
    /// Puts the checkpoint's tensors into an engine.
    pub fn load_into(&self, engine: &mut Engine) -> Result<(), CheckpointError> {
        let [student, teacher, training] =
            [STUDENT, TEACHER, TRAINING].map(|name| StateDict::read(&self.folder.join(name)));
        Ok(engine.load(&student?, &teacher?, &training?)?)
    }
}

/// Reads the state and compares every file with its checksum, before any tensor is believed.
fn verify(folder: &Path) -> Result<State, CheckpointError> {
    let state: State = record::read_file(&folder.join(STATE))?;
    for expected in &state.files {
        let path = folder.join(&expected.name);
        let found = sum(&path)?;
        let damaged = |what| Err(CheckpointError::Damaged { path: path.clone(), what });
        if found.size_bytes != expected.size_bytes {
            let (found, expected) = (found.size_bytes, expected.size_bytes);
            return damaged(format!("{found} of {expected} bytes are there"));
        }
        if found.crc32 != expected.crc32 {
            return damaged("its checksum does not match".to_owned());
        }
    }
    Ok(state)
}

fn sum(path: &Path) -> Result<FileSum, CheckpointError> {
    let failed = |source| CheckpointError::Io { doing: "read", path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size_bytes += read as u64;
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(FileSum { name: name.unwrap_or_default(), size_bytes, crc32: hasher.finalize() })
}
