//! What an encoder sees in frames: attention, objects that it finds and follows, features as colour.

pub mod pca;
pub mod scene;
pub mod tracking;
