//! Videos with masks in DAVIS' layout: `JPEGImages/480p/SEQUENCE/00000.jpg`,
//! `Annotations/480p/SEQUENCE/00000.png`, and lists of sequences, `ImageSets/YEAR/SPLIT.txt`.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::images::{
    ImageError, image_size,
    masks::{Mask, VOID, mask_size, read_mask},
};

/// More objects than anybody follows at once: a mask of grey levels is none of labels, and memory grows
/// with them.
const MOST_OBJECTS: usize = 64;

/// The list to use where nobody names one.
const DEFAULT_SPLIT: &str = "val";

/// The folder of frames and masks where nobody names another.
pub(crate) const RESOLUTION: &str = "480p";

/// The year whose sequences have one object, whatever its parts are labelled.
const SINGLE_OBJECT_YEAR: &str = "2016";

/// Which sequences, as a user says it.
#[derive(Clone, Debug, clap::Args)]
pub struct DatasetArgs {
    /// Folder with JPEGImages, Annotations and ImageSets
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Folder of lists in ImageSets [default: the last that has the list]
    #[arg(long)]
    pub year: Option<String>,
    /// List of sequences [default: val, or the only one]
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Only these sequences
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub sequences: Vec<String>,
    /// Folder in JPEGImages and Annotations
    #[arg(long, value_name = "NAME", default_value = RESOLUTION)]
    pub resolution: String,
}

/// Sequences with their annotations, looked through without reading the frames.
#[derive(Debug)]
pub struct Dataset {
    /// What was read, for tables: `ImageSets/2017/val.txt`, or the folder.
    pub list: String,
    /// The sequences in the list's order.
    pub sequences: Vec<Sequence>,
}

/// One video.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its name, that of its folders.
    pub name: String,
    /// Its frames in time order.
    pub frames: Vec<Frame>,
    /// Columns and rows of every frame.
    pub size: (usize, usize),
    /// Objects are 1 to this.
    pub objects: usize,
    /// Whether every label but 0 is the one object, and 255 with it.
    pub(crate) merge: Merge,
}

/// A frame's files.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What its files are called without the ending: `00000`.
    pub name: String,
    /// The picture.
    pub image: PathBuf,
    /// The mask.
    pub annotation: PathBuf,
}

/// What labels of a sequence's annotations mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Each its own object.
    No,
    /// All one object, but void.
    All,
    /// All one object, void too: the mask knows only 0 and 255.
    AllAndVoid,
}

/// Why there are no sequences to judge on.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// It is laid out differently.
    #[error("{} is no DAVIS folder: {found}; expected JPEGImages/480p/SEQUENCE/00000.jpg, Annotations/480p/SEQUENCE/00000.png and ImageSets/YEAR/SPLIT.txt", root.display())]
    Layout {
        /// What was given.
        root: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// A sequence was asked for that is not there.
    #[error("there is no {what} `{name}` in {}; it has {known}", place.display())]
    Unknown {
        /// Sequence, year, split or resolution.
        what: &'static str,
        /// As given.
        name: String,
        /// Where it was looked for.
        place: PathBuf,
        /// What there is.
        known: String,
    },
    /// The files of a sequence do not fit together.
    #[error("sequence `{name}`: {problem}")]
    Sequence {
        /// The sequence.
        name: String,
        /// What is wrong with which file.
        problem: String,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl DatasetArgs {
    /// A folder, and nothing else said.
    pub fn of(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            year: None,
            split: None,
            sequences: Vec::new(),
            resolution: RESOLUTION.to_owned(),
        }
    }
}

impl Dataset {
    /// Finds the sequences and checks that their files are there and fit: all frames and masks of a sequence
    /// have one size, and the first mask an object.
    ///
    /// # Errors
    /// The layout, a sequence or a file is not as it should be.
    pub fn open(args: &DatasetArgs) -> Result<Self, DatasetError> {
        let root = &args.data;
        if !root.is_dir() {
            let what = if root.exists() { "it is a file" } else { "it does not exist" };
            return Err(layout(root, what.into()));
        }
        let [images, annotations] = ["JPEGImages", "Annotations"].map(|name| root.join(name));
        for folder in [&images, &annotations] {
            if !folder.is_dir() {
                return Err(layout(root, format!("it holds {}", listed(&entries(root)?))));
            }
            check_known("resolution", &args.resolution, folder)?;
        }
        let [images, annotations] = [images, annotations].map(|dir| dir.join(&args.resolution));
        let (list, mut names, is_single) = find_list(args)?;
        if !args.sequences.is_empty() {
            let is_listed = |name: &String| names.is_empty() || names.contains(name);
            if let Some(name) = args.sequences.iter().find(|name| !is_listed(name)) {
                return Err(unknown("sequence", name, &list.unwrap_or(images), &names));
            }
            names.clone_from(&args.sequences);
        }
        // Each counts once, however often it is named.
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let shown = list.as_ref().unwrap_or(&images);
        let list = shown.strip_prefix(root).unwrap_or(shown).display().to_string();
        let sequences = names
            .iter()
            .map(|name| {
                check_known("sequence", name, &images)?;
                check_known("sequence", name, &annotations)?;
                Sequence::open(name, &images.join(name), &annotations.join(name), is_single)
            })
            .collect::<Result<_, DatasetError>>()?;
        Ok(Self { list, sequences })
    }

    /// Frames of all sequences.
    pub fn frame_count(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.frames.len()).sum()
    }
}

impl Sequence {
    fn open(
        name: &str,
        images: &Path,
        annotations: &Path,
        is_single: bool,
    ) -> Result<Self, DatasetError> {
        let wrong = |problem: String| DatasetError::Sequence { name: name.into(), problem };
        let mut masks = by_stem(annotations, &["png"])?;
        let frames = by_stem(images, &["jpg", "jpeg", "png"])?
            .into_iter()
            .map(|(stem, image)| {
                let annotation = masks.remove(&stem).ok_or_else(|| {
                    let expected = annotations.join(format!("{stem}.png"));
                    wrong(format!("the annotation {} is missing", expected.display()))
                })?;
                Ok(Frame { name: stem, image, annotation })
            })
            .collect::<Result<Vec<Frame>, DatasetError>>()?;
        if let Some(annotation) = masks.values().next() {
            return Err(wrong(format!("{} has no frame in JPEGImages", annotation.display())));
        }
        let [first, _, _, ..] = frames.as_slice() else {
            return Err(wrong(format!(
                "{} holds {} frames; the first and the last do not count, so that 3 are the fewest",
                images.display(),
                frames.len()
            )));
        };
        let image_px = |path: &Path| image_size(path).map(|(w, h)| (w as usize, h as usize));
        let size = image_px(&first.image)?;
        for frame in &frames {
            let sizes = [
                (&frame.image, image_px(&frame.image)?, "the first frame has"),
                (&frame.annotation, mask_size(&frame.annotation)?, "its frames have"),
            ];
            if let Some((path, found, others)) = sizes.into_iter().find(|(_, px, _)| *px != size) {
                return Err(wrong(format!(
                    "{} has {}x{} px, but {others} {}x{}",
                    path.display(),
                    found.0,
                    found.1,
                    size.0,
                    size.1
                )));
            }
        }
        let mask = read_mask(&first.annotation)?;
        let merge = Merge::seen_in(&mask, is_single).ok_or_else(|| {
            let mask = first.annotation.display();
            wrong(format!("its first mask {mask} has no object to follow"))
        })?;
        let objects: usize = merge.apply(mask).labels.into_iter().max().unwrap_or(0).into();
        if objects > MOST_OBJECTS {
            return Err(wrong(format!(
                "its first mask {} has the label {objects}, and labels are objects 1, 2, 3 and so on, \
                 {MOST_OBJECTS} at the most",
                first.annotation.display()
            )));
        }
        Ok(Self { name: name.into(), frames, size, objects, merge })
    }

    /// Reads a frame's annotation: 1 to `objects` are the objects, 0 is background, void, and whatever appears
    /// after the first frame, which nobody follows.
    ///
    /// # Errors
    /// It cannot be read, or has another size by now than its frames: a training reads it for days.
    pub fn annotation(&self, frame: &Frame) -> Result<Mask, DatasetError> {
        let mask = read_mask(&frame.annotation)?;
        self.check_size(&mask, &frame.annotation)?;
        let mut mask = self.merge.apply(mask);
        for label in mask.labels.iter_mut().filter(|label| usize::from(**label) > self.objects) {
            *label = 0;
        }
        Ok(mask)
    }

    /// Finds a mask that somebody made of a frame: `FOLDER/SEQUENCE/00000.png`.
    ///
    /// # Errors
    /// It is missing.
    pub fn result_path(&self, folder: &Path, frame: &Frame) -> Result<PathBuf, DatasetError> {
        let path = folder.join(&self.name).join(format!("{}.png", frame.name));
        if path.is_file() {
            return Ok(path);
        }
        Err(self.wrong(format!("the result {} is missing", path.display())))
    }

    /// Reads a mask that somebody made of a frame, void counted as background. Where there is one object,
    /// it is every other label but 0, or 255 where there is no other.
    ///
    /// # Errors
    /// It is missing, of another size, or has a label that is no object.
    pub fn result(&self, folder: &Path, frame: &Frame) -> Result<Mask, DatasetError> {
        let path = self.result_path(folder, frame)?;
        let mask = read_mask(&path)?;
        self.check_size(&mask, &path)?;
        let merge = match self.objects {
            1 => Merge::seen_in(&mask, true).unwrap_or(Merge::All),
            _ => Merge::No,
        };
        let mask = merge.apply(mask);
        match mask.labels.iter().max() {
            Some(highest) if usize::from(*highest) > self.objects => Err(self.wrong(format!(
                "{} has the label {highest}, but the sequence has {} objects",
                path.display(),
                self.objects
            ))),
            _ => Ok(mask),
        }
    }

    fn check_size(&self, mask: &Mask, path: &Path) -> Result<(), DatasetError> {
        let (width, height) = self.size;
        if (mask.width, mask.height) == self.size {
            return Ok(());
        }
        Err(self.wrong(format!(
            "{} has {}x{} px, but its frames have {width}x{height}",
            path.display(),
            mask.width,
            mask.height
        )))
    }

    fn wrong(&self, problem: String) -> DatasetError {
        DatasetError::Sequence { name: self.name.clone(), problem }
    }

    /// The frames that count: all but the first, which is given, and the last.
    pub fn counted(&self) -> &[Frame] {
        &self.frames[1..self.frames.len() - 1]
    }
}

impl Merge {
    /// As a mask of the sequence shows it; nothing if the mask has no object. `is_single` says that the
    /// sequence's list knows only one.
    fn seen_in(mask: &Mask, is_single: bool) -> Option<Self> {
        let mut labels = mask.labels.iter().filter(|label| **label != 0).peekable();
        labels.peek()?;
        Some(match labels.all(|label| *label == VOID) {
            true => Self::AllAndVoid,
            false if is_single => Self::All,
            false => Self::No,
        })
    }

    /// Labels as they are counted: 0 is background and void.
    pub(crate) fn apply(self, mut mask: Mask) -> Mask {
        for label in &mut mask.labels {
            *label = match self {
                Self::AllAndVoid => (*label).min(1),
                _ if *label == VOID => 0,
                Self::All => (*label).min(1),
                Self::No => *label,
            };
        }
        mask
    }
}

/// The list of sequences, the names in it, and whether each of them is a single object.
fn find_list(args: &DatasetArgs) -> Result<(Option<PathBuf>, Vec<String>, bool), DatasetError> {
    let root = &args.data;
    let sets = root.join("ImageSets");
    if !sets.is_dir() {
        let is_asked_for = args.year.is_some() || args.split.is_some() || args.sequences.is_empty();
        if is_asked_for {
            return Err(layout(root, "it has no folder ImageSets".into()));
        }
        return Ok((None, Vec::new(), false));
    }
    let years: Vec<String> =
        entries(&sets)?.into_iter().filter(|name| sets.join(name).is_dir()).collect();
    let year = match &args.year {
        Some(year) if !years.contains(year) => return Err(unknown("year", year, &sets, &years)),
        Some(year) => year,
        // The last that has the list.
        None => {
            let has = |year: &&String| {
                let list = args.split.as_ref().map(|split| format!("{split}.txt"));
                list.is_none_or(|list| sets.join(year).join(list).is_file())
            };
            let year = years.iter().rfind(has).or(years.last());
            year.ok_or_else(|| layout(root, "ImageSets holds no folder".into()))?
        }
    };
    let lists = sets.join(year);
    let splits: Vec<String> = entries(&lists)?
        .into_iter()
        .filter_map(|name| Some(name.strip_suffix(".txt")?.to_owned()))
        .collect();
    let split = match (&args.split, splits.as_slice()) {
        (Some(split), _) => split,
        (None, [only]) => only,
        (None, _) => DEFAULT_SPLIT,
    };
    if !splits.iter().any(|known| known == split) {
        return Err(unknown("split", split, &lists, &splits));
    }
    let list = lists.join(format!("{split}.txt"));
    let text = or_unreadable(&list, fs::read_to_string(&list))?;
    let mut names: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let name = sequence_name(line).ok_or_else(|| {
            layout(root, format!("{} has the line `{}`", list.display(), line.escape_debug()))
        })?;
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err(layout(root, format!("{} names no sequence", list.display())));
    }
    Ok((Some(list), names, year == SINGLE_OBJECT_YEAR))
}

/// The sequence that a line of a list means: its name, or a picture's path and its mask's, as the lists
/// of 2016 have them.
fn sequence_name(line: &str) -> Option<&str> {
    let first = line.split_whitespace().next()?;
    let name = match first.rsplit('/').nth(1) {
        Some(folder) => folder,
        None => first,
    };
    is_plain(name).then_some(name)
}

/// Whether a word is the name of one file or folder, and leads nowhere else.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

fn check_known(what: &'static str, name: &str, folder: &Path) -> Result<(), DatasetError> {
    if is_plain(name) && folder.join(name).is_dir() {
        return Ok(());
    }
    Err(unknown(what, name, folder, &entries(folder)?))
}

/// Files of a folder with one of these endings, by what stands before it.
fn by_stem(folder: &Path, endings: &[&str]) -> Result<BTreeMap<String, PathBuf>, DatasetError> {
    let files = entries(folder)?.into_iter().filter_map(|name| {
        let (stem, ending) = name.rsplit_once('.')?;
        let is_wanted = !stem.is_empty() && endings.contains(&ending.to_ascii_lowercase().as_str());
        is_wanted.then(|| (stem.to_owned(), folder.join(&name)))
    });
    Ok(files.collect())
}

/// Names in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let found: io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    let found = or_unreadable(folder, found)?;
    let mut names: Vec<String> = found
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

fn or_unreadable<T>(path: &Path, read: io::Result<T>) -> Result<T, DatasetError> {
    read.map_err(|source| DatasetError::Io { path: path.into(), source })
}

fn layout(root: &Path, found: String) -> DatasetError {
    DatasetError::Layout { root: root.into(), found }
}

fn unknown(what: &'static str, name: &str, place: &Path, known: &[String]) -> DatasetError {
    DatasetError::Unknown {
        what,
        name: name.escape_debug().to_string(),
        place: place.into(),
        known: listed(known),
    }
}

/// Names in a row, not too many of them.
fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    match names {
        [] => "nothing".into(),
        names if names.len() <= MOST => names.join(", "),
        names => format!("{}, and {} others", names[..MOST].join(", "), names.len() - MOST),
    }
}
