//! The commands: each module reads its options, runs its protocol, and tells the result.

mod knn;
mod release;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Classifies images by their nearest neighbours
    Knn(knn::KnnArgs),
    /// Writes an encoder of a run with timm's names, for others to load
    Export(release::ReleaseArgs),
    /// Reads an encoder of others into a folder that every command takes
    Import(release::ReleaseArgs),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Knn(args) => knn::run(args),
            Self::Export(args) | Self::Import(args) => release::run(args),
        }
    }
}
