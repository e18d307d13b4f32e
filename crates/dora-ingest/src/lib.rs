//! Video and images into frame stores, and the toy walk renderer.
//!
//! This crate is the only one that links OpenCV; it never links libtorch.

pub mod toy_walk;
