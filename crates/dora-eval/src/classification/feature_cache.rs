//! Features on disk, so that an encoder sees an image once.
//!
//! A file is named by what its features are of: the encoder's parameters, the device that computes, since
//! others round otherwise, the images' paths, sizes and dates, and what is cut out of them. Another of any
//! of these has another name, so nothing is ever out of date; the folder may be deleted at any time.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use dora_model::{StateDict, StateError};
use dora_store::atomic;
use md5::{Digest, Md5};
use tch::{Kind, Tensor};

use crate::{classification::features::Wanted, encoder::Encoder, float_bytes, hex};

/// Rises when the same images give other features, or a file is laid out otherwise.
const VERSION: u32 = 1;

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

/// Why features cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The system refused.
    #[error("cannot write to {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is no safetensors file, or cannot become one.
    #[error(transparent)]
    File(#[from] StateError),
    /// A file does not hold what it should.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl FeatureCache {
    /// Makes the folder unless it is there.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Io { path: folder.into(), source };
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
    pub fn read(&self, blocks: usize) -> Result<Option<Tensor>, CacheError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let damaged = |what| CacheError::Damaged { path: self.path.clone(), what };
        let state = StateDict::read(&self.path)?;
        let mut parts = Vec::with_capacity(blocks);
        for block in self.depth - blocks as i64..self.depth {
            let [name, sum] = names(block);
            let Ok(part_ND) = state.get(&name) else { return Ok(None) };
            if part_ND.size() != [self.images, self.width] || part_ND.kind() != Kind::Float {
                return Err(damaged("its features have another shape or type"));
            }
            let is_whole = state.get(&sum).is_ok_and(|sum| {
                sum.kind() == Kind::Int64
                    && sum.numel() == 1
                    && sum.int64_value(&[0]) == crc32(&part_ND)
            });
            if !is_whole {
                return Err(damaged("its features are not those of its checksum"));
            }
            parts.push(part_ND);
        }
        Ok(Some(Tensor::stack(&parts, 1)))
    }

    /// Writes features `[N, L, D]` of the last L blocks, whole or not at all.
    pub fn write(&self, features_NLD: &Tensor) -> Result<(), CacheError> {
        let failed = |source| CacheError::Io { path: self.path.clone(), source };
        let blocks = features_NLD.size()[1];
        let mut state = StateDict::default();
        for index in 0..blocks {
            let part_ND = features_NLD.select(1, index).contiguous();
            let [name, sum] = names(self.depth - blocks + index);
            state.insert(sum, Tensor::from_slice(&[crc32(&part_ND)]));
            state.insert(name, part_ND);
        }
        let temporary = atomic::temporary_name(&self.path).map_err(failed)?;
        let written = state.write(&temporary).map_err(CacheError::from).and_then(|()| {
            let synced = File::open(&temporary).and_then(|file| file.sync_all());
            synced.and_then(|()| fs::rename(&temporary, &self.path)).map_err(failed)
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Names of a block's features and of their checksum.
fn names(block: i64) -> [String; 2] {
    [format!("block_{block}"), format!("block_{block}.crc32")]
}

/// Checksum of a tensor's float32 values.
fn crc32(values: &Tensor) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for row in values.split(1 << 12, 0) {
        hasher.update(&float_bytes(&row));
    }
    hasher.finalize().into()
}
