//! The folder of a run: one process writes to it at a time.

use dora_data::say;
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
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
        let folder = Self { path: path.to_owned(), _lock: lock(path)? };
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

fn lock(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    fs::create_dir_all(path).with_context(|| format!("cannot make the run folder {shown}"))?;
    let lock = File::create(path.join(".lock")).with_context(|| {
        format!("cannot write to the run folder {shown}; choose another with --run-dir")
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another training writes to {shown}: wait for it, or choose another folder with --run-dir"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {shown}"))
        }
    }
}

/// Renames the run in a folder, if there is one, to the first free name with a number.
pub fn put_aside(path: &Path) -> anyhow::Result<()> {
    if !path.join("recipe.toml").exists() {
        return Ok(());
    }
    // Under the lock, so that no running training loses its folder.
    let _lock = lock(path)?;
    let name = path.file_name().context("--run-dir must name a folder")?.to_string_lossy();
    let mut names = (1..).map(|number| path.with_file_name(format!("{name}.old-{number}")));
    let aside = names.find(|path| !path.exists()).context("no free name for the old run")?;
    fs::rename(path, &aside).with_context(|| format!("cannot put {} aside", path.display()))?;
    say!("the run that was in {} lies in {} now", path.display(), aside.display());
    Ok(())
}
