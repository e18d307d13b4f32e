//! DoRA's method as functions on tensors (arXiv 2310.08584): discover objects in the first frame of
//! a clip, track them, and compare what student and teacher say of them.
//!
//! Nothing here reads a file, the environment or a random number: every draw is an argument. Shapes
//! are spelt in names: `B` clips, `T` frames, `V` global views, `L` local crops, `K` objects, `H`
//! heads, `S` tokens with the `[CLS]` token first, `N` patches, `E` width of a head, `D` width of
//! the encoder or number of head outputs.
#![allow(non_snake_case)]

pub mod loss;
pub mod schedule;
mod sinkhorn;
pub mod tracker;

pub use sinkhorn::sinkhorn_knopp;
