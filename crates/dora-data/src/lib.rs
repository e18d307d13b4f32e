//! Clips for training, from frame stores to augmented views.
//!
//! A [`sampler::Sampler`] decides which frames form which clip, a [`loader::Loader`] decodes and
//! crops them on threads of its own, and [`augment::views`] turns a batch into the global views
//! and local crops on the training device. Nothing is random but what [`rng::stream`] gives, so a
//! batch is a function of seed, epoch and position alone: not of threads, ranks or devices.
//!
//! [`inspect`] and [`bench`] show and measure a store. [`output`] and [`training_folder`] are what all
//! binaries have in common that train or judge: tables with their JSON, and folders that one process owns.

#![allow(non_snake_case)] // shape suffixes: `frames_BTCHW`

/// Prints one line on standard error; that nobody reads it is no reason to stop.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($part)*);
    }};
}

pub mod arena;
pub mod augment;
pub mod bench;
pub mod crop;
pub mod decode;
pub mod inspect;
pub mod jpeg_part;
pub mod loader;
pub mod output;
pub mod permutation;
mod planes;
pub mod rng;
pub mod sampler;
pub mod training_folder;
