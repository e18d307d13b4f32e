//! Judging an encoder by the field's protocols, and looking at what it sees.
//!
//! Shapes are spelt in names: `N` images or samples, `C` channels or classes, `H` and `W` rows and
//! columns, `P` patches, `D` width of the encoder, `T` frames, `K` objects.
#![allow(non_snake_case)]

pub mod cores;
pub mod encoder;
pub mod feature_cache;
pub mod features;
pub mod gif;
pub mod image_folder;
pub mod images;
pub mod interrupt;
pub mod knn;
pub mod linear;
pub mod masks;
pub mod pictures;
pub mod progress;
pub mod rate;
pub mod semantic;
pub mod video_segmentation;

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
