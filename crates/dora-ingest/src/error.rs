//! What can go wrong while ingesting, in sentences for the user.

use dora_store::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an input could not be ingested.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Something is wrong with what the user named.
    #[error("`{}` {what}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and the way out: "is empty; ...".
        what: String,
    },
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// "read", "make", ...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// OpenCV failed.
    #[error("cannot {doing} `{}`", path.display())]
    OpenCv {
        /// "open", "decode", ...
        doing: &'static str,
        /// The video or image.
        path: PathBuf,
        /// OpenCV's reason.
        source: opencv::Error,
    },
    /// A frame could not be scaled or written as JPEG.
    #[error("cannot {doing} a frame of {width_px}x{height_px} pixels of `{}`", path.display())]
    Frame {
        /// The video or folder; empty until that is known.
        path: PathBuf,
        /// "scale" or "compress".
        doing: &'static str,
        /// Width of the decoded frame.
        width_px: u32,
        /// Height of the decoded frame.
        height_px: u32,
        /// The library's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The frame store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IngestError {
    /// The error with the name of the input that it concerns.
    pub(crate) fn of(mut self, input: &Path) -> Self {
        if let Self::Frame { path, .. } = &mut self {
            *path = input.to_owned();
        }
        self
    }

    pub(crate) fn input(path: &Path, what: impl Into<String>) -> Self {
        Self::Input { path: path.to_owned(), what: what.into() }
    }

    /// For `map_err`: what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// For `map_err`: what OpenCV was doing to which file.
    pub(crate) fn opencv(doing: &'static str, path: &Path) -> impl FnOnce(opencv::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::OpenCv { doing, path, source }
    }
}
