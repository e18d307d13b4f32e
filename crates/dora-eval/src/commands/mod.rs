//! The commands: each module reads its options, runs its protocol, and tells the result.

mod features;
mod knn;
mod linear;
mod semantic;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Classifies images by their nearest neighbours
    Knn(knn::KnnArgs),
    /// Trains a linear classifier on the features of images
    Linear(linear::LinearArgs),
    /// Trains a segmentation head and judges its classes pixel by pixel
    Semantic(semantic::SemanticArgs),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Knn(args) => knn::run(args),
            Self::Linear(args) => linear::run(args),
            Self::Semantic(args) => semantic::run(args),
        }
    }
}
