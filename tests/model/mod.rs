//! Weights: fresh ones, in and out of files, and resampled.

mod init;
mod pos_embed;
mod pth;
mod weights;

use std::path::PathBuf;

/// A file of `torch.save` that `fixtures/make_pth.py` has made.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(name)
}

/// The value at an index of what the script calls a ramp.
fn ramp(index: i64) -> f64 {
    (index % 128) as f64 / 64.0
}
