//! Every test of the workspace that needs libtorch or several crates, in one binary so that libtorch
//! is linked once.
#![allow(non_snake_case, clippy::unwrap_used)]

mod data;
mod distributed;
mod method;
mod model;
mod reference;
mod semantic;
mod train;
