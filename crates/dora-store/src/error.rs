//! What can be wrong with a store, in sentences for its user.

use crate::record::RecordError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a frame store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// "open", "write", ...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk is full. What is stored stays valid.
    #[error(
        "no space left for `{}`: {} MB are free there; the {frames} frames stored so far are kept, \
         free some space and run the same command again",
        path.display(), free_bytes / 1_000_000
    )]
    Full {
        /// The store.
        path: PathBuf,
        /// What the file system has left for this user.
        free_bytes: u64,
        /// Frames that are stored and valid.
        frames: usize,
    },
    /// One of the store's records is missing or damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The folder is not a frame store.
    #[error("`{}` is not a frame store: {what}", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What is missing or foreign.
        what: String,
    },
    /// Another process writes the store, or reads it while it is incomplete.
    #[error("the frame store `{}` is in use by another process; wait until that has ended", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The store is finished: nothing can be added.
    #[error("the frame store `{}` is complete; nothing can be added", path.display())]
    Complete {
        /// The store.
        path: PathBuf,
    },
    /// The store was made from another source or with other options.
    #[error(
        "the frame store `{}` was made otherwise: {differences}; use the same source and options, \
         or name another folder",
        path.display()
    )]
    Differs {
        /// The store.
        path: PathBuf,
        /// Each differing field with both values.
        differences: String,
    },
    /// Bytes of the store have changed or are gone.
    #[error("the frame store `{}` is damaged: {what}; delete the folder and ingest again", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// The file, the frame, and what is wrong.
        what: String,
    },
    /// A frame that the store does not have.
    #[error("the frame store `{}` has {frames} frames, there is no frame {frame}", path.display())]
    OutOfRange {
        /// The store.
        path: PathBuf,
        /// The frame that was asked for, from 0.
        frame: usize,
        /// How many it has.
        frames: usize,
    },
    /// Time stamps must rise from frame to frame.
    #[error("a frame at {pts_us} us cannot follow one at {last_us} us")]
    Order {
        /// The new frame's time stamp.
        pts_us: i64,
        /// The last stored frame's time stamp.
        last_us: i64,
    },
    /// The writer failed before and can no longer tell what is on disk.
    #[error("the frame store `{}` could not be written before; open it again", path.display())]
    Broken {
        /// The store.
        path: PathBuf,
    },
}

impl StoreError {
    /// For `map_err`: what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }
}
