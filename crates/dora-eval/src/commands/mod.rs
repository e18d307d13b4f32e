//! The commands: each module reads its options, runs its protocol, and tells the result.

mod bench_propagation;
mod davis;
mod discovery;
mod features;
mod knn;
mod linear;
mod out;
mod release;
mod semantic;
mod visualize;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measures label propagation beside its dense form
    BenchPropagation(bench_propagation::BenchArgs),
    /// Follows objects through videos, and judges the masks
    Davis(davis::DavisArgs),
    /// Judges masks of videos that were made elsewhere
    DavisMetrics(davis::DavisMetricsArgs),
    /// Finds an object in every image, and compares with those of the data set
    Discovery(discovery::DiscoveryArgs),
    /// Classifies images by their nearest neighbours
    Knn(knn::KnnArgs),
    /// Draws attention, objects with their tracks, and features as colour
    Visualize(visualize::VisualizeArgs),
    /// Trains a linear classifier on the features of images
    Linear(linear::LinearArgs),
    /// Writes an encoder of a run with timm's names, for others to load
    Export(release::ReleaseArgs),
    /// Reads an encoder of others into a folder that every command takes
    Import(release::ReleaseArgs),
    /// Trains a segmentation head and judges its classes pixel by pixel
    Semantic(semantic::SemanticArgs),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::BenchPropagation(args) => bench_propagation::run(args),
            Self::Davis(args) => davis::run(args),
            Self::DavisMetrics(args) => davis::run_metrics(args),
            Self::Discovery(args) => discovery::run(args),
            Self::Knn(args) => knn::run(args),
            Self::Visualize(args) => visualize::run(args),
            Self::Linear(args) => linear::run(args),
            Self::Export(args) | Self::Import(args) => release::run(args),
            Self::Semantic(args) => semantic::run(args),
        }
    }
}
