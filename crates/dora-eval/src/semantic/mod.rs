//! Semantic segmentation: a head is trained on the features of an encoder, and judged by the overlap of
//! its classes with annotations, as mmsegmentation trains and judges.
//!
//! A head takes four blocks of the encoder, each through the final norm: either one 1x1 convolution over
//! all of them (`linear`, of a frozen encoder), or UperNet (Xiao et al. 2018), whose training goes through
//! the encoder. Everything that decides the outcome stands in a [`recipe::Recipe`]; chance comes from its
//! seed alone.

pub mod augment;
pub mod batches;
pub mod checkpoint;
pub mod classes;
pub mod dataset;
pub mod features;
pub mod heads;
pub mod metrics;
pub mod optim;
pub mod patches;
pub mod recipe;
pub mod test;
pub mod train;
