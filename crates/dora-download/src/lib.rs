//! Walking Tours onto the disk: from figshare over HTTP, or from YouTube through `yt-dlp`.
//!
//! A download that breaks off goes on where it stopped, a file has its final name only once its size
//! and checksum are right, and what has it is never overwritten. What servers say is believed only as
//! far as it can be checked: names of files come from the manifest, lengths have limits.
//!
//! This crate links neither OpenCV nor libtorch.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attribution;
mod blur;
pub mod child;
pub mod command;
mod disk;
mod error;
pub mod figshare;
pub mod http;
pub mod manifest;
pub mod progress;
mod queue;
mod record;
pub mod stop;
mod text;
pub mod transfer;
mod youtube;

pub use error::DownloadError;
