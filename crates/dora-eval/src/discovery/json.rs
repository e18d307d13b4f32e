//! Boxes of any images, as one JSON file: `{"a/1.jpg": [[x0, y0, x1, y1], ...], ...}`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path},
};

use super::{
    PxBox,
    data::{DataError, DataSet, Example, Object, wrong},
};

/// Reads the file `boxes`; its paths are relative to `root`.
pub(super) fn read(root: &Path, boxes: &Path) -> Result<DataSet, DataError> {
    let text = fs::read_to_string(boxes)
        .map_err(|error| wrong(boxes, format!("cannot be read: {error}")))?;
    let images: BTreeMap<String, Vec<PxBox>> = serde_json::from_str(&text).map_err(|error| {
        wrong(
            boxes,
            format!("is no map from images to lists of [x0, y0, x1, y1] in pixels: {error}"),
        )
    })?;
    let example = |(name, bounds): (String, Vec<PxBox>)| {
        let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(&name).components().all(is_below) {
            return Err(wrong(
                boxes,
                format!("names `{name}`, which is not below {}", root.display()),
            ));
        }
        let image = root.join(&name);
        if !image.is_file() {
            return Err(wrong(&image, format!("does not exist, but {} names it", boxes.display())));
        }
        if let Some(flat) = bounds.iter().find(|bounds| !bounds.is_proper()) {
            let flat: [f64; 4] = (*flat).into();
            return Err(wrong(
                boxes,
                format!("has the box {flat:?} of {name}, which holds nothing"),
            ));
        }
        let object = |bounds| Object { class: None, is_hard: false, bounds };
        Ok(Example { name, image, objects: bounds.into_iter().map(object).collect(), mask: None })
    };
    Ok(DataSet {
        name: boxes.display().to_string(),
        examples: images.into_iter().map(example).collect::<Result<_, _>>()?,
        without_objects: 0,
        label_classes: &[],
    })
}
