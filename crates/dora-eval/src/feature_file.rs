//! Features in a file that is whole or not there at all: what the caches of features consist of.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use dora_model::{StateDict, StateError};
use dora_store::atomic;
use tch::{Device, Kind, Tensor};

/// The tensor that holds the checksum of all others.
const CHECKSUM: &str = "crc32";

/// Rows that go through the checksum at once.
const ROWS: i64 = 1 << 12;

/// Why features cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum FeatureFileError {
    /// The system refused.
    #[error("cannot write to {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is no safetensors file, or cannot become one.
    #[error(transparent)]
    File(#[from] StateError),
    /// A file does not hold what it should.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Reads the tensors of a file, which are those that were written.
///
/// # Errors
/// It cannot be read, or is damaged: write it again.
pub fn read(path: &Path) -> Result<StateDict, FeatureFileError> {
    let state = StateDict::read(path)?;
    let sum = state.get(CHECKSUM)?;
    let is_whole =
        sum.kind() == Kind::Int64 && sum.size() == [1] && sum.int64_value(&[0]) == crc32(&state);
    if is_whole {
        return Ok(state);
    }
    let what = "its features are not those of its checksum";
    Err(FeatureFileError::Damaged { path: path.into(), what })
}

/// Writes tensors on the CPU with their checksum.
///
/// # Errors
/// The system refuses, say for want of space; nothing is left then.
pub fn write(path: &Path, mut state: StateDict) -> Result<(), FeatureFileError> {
    state.insert(CHECKSUM, Tensor::from_slice(&[crc32(&state)]));
    let failed = |source| FeatureFileError::Io { path: path.into(), source };
    let temporary = atomic::temporary_name(path).map_err(failed)?;
    let written = state.write(&temporary).map_err(FeatureFileError::from).and_then(|()| {
        let synced = File::open(&temporary).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&temporary, path)).map_err(failed)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Checksum of names and values, in the order of the names.
fn crc32(state: &StateDict) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for (name, tensor) in state.iter().filter(|(name, _)| *name != CHECKSUM) {
        hasher.update(name.as_bytes());
        for rows in tensor.to_device(Device::Cpu).split(ROWS, 0) {
            let bytes = rows.contiguous().view_dtype(Kind::Uint8).flatten(0, -1);
            hasher.update(&Vec::<u8>::try_from(bytes).expect("a list of bytes"));
        }
    }
    hasher.finalize().into()
}
