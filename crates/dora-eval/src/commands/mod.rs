//! The commands: each module reads its options, runs its protocol, and tells the result.

mod bench_propagation;
mod davis;
mod features;
mod knn;
mod linear;
mod semantic;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measures label propagation beside its dense form
    BenchPropagation(bench_propagation::BenchArgs),
    /// Follows objects through videos, and judges the masks
    Davis(davis::DavisArgs),
    /// Judges masks of videos that were made elsewhere
    DavisMetrics(davis::DavisMetricsArgs),
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
            Self::BenchPropagation(args) => bench_propagation::run(args),
            Self::Davis(args) => davis::run(args),
            Self::DavisMetrics(args) => davis::run_metrics(args),
            Self::Knn(args) => knn::run(args),
            Self::Linear(args) => linear::run(args),
            Self::Semantic(args) => semantic::run(args),
        }
    }
}
