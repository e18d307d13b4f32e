//! Data sets with boxes around objects: found by their layout, read and checked whole before an
//! encoder looks at the first image.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{PxBox, davis, json, voc};
use crate::{
    images::{
        ImageError, image_size,
        masks::{Mask, mask_size, read_mask},
    },
    video_segmentation::dataset::{DatasetError, Merge, RESOLUTION},
};

/// The most that an annotation or a list may have: the largest of VOC has a hundredth of it.
const MOST_TEXT_BYTES: u64 = 1 << 22;

/// An image and what is on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What it is called in results.
    pub name: String,
    /// The image.
    pub image: PathBuf,
    /// Boxes around its objects.
    pub objects: Vec<Object>,
    /// The label of each pixel.
    pub mask: Option<MaskFile>,
}

/// A PNG with the label of each pixel, and what labels mean.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskFile {
    pub(super) path: PathBuf,
    /// `None` where they are as they are stored.
    pub(super) merge: Option<Merge>,
}

impl MaskFile {
    /// Reads the labels.
    ///
    /// # Errors
    /// As [`read_mask`].
    pub fn read(&self) -> Result<Mask, ImageError> {
        let mask = read_mask(&self.path)?;
        Ok(match self.merge {
            Some(merge) => merge.apply(mask),
            None => mask,
        })
    }
}

/// A box around an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The name of its class where classes have names.
    pub class: Option<String>,
    /// Whether the annotators call it difficult or truncated.
    pub is_hard: bool,
    /// Where it is.
    pub bounds: PxBox,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct DataArgs<'a> {
    /// Folder of the data set.
    pub root: &'a Path,
    /// List of images or sequences; `None` is `trainval` for VOC and what [`Dataset::open`] takes for DAVIS.
    ///
    /// [`Dataset::open`]: crate::video_segmentation::dataset::Dataset::open
    pub set: Option<&'a str>,
    /// JSON file with the boxes of images below the root.
    pub boxes: Option<&'a Path>,
    /// Leaves hard objects out, and images that have no other.
    pub no_hard: bool,
    /// Of a sequence, one frame in so many is taken.
    pub every: usize,
}

/// A data set.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// What tables call it.
    pub name: String,
    /// Images with at least one object.
    pub examples: Vec<Example>,
    /// Images left out because they show no object.
    pub without_objects: usize,
    /// The classes behind labels of masks, from label 1 on; empty where labels are objects.
    pub label_classes: &'static [&'static str],
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It does not look like one.
    #[error("{} {reason}", path.display())]
    Layout {
        /// Folder or file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// It is laid out as DAVIS, and cannot be used.
    #[error(transparent)]
    Davis(#[from] DatasetError),
    /// A file in it cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl DataSet {
    /// Reads lists, boxes and the sizes of all images and masks.
    ///
    /// # Errors
    /// No known layout; a missing or damaged list, image or annotation; a mask of another size than
    /// its image; a set without objects.
    pub fn read(args: &DataArgs) -> Result<Self, DataError> {
        let root = args.root;
        if !root.is_dir() {
            return Err(wrong(root, "is no folder: give that of a data set"));
        }
        let mut data = if let Some(boxes) = args.boxes {
            json::read(root, boxes)?
        } else if root.join("JPEGImages").join(RESOLUTION).is_dir() {
            davis::read(args)?
        } else if root.join("JPEGImages").is_dir() && root.join("Annotations").is_dir() {
            voc::read(root, args.set, args.no_hard)?
        } else {
            return Err(unknown(root));
        };
        let all = data.examples.len();
        data.examples.retain(|example| !example.objects.is_empty());
        data.without_objects = all - data.examples.len();
        if data.examples.is_empty() {
            let reason = format!("has no image with an object: {} has {all} images", data.name);
            return Err(wrong(root, reason));
        }
        data.examples.par_iter().try_for_each(check_sizes)?;
        Ok(data)
    }
}

pub(super) fn wrong(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Layout { path: path.into(), reason: reason.into() }
}

/// A small text file.
pub(super) fn read_text(path: &Path) -> Result<String, DataError> {
    let cannot = |error: std::io::Error| wrong(path, format!("cannot be read: {error}"));
    let bytes = fs::metadata(path).map_err(cannot)?.len();
    if bytes > MOST_TEXT_BYTES {
        return Err(wrong(path, format!("has {bytes} bytes, and {MOST_TEXT_BYTES} are the most")));
    }
    fs::read_to_string(path).map_err(cannot)
}

/// The words that begin the lines of a list that must not be empty.
pub(super) fn read_list(path: &Path) -> Result<Vec<String>, DataError> {
    let text = read_text(path)?;
    let words: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if words.is_empty() {
        return Err(wrong(path, "is empty: name a list with --set that holds something"));
    }
    Ok(words)
}

/// The names (without what is behind the last point) of the files in a folder that end so; sorted.
pub(super) fn stems(folder: &Path, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut stems: Vec<String> = entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    stems.sort();
    stems
}

fn check_sizes(example: &Example) -> Result<(), DataError> {
    let (width, height) = image_size(&example.image)?;
    if let Some(mask) = &example.mask {
        let (mask_width, mask_height) = mask_size(&mask.path)?;
        if (mask_width, mask_height) != (width as usize, height as usize) {
            let reason = format!(
                "has {mask_width}x{mask_height} px, but its image {} has {width}x{height}",
                example.image.display()
            );
            return Err(wrong(&mask.path, reason));
        }
    }
    Ok(())
}

fn unknown(root: &Path) -> DataError {
    let mut found: Vec<String> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let shown = found.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let found = match found.len() {
        0 => "nothing was found".to_owned(),
        1..=8 => format!("found were {shown}"),
        more => format!("found were {shown} and {} more", more - 8),
    };
    wrong(
        root,
        format!(
            "is laid out neither as VOC (JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/SET.txt) nor \
             as DAVIS (JPEGImages/480p/SEQUENCE/*.jpg, Annotations/480p/SEQUENCE/*.png, \
             ImageSets/YEAR/SET.txt), and {found}; for other images give their boxes as --boxes FILE"
        ),
    )
}
