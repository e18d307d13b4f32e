//! Looking at an encoder: pictures of what it tracks.
#![allow(non_snake_case)]

pub mod pictures;
