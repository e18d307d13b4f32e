//! The folder of a run: one process writes to it at a time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context;
use dora_data::training_folder::lock;
use dora_store::atomic;

/// A run's folder, locked for this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes or opens a folder and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let folder = Self { path: path.to_owned(), _lock: lock(path, "--run-dir")? };
        let tracks = folder.tracks();
        fs::create_dir_all(&tracks).with_context(|| format!("cannot make {}", tracks.display()))?;
        Ok(folder)
    }

    /// Writes the resolved recipe.
    pub(crate) fn write_recipe(&self, toml: &str) -> anyhow::Result<()> {
        let path = self.path.join("recipe.toml");
        atomic::write_file(&path, toml.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the pictures.
    pub(crate) fn tracks(&self) -> PathBuf {
        self.path.join("tracks")
    }

    /// The folder of TensorBoard's files.
    pub(crate) fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }
}
