//! PASCAL VOC: a list of images, an XML file with boxes for each, and masks for some.

use std::path::Path;

use rayon::prelude::*;
use roxmltree::{Document, Node, ParsingOptions};

use super::{
    PxBox,
    data::{DataError, DataSet, Example, MaskFile, Object, read_list, read_text, stems, wrong},
};

/// The classes behind the labels of masks, from 1 on.
const CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// More elements than any annotation has, so that a file cannot ask for more memory.
const MOST_NODES: u32 = 100_000;

/// Reads the images that `ImageSets/Main/SET.txt` lists, or `ImageSets/Segmentation/SET.txt` where
/// there is no such list.
///
/// Every object counts, as in LOST's evaluation. With `no_hard`, those marked as truncated or
/// difficult do not, as in the older protocol that LOST calls `VOC_all`.
pub(super) fn read(root: &Path, set: Option<&str>, no_hard: bool) -> Result<DataSet, DataError> {
    let set = set.unwrap_or("trainval");
    let main = root.join(format!("ImageSets/Main/{set}.txt"));
    let segmentation = root.join(format!("ImageSets/Segmentation/{set}.txt"));
    let list = if main.is_file() || !segmentation.is_file() { &main } else { &segmentation };
    if !list.is_file() {
        let sets = stems(&root.join("ImageSets/Main"), "txt").into_iter();
        // Lists of single classes have the class in front: `dog_trainval`.
        let sets: Vec<String> = sets.filter(|set| !set.contains('_')).collect();
        let known = if sets.is_empty() { "none".to_owned() } else { sets.join(", ") };
        return Err(wrong(
            list,
            format!("does not exist: --set names a list there, and there is {known}"),
        ));
    }
    let mut names = read_list(list)?;
    names.dedup();
    let examples = names.par_iter().map(|name| read_example(root, list, name, no_hard));
    Ok(DataSet {
        name: format!("{} {set}", root.display()),
        examples: examples.collect::<Result<_, _>>()?,
        without_objects: 0,
        label_classes: &CLASSES,
    })
}

fn read_example(root: &Path, list: &Path, name: &str, no_hard: bool) -> Result<Example, DataError> {
    if name.contains('/') {
        return Err(wrong(list, format!("names `{name}`, which is no name of an image")));
    }
    let annotation = root.join(format!("Annotations/{name}.xml"));
    let image = root.join(format!("JPEGImages/{name}.jpg"));
    for path in [&annotation, &image] {
        if !path.is_file() {
            return Err(wrong(path, format!("does not exist, but {} lists it", list.display())));
        }
    }
    let text = read_text(&annotation)?;
    let mut objects = parse(&text).map_err(|reason| wrong(&annotation, reason))?;
    objects.retain(|object| !(no_hard && object.is_hard));
    let path = root.join(format!("SegmentationClass/{name}.png"));
    let mask = path.is_file().then_some(MaskFile { path, merge: None });
    Ok(Example { name: name.to_owned(), image, objects, mask })
}

/// The objects of an annotation. Document types, and with them entities, are refused.
fn parse(text: &str) -> Result<Vec<Object>, String> {
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| format!("is no annotation of VOC: {error}"))?;
    let root = document.root_element();
    if !root.has_tag_name("annotation") {
        let found = root.tag_name().name();
        return Err(format!("is no annotation of VOC: it holds <{found}>, not <annotation>"));
    }
    let objects = root.children().filter(|node| node.has_tag_name("object")).enumerate();
    objects
        .map(|(index, node)| {
            object(node)
                .map_err(|what| format!("is no annotation of VOC: object {} {what}", index + 1))
        })
        .collect()
}

fn object(node: Node) -> Result<Object, String> {
    let child = |parent: Node, name: &str| -> Option<String> {
        let child = parent.children().find(|child| child.has_tag_name(name))?;
        Some(child.text().unwrap_or_default().trim().to_owned())
    };
    // Parts of people have boxes of their own: only children count.
    let bndbox = node.children().find(|child| child.has_tag_name("bndbox"));
    let bndbox = bndbox.ok_or("has no <bndbox>")?;
    let side = |name: &str| {
        let text = child(bndbox, name).ok_or(format!("has no <{name}>"))?;
        text.parse::<f64>().map_err(|_| format!("has `{text}` as its <{name}>"))
    };
    // Pixels are counted from 1, and the last one belongs to the object.
    let bounds = PxBox {
        x0: side("xmin")? - 1.0,
        y0: side("ymin")? - 1.0,
        x1: side("xmax")?,
        y1: side("ymax")?,
    };
    if !bounds.is_proper() {
        return Err("has a <bndbox> that holds nothing".to_owned());
    }
    let is_marked = |name: &str| child(node, name).is_some_and(|text| text == "1");
    Ok(Object {
        class: Some(child(node, "name").ok_or("has no <name>")?),
        is_hard: is_marked("truncated") || is_marked("difficult"),
        bounds,
    })
}
