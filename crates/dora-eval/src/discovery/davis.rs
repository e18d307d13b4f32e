//! DAVIS: sequences of frames, each with a mask that gives the boxes; the toy walk is one, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{
    boxes_of,
    data::{DataError, DataSet, Example, MaskFile, Object, read_list, stems, wrong},
};
use crate::{
    images::masks::read_mask,
    video_segmentation::dataset::{Merge, SINGLE_OBJECT_YEAR, sequence_name},
};

/// Reads every `every`th frame of the sequences that `ImageSets/YEAR/SET.txt` lists, in the latest year
/// that has the list. Labels mean what they do where objects are followed.
pub(super) fn read(root: &Path, set: Option<&str>, every: usize) -> Result<DataSet, DataError> {
    let set = set.unwrap_or("val");
    let list = find_list(root, set)?;
    let is_single = list.parent().is_some_and(|year| year.ends_with(SINGLE_OBJECT_YEAR));
    let mut sequences = read_list(&list)?;
    for word in &mut sequences {
        let name = sequence_name(word);
        *word = name
            .ok_or_else(|| wrong(&list, format!("names `{word}`, which is no sequence")))?
            .into();
    }
    sequences.dedup();
    let read = |name: &String| read_sequence(root, &list, name, every, is_single);
    let examples: Vec<Vec<Example>> =
        sequences.par_iter().map(read).collect::<Result<_, DataError>>()?;
    Ok(DataSet {
        name: format!("{} {set}", root.display()),
        examples: examples.into_iter().flatten().collect(),
        without_objects: 0,
        label_classes: &[],
    })
}

fn read_sequence(
    root: &Path,
    list: &Path,
    name: &str,
    every: usize,
    is_single: bool,
) -> Result<Vec<Example>, DataError> {
    let folder = root.join("JPEGImages/480p").join(name);
    let frames = stems(&folder, "jpg");
    if frames.is_empty() {
        return Err(wrong(&folder, format!("holds no frame, but {} lists it", list.display())));
    }
    let masks = root.join("Annotations/480p").join(name);
    let mask = |frame: &String| masks.join(format!("{frame}.png"));
    let frames: Vec<String> = frames.into_iter().step_by(every).collect();
    for frame in &frames {
        if !mask(frame).is_file() {
            let reason = format!("is missing: {}/{frame}.jpg has no annotation", folder.display());
            return Err(wrong(&mask(frame), reason));
        }
    }
    // The first mask that has an object tells what labels mean.
    let seen = |frame| {
        let mask = read_mask(&mask(frame));
        mask.map(|mask| Merge::seen_in(&mask, is_single)).transpose()
    };
    let merge = frames.iter().find_map(seen).transpose()?;
    let example = |frame: &String| {
        let mask = MaskFile { path: mask(frame), merge };
        let object = |bounds| Object { class: None, is_hard: false, bounds };
        let objects = boxes_of(&mask.read()?).into_iter().map(object).collect();
        let image = folder.join(format!("{frame}.jpg"));
        Ok(Example { name: format!("{name}/{frame}"), image, objects, mask: Some(mask) })
    };
    frames.par_iter().map(example).collect()
}

fn find_list(root: &Path, set: &str) -> Result<PathBuf, DataError> {
    let folder = root.join("ImageSets");
    let mut years: Vec<PathBuf> =
        fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    years.sort();
    let lists = years.iter().rev().map(|year| year.join(format!("{set}.txt")));
    lists.into_iter().find(|list| list.is_file()).ok_or_else(|| {
        wrong(&folder, format!("has no list YEAR/{set}.txt of sequences: name another with --set"))
    })
}
