//! Where a training stands: a folder that appears whole or not at all, with a checksum of every file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dora_model::{StateDict, StateError};
use dora_store::{
    folder::{self, FileSum, FolderError},
    record::{self, Record, RecordError},
};
use serde::{Deserialize, Serialize};

use super::{
    recipe::Recipe,
    train::{TrainError, Trainer},
};

const STATE: &str = "state.bin";

/// What a checkpoint says besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps that have been taken.
    pub iteration: u64,
    /// What is trained, on what.
    pub identity: Identity,
    files: Vec<FileSum>,
}

/// What must be the same for a training to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// What the encoder is called.
    pub encoder: String,
    /// Width of the encoder's tokens.
    pub encoder_width: i64,
    /// MD5 of the encoder.
    pub encoder_digest: String,
    /// MD5 of the data.
    pub data_digest: String,
}

impl Record for State {
    const NAME: &'static str = "checkpoint of a segmentation head";
    const MAGIC: [u8; 8] = *b"DORASEGM";
    const VERSION: u32 = 1;
}

/// Why a checkpoint cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error(transparent)]
    Folder(FolderError),
    /// The record is damaged or cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file of tensors cannot be read or written.
    #[error(transparent)]
    Tensors(#[from] StateError),
    /// Tensors do not fit.
    #[error(transparent)]
    Fit(#[from] TrainError),
    /// A file has lost its tail or changed.
    #[error("{} is damaged: its length or checksum does not match; train anew with --fresh", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl From<FolderError> for CheckpointError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Damaged { path, .. } => Self::Damaged { path },
            error => Self::Folder(error),
        }
    }
}

/// Saves the trainer in `folder`, and removes the checkpoint before. Returns the new one.
pub fn save(
    folder: &Path,
    trainer: &Trainer,
    identity: &Identity,
) -> Result<PathBuf, CheckpointError> {
    let to = folder.join(format!("checkpoint-{}", trainer.iteration));
    let before = list(folder);
    folder::replace(&to, |temporary| write(trainer, identity, temporary))?;
    for (_, old) in before.into_iter().filter(|(_, old)| *old != to) {
        // What cannot be removed only takes space.
        let _ = fs::remove_dir_all(old);
    }
    Ok(to)
}

/// What the newest checkpoint in `folder` says, with its folder; `None` if there is none. Removes what
/// killed saves left there.
///
/// # Errors
/// If it is damaged.
pub fn newest(folder: &Path) -> Result<Option<(PathBuf, State)>, CheckpointError> {
    folder::remove_leftovers(folder, "checkpoint-");
    let Some((_, folder)) = list(folder).pop() else { return Ok(None) };
    let state: State = record::read_file(&folder.join(STATE))?;
    Ok(Some((folder, state)))
}

/// Puts the tensors of a checkpoint into a trainer, none before all checksums are right.
pub fn load(folder: &Path, state: &State, trainer: &mut Trainer) -> Result<(), CheckpointError> {
    let names = trainer.state().map(|(name, _)| file_name(name));
    for name in &names {
        folder::verify(folder, name, &state.files)?;
    }
    let [head, backbone, optimizer] = names.map(|name| StateDict::read(&folder.join(name)));
    Ok(trainer.load(state.iteration, [head?, backbone?, optimizer?])?)
}

impl Identity {
    /// What would make the training go on differently than it began, one sentence each.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut differences =
            match [&self.recipe, &before.recipe].map(|text| Recipe::parse(text, &[])) {
                [Ok(recipe), Ok(recipe_before)] => recipe.differing_keys(&recipe_before),
                _ => vec!["its recipe is of another version".to_owned()],
            };
        if self.encoder_width != before.encoder_width {
            let (now, then) = (self.encoder_width, before.encoder_width);
            differences.push(format!("the encoder has width {now} and had {then}"));
        } else if self.encoder_digest != before.encoder_digest {
            let (now, then) = (&self.encoder, &before.encoder);
            differences.push(if now == then {
                format!("the encoder, {now}, has other parameters than before")
            } else {
                format!("the encoder is {now} and was {then}")
            });
        }
        if self.data_digest != before.data_digest {
            differences.push("the data has other images, annotations or classes".to_owned());
        }
        differences
    }
}

fn write(trainer: &Trainer, identity: &Identity, folder: &Path) -> Result<(), CheckpointError> {
    let mut files = Vec::new();
    for (name, dict) in trainer.state() {
        let path = folder.join(file_name(name));
        dict.write(&path)?;
        files.push(FileSum::of(&path)?);
    }
    let state = State { iteration: trainer.iteration, identity: identity.clone(), files };
    Ok(record::write_file(&folder.join(STATE), &state)?)
}

fn file_name(name: &str) -> String {
    format!("{name}.safetensors")
}

/// Iterations and folders, oldest first.
fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let iteration = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((iteration, entry.path()))
        })
        .collect();
    found.sort();
    found
}
