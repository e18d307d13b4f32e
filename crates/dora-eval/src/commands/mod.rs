//! The commands: each module reads its options, runs its protocol, and tells the result.

mod knn;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Classifies images by their nearest neighbours
    Knn(knn::KnnArgs),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Knn(args) => knn::run(args),
        }
    }
}
