//! Training: recipe, engine, optimiser, checkpoints and meters.
#![allow(non_snake_case)]

pub mod alarm;
pub mod checkpoint;
pub mod dry_run;
pub mod engine;
pub mod interrupt;
pub mod memory;
pub mod metrics;
pub mod optim;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod run;
mod run_folder;
pub mod schedule;
pub mod span;
