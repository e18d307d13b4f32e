//! Frame stores: a video decoded once, kept as JPEG frames with their real time stamps.
//!
//! A store is a folder:
//!
//! | file | holds |
//! |---|---|
//! | `header` | a record: the source, the ingest options, the frame size ([`StoreHeader`]) |
//! | `shard-00000.jpgs`, ... | JPEG files back to back, about 1 GiB each |
//! | `index` | one entry of fixed size for each frame: where it lies, its time stamp, checksums |
//! | `complete` | a record that appears when the last frame is stored ([`Complete`]) |
//! | `lock` | locked by a writer, and by readers as long as `complete` is missing |
//!
//! [`StoreWriter`] appends: the bytes of a batch reach the disk before the index entries that name
//! them, so after any interruption a prefix of the index is good, and the writer finds it, cuts
//! the rest and goes on. [`FrameStore`] maps the files and does no work for each frame when it
//! opens: neither its time nor its memory grows with the number of frames.
//!
//! [`record`] is the project's one way to write small versioned binary files, [`atomic`] its one
//! way to replace files and folders, and [`folder`] to replace one whose files carry checksums.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod atomic;
mod error;
pub mod folder;
mod format;
mod gaps;
mod reader;
pub mod record;
mod recover;
mod writer;

pub use error::StoreError;
pub use format::{Complete, Decoder, IngestOptions, Report, Source, StoreHeader};
pub use gaps::Gap;
pub use reader::FrameStore;
pub use writer::{Resumed, StoreWriter};
