//! Video object segmentation without training (DAVIS, semi-supervised): the objects of a sequence's
//! first annotation are followed by similar patches (Jabri et al. 2020, as DINO uses it).

pub mod boundary;
pub mod dataset;
pub mod follow;
pub mod metrics;
pub mod propagation;
pub mod report;
