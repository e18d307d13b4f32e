//! Checkpoints: folders that appear whole or not at all, with a checksum of every file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dora_model::{StateDict, StateError};
use dora_store::{
    FrameStore, IngestOptions, Source,
    folder::{self, FileSum, FolderError},
    record::{self, Flaw, Record, RecordError},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::Engine,
    plan::Placement,
    position::Position,
    recipe::{Differences, Recipe, RecipeError},
};

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
    /// What of the data they have seen.
    pub position: Position,
    /// Processes that trained together.
    pub world_size: u64,
    /// Whether it is kept for good.
    pub is_kept: bool,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// The precision that `auto` came to: it decides the numbers.
    pub precision: String,
    /// The data, in the order of the stores.
    pub stores: Vec<StoreIdentity>,
    files: Vec<FileSum>,
}

/// What makes a frame store the same one: the video's name and size and how it was ingested. Where
/// the video lies and its date are left out, so that a run goes on over a copy of its videos, on
/// this machine or another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The video.
    pub source: Source,
    /// How it was ingested.
    pub options: IngestOptions,
    /// Number of frames.
    pub frames: u64,
}

impl Record for State {
    const NAME: &'static str = "checkpoint state";
    const MAGIC: [u8; 8] = *b"DORACKPT";
    const VERSION: u32 = 2;
}

impl StoreIdentity {
    /// The identity of an opened store.
    pub fn new(store: &FrameStore) -> Self {
        let header = store.header();
        Self {
            source: header.source.clone(),
            options: header.options.clone(),
            frames: store.len() as u64,
        }
    }

    /// What differs from the store that stood in this place before.
    fn difference(&self, before: &Self) -> Option<String> {
        let (now, then) = (&self.source, &before.source);
        let name = &now.name;
        if *name != then.name {
            return Some(format!("a video is {name} and was {}", then.name));
        }
        if (now.files, now.size_bytes) != (then.files, then.size_bytes) {
            let (now, then) = (now.size_bytes, then.size_bytes);
            return Some(format!("{name} has {now} bytes and had {then}"));
        }
        (self.options != before.options || self.frames != before.frames).then(|| {
            format!(
                "{name} was ingested differently: {} frames and {} before, {:?} and {:?} before",
                self.frames, before.frames, self.options, before.options
            )
        })
    }
}

/// Why a checkpoint cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused, or a file has lost its tail or changed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The state record is damaged or cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The tensors cannot be read or written, or do not fit the model.
    #[error(transparent)]
    Tensors(#[from] StateError),
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
    pub damaged: Vec<(PathBuf, CheckpointError)>,
}

impl Checkpoints {
    /// The checkpoints in `run_dir`; makes their folder and removes what a killed save left there.
    pub fn open(run_dir: &Path) -> Result<Self, CheckpointError> {
        let folder = run_dir.join("checkpoints");
        let failed = |source| FolderError::Io { doing: "make", path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        folder::remove_leftovers(&folder, "step-");
        Ok(Self { folder })
    }

    /// Saves the engine after `state.step` steps, then removes checkpoints that are neither among
    /// the last two nor kept for good. Returns the new folder.
    pub fn save(&self, engine: &Engine, mut state: State) -> Result<PathBuf, CheckpointError> {
        let folder = self.folder_of(state.step);
        folder::replace(&folder, |temporary| self.write(engine, &mut state, temporary))?;
        self.prune();
        Ok(folder)
    }

    /// The newest checkpoint that is whole; `None` when there is none at all.
    ///
    /// # Errors
    /// If there are checkpoints, but every one is damaged: the newest one's error. If one is of another
    /// version of this program.
    pub fn newest(&self) -> Result<Option<Found>, CheckpointError> {
        let mut damaged = Vec::new();
        for (_, folder) in self.list().into_iter().rev() {
            match verify(&folder) {
                Ok(state) => return Ok(Some(Found { folder, state, damaged })),
                Err(
                    error @ CheckpointError::Record(RecordError::Flawed {
                        source: Flaw::Version { .. },
                        ..
                    }),
                ) => return Err(error),
                Err(error) => damaged.push((folder, error)),
            }
        }
        damaged.into_iter().next().map_or(Ok(None), |(_, error)| Err(error))
    }

    /// Renames a damaged checkpoint, so that it is never counted among the good ones.
    pub fn set_aside(&self, damaged: &Path) {
        if let Some(name) = damaged.file_name() {
            let aside = self.folder.join(format!("damaged-{}", name.to_string_lossy()));
            // What cannot be renamed is found damaged again.
            let _ = fs::rename(damaged, aside);
        }
    }

    fn write(
        &self,
        engine: &Engine,
        state: &mut State,
        folder: &Path,
    ) -> Result<(), CheckpointError> {
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
            state.files.push(FileSum::of(&path)?);
        }
        Ok(record::write_file(&folder.join(STATE), state)?)
    }

    fn prune(&self) {
        let all = self.list();
        let old = all.len().saturating_sub(KEPT_LAST);
        for (_, folder) in all.into_iter().take(old) {
            // One that cannot be read was not written by this version: not ours to remove.
            let state = record::read_file::<State>(&folder.join(STATE));
            if state.is_ok_and(|state| !state.is_kept) {
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
    /// The state of a run of `world_size` processes before its first step.
    pub fn new(
        recipe: &Recipe,
        placement: &Placement,
        world_size: u64,
        stores: Vec<StoreIdentity>,
    ) -> Result<Self, toml::ser::Error> {
        let precision = placement.precision();
        Ok(Self {
            step: 0,
            position: Position::default(),
            world_size,
            is_kept: false,
            recipe: recipe.to_toml()?,
            precision,
            stores,
            files: Vec::new(),
        })
    }

    /// The state of the same run after `step` steps that have seen the data up to `position`.
    pub fn after(&self, step: u64, position: Position, is_kept: bool) -> Self {
        Self { step, position, is_kept, ..self.clone() }
    }

    /// A number that tells recipes apart.
    pub fn recipe_digest(&self) -> u64 {
        u64::from(crc32fast::hash(self.recipe.as_bytes()))
    }

    /// A number that tells the data apart, wherever a machine keeps it.
    pub fn stores_digest(&self) -> u64 {
        let stores = self.stores.iter().map(|store| {
            let StoreIdentity { source, options, frames } = store;
            format!("{} {} {options:?} {frames}\n", source.name, source.size_bytes)
        });
        u64::from(crc32fast::hash(stores.collect::<String>().as_bytes()))
    }

    /// Everything that would make the run go on differently than it began.
    ///
    /// # Errors
    /// If the recipe of either is not one of this version.
    pub fn differences(&self, before: &Self) -> Result<Differences, RecipeError> {
        let parse = |state: &Self| {
            Recipe::parse(&state.recipe, &[])
                .map_err(|problems| RecipeError { path: "of the checkpoint".into(), problems })
        };
        let (recipe, recipe_before) = (parse(self)?, parse(before)?);
        let mut differences = recipe.differing_keys(&recipe_before);
        let clips = |state: &Self, recipe: &Recipe| {
            let batches = recipe.train.gradient_accumulation_steps as u64 * state.world_size;
            recipe.train.clips as u64 * batches
        };
        if clips(self, &recipe) == clips(before, &recipe_before) {
            // Another number of processes, and batches that make up for it.
            let divides = ["`train.clips`", "`train.gradient_accumulation_steps`"];
            let divides = |text: &String| divides.iter().any(|key| text.starts_with(key));
            differences.changeable.retain(|text| !divides(text));
        }
        if self.precision != before.precision {
            let (now, then) = (&self.precision, &before.precision);
            let text = format!("the precision on this machine is {now} and was {then}");
            // Its loss scale belongs to the state, and no other precision has one.
            let needs_scale = now.starts_with("Float16");
            let Differences { changeable, fixed } = &mut differences;
            if needs_scale { fixed.push(text) } else { changeable.push(text) }
        }
        if self.stores.len() != before.stores.len() {
            let (now, then) = (self.stores.len(), before.stores.len());
            differences.fixed.push(format!("there are {now} videos and were {then}"));
        } else {
            let pairs = self.stores.iter().zip(&before.stores);
            differences.fixed.extend(pairs.filter_map(|(now, then)| now.difference(then)));
        }
        Ok(differences)
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
    for name in [STUDENT, TEACHER, TRAINING] {
        folder::verify(folder, name, &state.files)?;
    }
    Ok(state)
}
