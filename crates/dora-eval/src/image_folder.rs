//! A folder of images in folders of their classes: `ROOT/{train,val}/CLASS/IMAGE`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Images of one split with their classes.
#[derive(Debug)]
pub struct ImageFolder {
    /// Names of the classes, sorted; a label is an index into them.
    pub classes: Vec<String>,
    /// Files and labels, in the order of their paths.
    pub samples: Vec<(PathBuf, i64)>,
}

/// Why a folder is not one of images by class.
#[derive(Debug, thiserror::Error)]
pub enum ImageFolderError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The folder.
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
    /// A class of one split is not in the other.
    #[error("{} has the classes {found:?}, but the other split has {expected:?}", path.display())]
    Classes {
        /// The split's folder.
        path: PathBuf,
        /// Its classes.
        found: Vec<String>,
        /// Those of the other.
        expected: Vec<String>,
    },
}

impl ImageFolder {
    /// Lists the images of `ROOT/SPLIT`.
    pub fn read(root: &Path, split: &str) -> Result<Self, ImageFolderError> {
        let folder = root.join(split);
        let layout = |path: &Path, found: &str| ImageFolderError::Layout {
            path: path.into(),
            found: found.into(),
        };
        if !folder.is_dir() {
            return Err(layout(root, &format!("it has no folder `{split}`")));
        }
        let mut classes = Vec::new();
        let mut samples = Vec::new();
        for class in sorted(&folder)?.into_iter().filter(|path| path.is_dir()) {
            let label = classes.len() as i64;
            let before = samples.len();
            samples.extend(sorted(&class)?.into_iter().filter(|p| is_image(p)).map(|p| (p, label)));
            if samples.len() == before {
                return Err(layout(&class, "it holds no image"));
            }
            let name = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
            classes.push(name);
        }
        if classes.is_empty() {
            return Err(layout(&folder, "it holds no folder"));
        }
        Ok(Self { classes, samples })
    }

    /// Lists train and val, which must have the same classes.
    pub fn read_splits(root: &Path) -> Result<[Self; 2], ImageFolderError> {
        let (train, val) = (Self::read(root, "train")?, Self::read(root, "val")?);
        if train.classes != val.classes {
            return Err(ImageFolderError::Classes {
                path: root.join("val"),
                found: val.classes,
                expected: train.classes,
            });
        }
        Ok([train, val])
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, ImageFolderError> {
    let failed = |source| ImageFolderError::Io { path: folder.into(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e == *known))
}
