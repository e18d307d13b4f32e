//! Features on disk, so that an encoder sees an image once.
//!
//! A file is named by what its features are of: the encoder's parameters, the device that computes, since
//! others round otherwise, the images' paths, sizes and dates, and what is cut out of them. Another of any
//! of these has another name, so nothing is ever out of date; the folder may be deleted at any time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dora_model::StateDict;
use dora_store::atomic;
use md5::{Digest, Md5};
use tch::{Kind, Tensor};

use crate::{
    classification::features::Wanted,
    encoder::Encoder,
    feature_file::{self, FeatureFileError},
    hex,
};

/// Rises when the same images give other features, or a file is laid out otherwise.
const VERSION: u32 = 2;

/// A folder of features.
#[derive(Debug)]
pub struct FeatureCache {
    folder: PathBuf,
}

/// Features of one data set by one encoder: where they lie, and what they must be like.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    images: i64,
    width: i64,
    depth: i64,
}

impl FeatureCache {
    /// Makes the folder unless it is there.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(folder: &Path) -> Result<Self, FeatureFileError> {
        let failed = |source| FeatureFileError::Io { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        atomic::check_writable(&folder.join(format!(".writable-{}", std::process::id())))
            .map_err(failed)?;
        Ok(Self { folder: folder.into() })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The place of features of `images` images whose [`crate::images::folder::ImageFolder::identity`] is
    /// known. How many blocks are wanted is no part of it: more blocks serve who wants fewer.
    pub fn entry(
        &self,
        encoder: &Encoder,
        identity: &str,
        images: usize,
        wanted: &Wanted,
    ) -> Entry {
        let (config, view) = (&encoder.config, wanted.describe());
        let (digest, device) = (&encoder.digest, encoder.device);
        let key = format!("{VERSION}\n{digest}\n{config:?}\n{device:?}\n{identity}\n{view}");
        let name = format!("{}.safetensors", hex(&Md5::digest(key)));
        let (width, depth) = (config.width, config.depth);
        Entry { path: self.folder.join(name), images: images as i64, width, depth }
    }
}

impl Entry {
    /// Features `[N, L, D]` after the last `blocks` blocks; `None` if they, or some of them, are not there.
    ///
    /// # Errors
    /// If the file is damaged: write it again.
    pub fn read(&self, blocks: usize) -> Result<Option<Tensor>, FeatureFileError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let state = feature_file::read(&self.path)?;
        let mut parts = Vec::with_capacity(blocks);
        for block in self.depth - blocks as i64..self.depth {
            let Ok(part_ND) = state.get(&name(block)) else { return Ok(None) };
            if part_ND.size() != [self.images, self.width] || part_ND.kind() != Kind::Float {
                let what = "its features have another shape or type";
                return Err(FeatureFileError::Damaged { path: self.path.clone(), what });
            }
            parts.push(part_ND);
        }
        Ok(Some(Tensor::stack(&parts, 1)))
    }

    /// Writes features `[N, L, D]` of the last L blocks, whole or not at all.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, features_NLD: &Tensor) -> Result<(), FeatureFileError> {
        let blocks = features_NLD.size()[1];
        let mut state = StateDict::default();
        for index in 0..blocks {
            let part_ND = features_NLD.select(1, index).contiguous();
            state.insert(name(self.depth - blocks + index), part_ND);
        }
        feature_file::write(&self.path, state)
    }
}

/// Name of a block's features.
fn name(block: i64) -> String {
    format!("block_{block}")
}
