//! A folder of images in folders of their classes: `ROOT/{train,val}/CLASS/IMAGE`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use md5::{Digest, Md5};
use rayon::prelude::*;

use super::{ImageError, Stamp, image_size};
use crate::{hex, progress::Progress};

/// Names of a folder's content that an error lists.
const NAMES: usize = 5;

/// Images between two looks at the clock.
const LOOKED_AT_ONCE: usize = 1024;

/// Images of one split with their classes.
#[derive(Debug)]
pub struct ImageFolder {
    /// Names of the classes, sorted; a label is an index into them.
    pub classes: Vec<String>,
    /// Files and labels, in the order of their paths.
    pub samples: Vec<(PathBuf, i64)>,
    /// The split's folder.
    folder: PathBuf,
}

/// Why a folder is not one of images by class.
#[derive(Debug, thiserror::Error)]
pub enum ImageFolderError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is laid out differently.
    #[error("{} is no folder of images by class: {found}; expected ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE, JPEG or PNG", path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// A file is no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A class without images.
    #[error("the class {} is empty: put JPEG or PNG files in it, or remove it from train and val", path.display())]
    EmptyClass {
        /// Its folder.
        path: PathBuf,
    },
    /// A class of one split is not in the other.
    #[error("train and val need the same classes, but `{class}` is in {} and not in {}", with.display(), without.display())]
    Classes {
        /// Name of the first such class.
        class: String,
        /// The split that has it.
        with: PathBuf,
        /// The split that lacks it.
        without: PathBuf,
    },
}

impl ImageFolder {
    /// Lists the images of `ROOT/SPLIT`. Hidden folders and files of other kinds do not count.
    ///
    /// # Errors
    /// If the layout is another, a class is empty, or there are fewer than two classes.
    pub fn read(root: &Path, split: &str) -> Result<Self, ImageFolderError> {
        let folder = root.join(split);
        let layout =
            |path: &Path, found: String| ImageFolderError::Layout { path: path.into(), found };
        if !root.is_dir() {
            return Err(layout(root, "there is no such folder".to_owned()));
        }
        if !folder.is_dir() {
            let lacks = format!("it has no folder `{split}` ({})", content(root));
            return Err(layout(root, lacks));
        }
        let (mut classes, mut samples) = (Vec::new(), Vec::new());
        for class in sorted(&folder)?.into_iter().filter(|path| path.is_dir()) {
            let label = classes.len() as i64;
            let before = samples.len();
            samples.extend(sorted(&class)?.into_iter().filter(|p| is_image(p)).map(|p| (p, label)));
            if samples.len() == before {
                return Err(ImageFolderError::EmptyClass { path: class });
            }
            classes.push(name(&class));
        }
        match classes.len() {
            0 => {
                Err(layout(&folder, format!("it has no folder of a class ({})", content(&folder))))
            }
            1 => Err(layout(
                &folder,
                format!("it has one class, `{}`, and two are the fewest", classes[0]),
            )),
            _ => Ok(Self { classes, samples, folder }),
        }
    }

    /// Lists train and val, which must have the same classes, and looks at the header of every image.
    pub fn read_splits(root: &Path) -> Result<[Self; 2], ImageFolderError> {
        let [train, val] = [Self::read(root, "train")?, Self::read(root, "val")?];
        for (with, without) in [(&train, &val), (&val, &train)] {
            let lacks = |class: &&String| without.classes.binary_search(class).is_err();
            if let Some(class) = with.classes.iter().find(lacks) {
                return Err(ImageFolderError::Classes {
                    class: class.clone(),
                    with: with.folder.clone(),
                    without: without.folder.clone(),
                });
            }
        }
        let samples: Vec<_> = train.samples.iter().chain(&val.samples).collect();
        let mut progress = Progress::new("looking at images", samples.len() as u64);
        for chunk in samples.chunks(LOOKED_AT_ONCE) {
            let wrong = chunk.par_iter().find_map_first(|(path, _)| image_size(path).err());
            if let Some(error) = wrong {
                return Err(error.into());
            }
            progress.advance(chunk.len() as u64);
        }
        drop(progress);
        Ok([train, val])
    }

    /// The labels as int64 `[N]`.
    pub fn labels_N(&self) -> tch::Tensor {
        let labels: Vec<i64> = self.samples.iter().map(|(_, label)| *label).collect();
        tch::Tensor::from_slice(&labels)
    }

    /// MD5 of every file's path within the split, size and date: changes where an image does.
    pub fn identity(&self) -> Result<String, ImageFolderError> {
        let mut md5 = Md5::new();
        for (path, _) in &self.samples {
            let failed = |source| ImageFolderError::Io { path: path.clone(), source };
            let Stamp { bytes, date_ns } = Stamp::of(path).map_err(failed)?;
            let within = path.strip_prefix(&self.folder).unwrap_or(path);
            md5.update(format!("{}\0{bytes} {date_ns}\n", within.display()));
        }
        Ok(hex(&md5.finalize()))
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, ImageFolderError> {
    let failed = |source| ImageFolderError::Io { path: folder.into(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)?;
    paths.retain(|path| !name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

/// What a folder holds, for an error.
fn content(folder: &Path) -> String {
    let names: Vec<String> = sorted(folder).unwrap_or_default().iter().map(|p| name(p)).collect();
    let shown = names.iter().take(NAMES).map(|name| format!("`{name}`")).collect::<Vec<_>>();
    match names.len() {
        0 => "it is empty".to_owned(),
        count if count > NAMES => {
            format!("it holds {} and {} more", shown.join(", "), count - NAMES)
        }
        _ => format!("it holds {}", shown.join(", ")),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e == *known))
}
