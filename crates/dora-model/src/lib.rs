//! The encoder and its projection head over libtorch, with the parameter names of timm and DINO, so
//! that checkpoints pass in and out without a map.
//!
//! Shapes are spelt in names: `N` images, `C` channels, `H` heads or height, `S` tokens with the
//! `[CLS]` token first, `P` patches, `K` objects, `E` width of a head, `D` width of the encoder.
#![allow(non_snake_case)]

mod arch;
mod flops;
mod head;
mod network;
mod pos_embed;
pub mod pth;
mod state;
mod vit;
pub mod weights;

pub use arch::{Arch, UnknownArch};
pub use head::{HeadConfig, ProjectionHead};
pub use network::{Network, NetworkConfig};
pub use state::{StateDict, StateError};
pub use vit::{DropPath, Features, TrackerLayer, Vit, VitConfig};
