//! The commands: each module reads its options, runs its protocol, and tells the result.

mod features;
mod knn;
mod linear;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Classifies images by their nearest neighbours
    Knn(knn::KnnArgs),
    /// Trains a linear classifier on the features of images
    Linear(linear::LinearArgs),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Knn(args) => knn::run(args),
            Self::Linear(args) => linear::run(args),
        }
    }
}
