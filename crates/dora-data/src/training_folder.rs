//! The folder of a training: one process writes to it at a time, and what is in it is never written over.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use anyhow::{Context, bail};

/// Makes the folder and keeps other processes out of it for as long as the file lives; `option` is the one
/// that names the folder.
///
/// # Errors
/// It cannot be written, or another process has it.
pub fn lock(folder: &Path, option: &str) -> anyhow::Result<File> {
    let shown = folder.display();
    let lock = fs::create_dir_all(folder)
        .and_then(|()| File::create(folder.join(".lock")))
        .with_context(|| format!("cannot write to {shown}; choose another folder with {option}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another training writes to {shown}: wait for it, or choose another folder with {option}"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {shown}"))
        }
    }
}

/// Renames the folder of a training, which holds its recipe, to the first free name with a number; does
/// nothing where there is none.
///
/// # Errors
/// It cannot be renamed, or another process has it.
pub fn put_aside(folder: &Path, option: &str) -> anyhow::Result<()> {
    if !folder.join("recipe.toml").exists() {
        return Ok(());
    }
    // Under the lock, so that no running training loses its folder.
    let _lock = lock(folder, option)?;
    let name = folder.file_name().with_context(|| format!("{option} must name a folder"))?;
    let name = name.to_string_lossy();
    let mut names = (1..).map(|number| folder.with_file_name(format!("{name}.old-{number}")));
    let aside = names.find(|path| !path.exists()).context("no free name for the old training")?;
    fs::rename(folder, &aside).with_context(|| format!("cannot put {} aside", folder.display()))?;
    say!("the training that was in {} lies in {} now", folder.display(), aside.display());
    Ok(())
}
