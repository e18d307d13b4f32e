//! Judging an encoder by the field's protocols, and looking at what it sees.
//!
//! | room | holds |
//! |---|---|
//! | [`encoder`] | the encoder to judge, how its work is spread over cores, what speed is measured against, export and import |
//! | [`images`] | what is shown to it: images, folders of classes, label maps, frames of videos |
//! | [`classification`] | nearest neighbours and a linear classifier on features, which are kept on disk |
//! | [`discovery`] | objects found in images without labels, and how well they fit those of a data set |
//! | [`video_segmentation`] | objects followed through videos by similar patches (DAVIS) |
//! | [`semantic`] | heads that tell the class of each pixel: recipe, training, test |
//! | [`visualize`] | what an encoder sees in frames |
//! | [`pictures`] | drawing, sheets, moving pictures |
//!
//! [`progress`] and [`interrupt`] are for whoever waits, [`memory`] tells what is free and what was taken,
//! [`feature_file`] keeps features.
//!
//! Shapes are spelt in names: `N` images or samples, `C` channels or classes, `H` and `W` rows and
//! columns, `P` patches, `D` width of the encoder, `T` frames, `K` objects.
#![allow(non_snake_case)]

pub mod classification;
pub mod discovery;
pub mod encoder;
pub mod feature_file;
pub mod images;
pub mod interrupt;
pub mod memory;
pub mod pictures;
pub mod progress;
pub mod semantic;
pub mod video_segmentation;
pub mod visualize;

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
