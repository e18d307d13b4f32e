//! Judging an encoder by the field's protocols, and looking at what it sees.
//!
//! Shapes are spelt in names: `N` images or samples, `C` channels or classes, `H` and `W` rows and
//! columns, `P` patches, `D` width of the encoder, `T` frames, `K` objects.
#![allow(non_snake_case)]

pub mod discovery;
pub mod encoder;
pub mod features;
pub mod footage;
pub mod gif;
pub mod grid;
pub mod image_folder;
pub mod images;
pub mod knn;
pub mod masks;
pub mod movie;
pub mod pca;
pub mod pictures;
pub mod pool;
pub mod progress;
pub mod rate;
pub mod scene;
pub mod tracking;
pub mod video_segmentation;
