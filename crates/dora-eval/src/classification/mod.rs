//! Classification of images by the features that an encoder makes of them: nearest neighbours, and a
//! linear classifier on frozen features.

pub mod feature_cache;
pub mod features;
pub mod knn;
pub mod linear;
