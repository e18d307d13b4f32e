//! Training: recipe, engine, optimiser, checkpoints and meters.
#![allow(non_snake_case)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod alarm;
pub mod bench;
pub mod checkpoint;
pub mod dry_run;
pub mod engine;
pub mod feed;
pub mod guard;
mod laps;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod notice;
pub mod optim;
pub mod plan;
pub mod position;
pub mod progress;
pub mod recipe;
mod records;
pub mod run;
mod run_folder;
pub mod scaler;
pub mod schedule;
pub mod span;
mod step_lines;
mod synthetic;
pub mod tensorboard;
pub mod world;
