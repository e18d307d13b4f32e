//! Video and images into frame stores, and the toy walk renderer.
//!
//! A video file, a folder of images or a list of them is decoded once, in order, with real time
//! stamps, scaled down by area and kept as JPEG in a [`dora_store`] frame store. An interrupted
//! ingest goes on where it stopped, with the same result.
//!
//! This crate is the only one that links FFmpeg and OpenCV; it never links libtorch.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod analysis;
pub mod bench;
mod clock;
pub mod command;
mod encode;
mod error;
mod ingest;
mod input;
mod intake;
mod jpeg;
mod picture;
mod pipeline;
mod progress;
pub mod quiet;
mod report;
mod source;
mod stills;
mod thin;
pub mod toy_walk;
mod usage;

pub use error::IngestError;
pub use ingest::{Outcome, ingest, stored_frames};
pub use input::{Input, Means};
