//! What can go wrong while downloading, in sentences for the user.

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The user can put it right; the sentence says how.
    #[error("{0}")]
    Wrong(String),
    /// Another machine or program failed; the sentence says what to try.
    #[error("{0}")]
    Failed(String),
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// "read", "write", ...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A signal came.
    #[error("interrupted")]
    Stopped,
}

impl DownloadError {
    /// For `map_err`: what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Whether the user, not another machine, can put it right.
    pub(crate) fn is_fixable(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Io { .. })
    }
}
