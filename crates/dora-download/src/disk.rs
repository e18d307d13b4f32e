//! How much room there is.

use crate::error::DownloadError;
use crate::text::bytes;
use std::path::Path;

/// Left to others, and for what lies beside the videos.
const RESERVE_BYTES: u64 = 256 << 20;

/// Bytes free at `folder`, or at the nearest folder above it that exists.
pub(crate) fn free_bytes(folder: &Path) -> Result<u64, DownloadError> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let figures = rustix::fs::statvfs(existing)
        .map_err(|error| DownloadError::io("tell the free space of", folder)(error.into()))?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

/// Whether `needed_bytes` find room in `folder`.
///
/// # Errors
/// They do not: says how much is missing and what to do.
pub(crate) fn check_room(folder: &Path, needed_bytes: u64) -> Result<(), DownloadError> {
    let free = free_bytes(folder)?;
    if needed_bytes.saturating_add(RESERVE_BYTES) <= free {
        return Ok(());
    }
    Err(DownloadError::Wrong(format!(
        "this takes {} in `{}`, where {} are free; make room, name fewer tours, or give a folder on a \
         larger disk with `--out DIR`",
        bytes(needed_bytes),
        folder.display(),
        bytes(free)
    )))
}
