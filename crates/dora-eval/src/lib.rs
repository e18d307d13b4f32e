//! Judging an encoder by the field's protocols, and looking at what it sees.
//!
//! Shapes are spelt in names: `N` images or samples, `C` channels or classes, `H` and `W` rows and
//! columns, `P` patches, `D` width of the encoder, `T` frames, `K` objects.
#![allow(non_snake_case)]

pub mod cores;
pub mod discovery;
pub mod encoder;
pub mod feature_cache;
pub mod features;
pub mod footage;
pub mod gif;
pub mod grid;
pub mod image_folder;
pub mod images;
pub mod interrupt;
pub mod knn;
pub mod linear;
pub mod look;
pub mod masks;
pub mod movie;
pub mod pca;
pub mod pictures;
pub mod progress;
pub mod rate;
pub mod release;
pub mod scene;
pub mod semantic;
pub mod tracking;
pub mod video_segmentation;

use tch::{Device, Kind, Tensor};

/// The values of a tensor as float32, in memory's order.
fn float_bytes(values: &Tensor) -> Vec<u8> {
    let values = values.detach().to_device(Device::Cpu).to_kind(Kind::Float).flatten(0, -1);
    Vec::try_from(values.contiguous().view_dtype(Kind::Uint8)).expect("a list of bytes")
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
