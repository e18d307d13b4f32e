//! DAVIS: sequences of frames, each with a mask that gives the boxes; the toy walk is one, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{
    boxes_of,
    data::{DataError, DataSet, Example, Object, read_list, stems, wrong},
};
use crate::images::masks::read_mask;

/// Reads every `every`th frame of the sequences that `ImageSets/YEAR/SET.txt` lists, in the latest year
/// that has the list.
pub(super) fn read(root: &Path, set: Option<&str>, every: usize) -> Result<DataSet, DataError> {
    let set = set.unwrap_or("val");
    let list = find_list(root, set)?;
    let mut sequences: Vec<String> = read_list(&list)?.iter().map(|word| sequence(word)).collect();
    sequences.dedup();
    let mut frames = Vec::new();
    for name in &sequences {
        let folder = root.join("JPEGImages/480p").join(name);
        let numbers = stems(&folder, "jpg");
        if numbers.is_empty() {
            return Err(wrong(&folder, format!("holds no frame, but {} lists it", list.display())));
        }
        frames.extend(numbers.into_iter().step_by(every).map(|number| (name, number)));
    }
    let example = |(sequence, number): &(&String, String)| {
        let image = root.join(format!("JPEGImages/480p/{sequence}/{number}.jpg"));
        let mask = root.join(format!("Annotations/480p/{sequence}/{number}.png"));
        if !mask.is_file() {
            return Err(wrong(&mask, format!("is missing: {} has no annotation", image.display())));
        }
        let object = |bounds| Object { class: None, is_hard: false, bounds };
        let objects = boxes_of(&read_mask(&mask)?).into_iter().map(object).collect();
        Ok(Example { name: format!("{sequence}/{number}"), image, objects, mask: Some(mask) })
    };
    Ok(DataSet {
        name: format!("{} {set}", root.display()),
        examples: frames.par_iter().map(example).collect::<Result<_, DataError>>()?,
        without_objects: 0,
        label_classes: &[],
    })
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

/// Lists name sequences, or as of 2016 each frame: `/JPEGImages/480p/bear/00000.jpg`.
fn sequence(word: &str) -> String {
    let mut parts = word.trim_start_matches('/').split('/');
    let name = if word.contains('/') { parts.nth(2) } else { parts.next() };
    name.unwrap_or(word).to_owned()
}
