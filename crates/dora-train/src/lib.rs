//! Training: recipe, engine, optimiser, checkpoints and meters.
#![allow(non_snake_case)]

pub mod engine;
pub mod optim;
