//! Semantic segmentation: figures, classes, recipes, batches, heads and their training.

mod batches;
mod classes;
mod metrics;
mod recipe;
mod training;
mod upernet;

use std::{fs, path::Path};

use dora_eval::{
    encoder::{CheckpointKey, DeviceName, Encoder, EncoderArgs},
    images::masks::{Mask, davis_palette, to_palette_png},
    semantic::{dataset::Dataset, recipe::Recipe},
};
use dora_model::Arch;
use tempfile::TempDir;

/// Colours of the made set's classes.
const COLOURS: [[u8; 3]; 3] = [[220, 30, 30], [30, 200, 40], [40, 50, 220]];

/// A set of images whose classes are their colours, in cells of 32 px, with a void column on the left.
fn made_set() -> (TempDir, Dataset) {
    let folder = TempDir::new().unwrap();
    write_split(folder.path(), "train", 5);
    write_split(folder.path(), "val", 2);
    let dataset = Dataset::open(folder.path(), &recipe(&[]).data).unwrap();
    (folder, dataset)
}

fn write_split(root: &Path, split: &str, images: usize) {
    let (width, height) = (96, 64);
    let (of_images, of_labels) = (root.join(split), root.join(format!("{split}annot")));
    fs::create_dir_all(&of_images).unwrap();
    fs::create_dir_all(&of_labels).unwrap();
    for index in 0..images {
        let class = |x: usize, y: usize| (x / 32 + 2 * (y / 32) + index) % 3;
        let image = image_of(width, height, |x, y| COLOURS[class(x, y)]);
        fs::write(of_images.join(format!("{index}.png")), image).unwrap();
        let label = |at: usize| {
            if at.is_multiple_of(width) { 3 } else { class(at % width, at / width) as u8 }
        };
        let labels = (0..width * height).map(label).collect();
        let png = to_palette_png(&Mask { width, height, labels }, &davis_palette()).unwrap();
        fs::write(of_labels.join(format!("{index}.png")), png).unwrap();
    }
}

/// A PNG in colours; palette PNGs are read as colours, too.
fn image_of(width: usize, height: usize, colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let labels = (0..width * height)
        .map(|at| {
            let wanted = colour(at % width, at / width);
            COLOURS.iter().position(|colour| *colour == wanted).unwrap() as u8
        })
        .collect();
    let palette: Vec<u8> = COLOURS.iter().flatten().copied().collect();
    to_palette_png(&Mask { width, height, labels }, &palette).unwrap()
}

/// A recipe for the made set, with changes.
fn recipe(changes: &[&str]) -> Recipe {
    let text = r#"
        [data]
        classes = ["red", "green", "blue", "void"]
        long_px = 0
        short_px = 0
        [head]
        channels = 16
        auxiliary_channels = 16
        [augment]
        crop_px = 64
        cat_max_ratio = 0.75
        [train]
        iterations = 4
        batch = 2
        warmup_iterations = 0
        lr = 1e-3
        [test]
        window_px = 0
    "#;
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Recipe::parse(text, &changes).unwrap()
}

/// What makes a recipe one of the linear head.
const LINEAR: [&str; 3] = ["head.kind=linear", "head.dropout=0.0", "train.backbone=frozen"];

fn encoder() -> Encoder {
    let args = EncoderArgs {
        checkpoint: None,
        checkpoint_key: CheckpointKey::Teacher,
        random_init: true,
        arch: Arch::VitTiny,
        patch: 16,
        seed: 0,
        device: DeviceName::Cpu,
    };
    Encoder::load(&args).unwrap()
}
