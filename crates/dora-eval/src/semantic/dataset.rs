//! Images with an annotation for each pixel: ADE20K's folders, or plain index PNGs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use md5::{Digest, Md5};
use rayon::prelude::*;
use tch::Tensor;

use super::{
    classes::{Classes, ClassesError},
    recipe::DataSection,
};
use crate::{
    hex,
    images::{
        ImageError, Stamp, image_size,
        masks::{Mask, VOID, read_mask},
        read_rgb,
    },
    progress::Progress,
};

/// The classes of plain index PNGs, a line for each, in their folder.
const CLASSES_FILE: &str = "classes.txt";

/// A data set whose every annotation was read and found to fit its image.
#[derive(Debug)]
pub struct Dataset {
    /// What its annotations tell apart.
    pub classes: Classes,
    /// Who says so: `ADE20K`, `classes.txt` or `the recipe`.
    pub classes_from: &'static str,
    /// Images to learn from.
    pub train: Vec<Sample>,
    /// Images to judge by.
    pub val: Vec<Sample>,
    /// What tells it from another: MD5 of the files' names and sizes and of the classes' pixels.
    pub digest: String,
    /// The same with the files' dates: others once a file was written anew.
    pub dated_digest: String,
}

/// An image and its annotation.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name of both without extension, relative to their split.
    pub name: String,
    /// JPEG or PNG.
    pub image: PathBuf,
    /// PNG.
    pub annotation: PathBuf,
    /// Rows of both.
    pub rows: i64,
    /// Columns of both.
    pub columns: i64,
}

/// Why a folder is no data set to learn segmentation from.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// It is laid out differently.
    #[error("{} is no data set for segmentation: {found}; expected ADE20K's images/{{training,validation}} with annotations/{{training,validation}}, or train/X.jpg with trainannot/X.png and val/X.jpg with valannot/X.png", path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// Nobody says what the indices mean.
    #[error("nothing says which classes {} has: give it a {CLASSES_FILE} with a line for each index, NAME or NAME RED GREEN BLUE, or name them in `data.classes` of the recipe", path.display())]
    NoClasses {
        /// The folder.
        path: PathBuf,
    },
    /// A list of classes cannot be used.
    #[error("{} is no list of classes", path.display())]
    Classes {
        /// The file, or the folder that a recipe's list is for.
        path: PathBuf,
        /// What is wrong with it.
        source: ClassesError,
    },
    /// Images without annotation.
    #[error("{} has no annotation: {} is missing{}", image.display(), annotation.display(), others(*more))]
    Missing {
        /// The first one.
        image: PathBuf,
        /// Where its annotation should be.
        annotation: PathBuf,
        /// How many others there are.
        more: usize,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Image and annotation have different sizes.
    #[error("{} has {found_px}, but its image has {image_px}: annotations have the size of their images", path.display())]
    Size {
        /// The annotation.
        path: PathBuf,
        /// Its size.
        found_px: String,
        /// That of the image.
        image_px: String,
    },
    /// A pixel has an index that means nothing.
    #[error("{} has pixels of index {index}, but the data set has {expected}: complete its list of classes ({CLASSES_FILE} in its folder, else `data.classes` of the recipe), where a line `void` stands for pixels without one", path.display())]
    Index {
        /// The annotation.
        path: PathBuf,
        /// The first such index.
        index: u8,
        /// Indices that mean something.
        expected: String,
    },
    /// A class cannot be learnt.
    #[error(
        "the class {names} has no pixel in the annotations of the training images: take it from the list of classes, or set `data.require_all_classes=false`"
    )]
    EmptyClass {
        /// All such classes.
        names: String,
    },
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(", and so are those of {more} other images") }
}

impl Dataset {
    /// Finds out which layout a folder has, and reads every annotation once.
    ///
    /// # Errors
    /// If it has neither layout, if an annotation is missing or does not fit its image or the classes, or
    /// if a class has no training pixel and the recipe does not allow that.
    pub fn open(root: &Path, recipe: &DataSection) -> Result<Self, DatasetError> {
        let (classes, classes_from, splits) = if root.join("images").is_dir()
            && root.join("annotations").is_dir()
        {
            let classes = Classes::ade20k()
                .map_err(|source| DatasetError::Classes { path: root.into(), source })?;
            let split = |name: &str| {
                list(root, &root.join("images").join(name), &root.join("annotations").join(name))
            };
            (classes, "ADE20K", [split("training")?, split("validation")?])
        } else {
            let split =
                |name: &str| list(root, &root.join(name), &root.join(format!("{name}annot")));
            let splits = [split("train")?, split("val")?];
            let (classes, from) = plain_classes(root, recipe)?;
            (classes, from, splits)
        };
        let [mut train, mut val] = splits;
        let mut progress = Progress::new("reading annotations", (train.len() + val.len()) as u64);
        let (mut md5, mut dated_md5) = (Md5::new(), Md5::new());
        let mut count = |samples: &mut [Sample]| {
            let mut sum = vec![0u64; classes.len()];
            for chunk in samples.chunks_mut(64) {
                let counted: Vec<_> =
                    chunk.par_iter_mut().map(|sample| count_pixels(sample, &classes)).collect();
                for (sample, counted) in chunk.iter().zip(counted) {
                    let (counts, stamps) = counted?;
                    let bytes = stamps.map(|stamp| stamp.bytes);
                    md5.update(format!("{}\0{bytes:?} {counts:?}\n", sample.name));
                    dated_md5.update(format!("{}\0{stamps:?} {counts:?}\n", sample.name));
                    sum.iter_mut().zip(&counts).for_each(|(sum, count)| *sum += count);
                }
                progress.advance(chunk.len() as u64);
            }
            Ok::<_, DatasetError>(sum)
        };
        let pixels = count(&mut train)?;
        count(&mut val)?;
        drop(progress);
        let empty: Vec<String> = classes
            .names()
            .zip(pixels)
            .filter(|(_, pixels)| *pixels == 0)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        if recipe.require_all_classes && !empty.is_empty() {
            return Err(DatasetError::EmptyClass { names: empty.join(", ") });
        }
        let [digest, dated_digest] = [md5, dated_md5].map(|md5| hex(&md5.finalize()));
        Ok(Self { classes, classes_from, train, val, digest, dated_digest })
    }
}

impl Sample {
    /// Labels of an annotation, row by row: classes, or [`VOID`].
    pub fn labels(&self, classes: &Classes) -> Result<Mask, DatasetError> {
        let mut mask = read_mask(&self.annotation)?;
        for index in &mut mask.labels {
            *index = classes.label(*index).ok_or_else(|| DatasetError::Index {
                path: self.annotation.clone(),
                index: *index,
                expected: classes.expected(),
            })?;
        }
        Ok(mask)
    }

    /// The image, uint8 `[3, H, W]`, and its labels.
    pub fn read(&self, classes: &Classes) -> Result<(Tensor, Mask), DatasetError> {
        let image_CHW = read_rgb(&self.image)?;
        let labels = self.labels(classes)?;
        let size = image_CHW.size();
        if size[1..] != [labels.height as i64, labels.width as i64] {
            return Err(self.size_error(&labels, size[2], size[1]));
        }
        Ok((image_CHW, labels))
    }

    fn size_error(&self, labels: &Mask, width_px: i64, height_px: i64) -> DatasetError {
        DatasetError::Size {
            path: self.annotation.clone(),
            found_px: format!("{}x{} px", labels.width, labels.height),
            image_px: format!("{width_px}x{height_px} px"),
        }
    }
}

/// Pixels of each class, and both files' stamps, after everything about a sample was checked but the
/// pixels of its image; the sample learns its size.
fn count_pixels(
    sample: &mut Sample,
    classes: &Classes,
) -> Result<(Vec<u64>, [Stamp; 2]), DatasetError> {
    let labels = sample.labels(classes)?;
    let (width, height) = image_size(&sample.image)?;
    (sample.columns, sample.rows) = (width.into(), height.into());
    if (width as usize, height as usize) != (labels.width, labels.height) {
        return Err(sample.size_error(&labels, sample.columns, sample.rows));
    }
    let mut counts = vec![0; classes.len()];
    for &label in labels.labels.iter().filter(|label| **label != VOID) {
        counts[usize::from(label)] += 1;
    }
    let stamp_of = |path: &Path| {
        Stamp::of(path).map_err(|error| ImageError { path: path.into(), reason: error.to_string() })
    };
    Ok((counts, [stamp_of(&sample.image)?, stamp_of(&sample.annotation)?]))
}

/// The classes of a folder of plain index PNGs, and whose they are: its own list, else the recipe's.
fn plain_classes(
    root: &Path,
    recipe: &DataSection,
) -> Result<(Classes, &'static str), DatasetError> {
    let file = root.join(CLASSES_FILE);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| DatasetError::Classes { path, source }
    };
    if file.is_file() {
        let text = fs::read_to_string(&file)
            .map_err(|error| ImageError { path: file.clone(), reason: error.to_string() })?;
        let lines: Vec<&str> = text.lines().collect();
        return Ok((Classes::parse(&lines, None).map_err(failed(&file))?, CLASSES_FILE));
    }
    if recipe.classes.is_empty() {
        return Err(DatasetError::NoClasses { path: root.into() });
    }
    let lines: Vec<&str> = recipe.classes.iter().map(String::as_str).collect();
    let classes = Classes::parse(&lines, u8::try_from(recipe.void).ok()).map_err(failed(root))?;
    Ok((classes, "the recipe"))
}

/// Images of a split with their annotations, in the order of their names.
fn list(root: &Path, images: &Path, annotations: &Path) -> Result<Vec<Sample>, DatasetError> {
    let layout = |found: String| DatasetError::Layout { path: root.into(), found };
    for folder in [images, annotations] {
        if !folder.is_dir() {
            let missing = folder.strip_prefix(root).unwrap_or(folder);
            let found = format!("it has no folder {}, it has {}", missing.display(), entries(root));
            return Err(layout(found));
        }
    }
    let mut files = Vec::new();
    find_images(images, &mut files)
        .map_err(|error| layout(format!("{} cannot be read: {error}", images.display())))?;
    files.sort();
    let samples: Vec<Sample> = files
        .into_iter()
        .map(|image| {
            let name = image.strip_prefix(images).unwrap_or(&image).with_extension("");
            Sample {
                annotation: annotations.join(format!("{}.png", name.display())),
                name: name.to_string_lossy().into_owned(),
                image,
                rows: 0,
                columns: 0,
            }
        })
        .collect();
    if samples.is_empty() {
        let folder = images.strip_prefix(root).unwrap_or(images);
        return Err(layout(format!("its folder {} holds no JPEG or PNG file", folder.display())));
    }
    let missing: Vec<&Sample> =
        samples.iter().filter(|sample| !sample.annotation.is_file()).collect();
    match missing.as_slice() {
        [] => Ok(samples),
        [first, rest @ ..] => Err(DatasetError::Missing {
            image: first.image.clone(),
            annotation: first.annotation.clone(),
            more: rest.len(),
        }),
    }
}

/// The first few entries of a folder, in words.
fn entries(folder: &Path) -> String {
    const SHOWN: usize = 6;
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "nothing".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// Every image below a folder: some releases have a folder for each scene.
fn find_images(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        if path.is_dir() {
            find_images(&path, found)?;
        } else if extension.is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e == *known))
        {
            found.push(path);
        }
    }
    Ok(())
}
