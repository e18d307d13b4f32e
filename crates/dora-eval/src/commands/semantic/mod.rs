//! `semantic`: a segmentation head on an encoder, trained and judged.

mod training;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use dora_data::{output::JsonFile, say, training_folder};
use dora_eval::{
    encoder::{
        Encoder, EncoderArgs,
        rate::{matrix_flops_per_s, matrix_rate},
    },
    images::grid::{MOST_PATCHES, cells},
    interrupt::Interrupt,
    semantic::{
        augment::scaled_size,
        checkpoint::{self, Identity},
        dataset::{Dataset, Sample},
        metrics::{Confusion, Scores},
        recipe::{HeadKind, Recipe},
        train::Trainer,
    },
};
use dora_store::atomic;
use serde_json::{Map, Value, json};
use tch::Kind;

use super::{features::CacheArgs, out::OutArgs};
use training::Training;

#[derive(Args)]
pub(crate) struct SemanticArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// ADE20K's folder, or one with train, trainannot, val and valannot
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// TOML file: head, training and test
    #[arg(long, value_name = "FILE")]
    recipe: PathBuf,
    /// `section.key=value` to lay over the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    out: OutArgs,
    /// Put aside what is in that folder and train anew
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// Look through data, encoder and sizes, and stop
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    json: JsonFile,
}

/// How fast everything went; `None` where nothing was done.
#[derive(Default)]
struct Speed {
    features_images_per_s: Option<f64>,
    train_s: f64,
    train_images_per_s: Option<f64>,
    test_images_per_s: f64,
    matrix_flops_per_s: f64,
}

pub(crate) fn run(args: &SemanticArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let recipe = Recipe::read(&args.recipe, &args.overrides)?;
    let dataset = Arc::new(Dataset::open(&args.data, &recipe.data)?);
    let encoder = Encoder::load(&args.encoder)?;
    check_patches(&dataset, &recipe, encoder.config.patch_px)?;
    let mut trainer = Trainer::new(&encoder, &recipe, dataset.classes.len())?;
    if args.check {
        return Ok(());
    }
    let cache = args.cache.open()?;
    let interrupt = Interrupt::listen(&[]).context("cannot listen for signals")?;
    let identity = Identity {
        recipe: recipe.to_toml(),
        encoder: encoder.name.clone(),
        encoder_width: encoder.config.width,
        encoder_digest: encoder.digest.clone(),
        data_digest: dataset.digest.clone(),
    };
    let name = args.recipe.file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.folder(&name, &encoder);
    if args.fresh {
        training_folder::put_aside(&out, "--out")?;
    }
    let _lock = training_folder::lock(&out, "--out")?;
    resume(&out, &identity, &mut trainer)?;
    write(&out.join("recipe.toml"), recipe.to_toml().as_bytes())?;

    let mut training =
        Training { out: &out, dataset: &dataset, recipe: &recipe, identity: &identity, interrupt };
    let mut speed = Speed::default();
    let cache = cache.as_ref().map(|cache| cache.folder());
    training.run(&mut trainer, &encoder, cache, &mut speed)?;
    speed.matrix_flops_per_s = matrix_flops_per_s(encoder.device, Kind::Float);
    let (confusion, test_images_per_s) = training.test(&trainer)?;
    speed.test_images_per_s = test_images_per_s;
    tell(args, &training, &encoder, &confusion, &speed)
}

/// Prints the table and writes the figures.
fn tell(
    args: &SemanticArgs,
    training: &Training<'_>,
    encoder: &Encoder,
    confusion: &Confusion,
    speed: &Speed,
) -> anyhow::Result<()> {
    let Training { out, dataset, recipe, .. } = training;
    let scores = confusion.scores();
    let percent = |share: Option<f64>| {
        share.map_or("     -".to_owned(), |share| format!("{:6.2}", 100.0 * share))
    };
    let (train, val) = (dataset.train.len(), dataset.val.len());
    let kind = match recipe.head.kind {
        HeadKind::Linear => "linear",
        HeadKind::Upernet => "UperNet",
    };
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        ("head", format!("{kind}, {} iterations", recipe.train.iterations)),
        (
            "data",
            format!(
                "{}, {train} images to learn from, {val} to judge by; {} classes of {}",
                args.data.display(),
                dataset.classes.len(),
                dataset.classes_from
            ),
        ),
    ];
    let per_class = || dataset.classes.names().zip(&scores.per_class);
    for (name, class) in per_class() {
        table.push((name, format!("IoU {}   Acc {}", percent(class.iou), percent(class.acc))));
    }
    table.push(("mIoU", format!("{} %", percent(Some(scores.miou)))));
    table.push(("aAcc", format!("{} %", percent(Some(scores.aacc)))));
    table.push(("mAcc", format!("{} %", percent(Some(scores.macc)))));
    table.push(("speed", speed.words()));
    table.push(("written", out.display().to_string()));
    let figures = json!({
        "encoder": encoder.name,
        "head": kind,
        "recipe": args.recipe.display().to_string(),
        "iterations": recipe.train.iterations,
        "seed": recipe.train.seed,
        "data": args.data.display().to_string(),
        "images": { "train": train, "val": val },
        "mIoU": scores.miou,
        "aAcc": scores.aacc,
        "mAcc": scores.macc,
        "per_class": per_class_figures(dataset, &scores),
        // Rows are annotated classes, columns predicted ones, in the order of `classes`.
        "classes": dataset.classes.names().collect::<Vec<_>>(),
        "confusion_matrix": confusion.rows().collect::<Vec<_>>(),
        "features_images_per_s": speed.features_images_per_s,
        "train_images_per_s": speed.train_images_per_s,
        "train_s": speed.train_s,
        "test_images_per_s": speed.test_images_per_s,
        "matrix_flops_per_s": speed.matrix_flops_per_s,
    });
    args.json.tell(&table, &figures)
}

impl Speed {
    fn words(&self) -> String {
        let rate = |what: &str, rate: Option<f64>| {
            rate.map_or(String::new(), |rate| format!("{what} {rate:.1} images/s, "))
        };
        format!(
            "{}{}trained for {:.0} s, test {:.1} images/s; matrices {}",
            rate("features", self.features_images_per_s),
            rate("training", self.train_images_per_s),
            self.train_s,
            self.test_images_per_s,
            matrix_rate(self.matrix_flops_per_s)
        )
    }
}

/// IoU and accuracy of each class by name.
fn per_class_figures(dataset: &Dataset, scores: &Scores) -> Map<String, Value> {
    let figures = dataset.classes.names().zip(&scores.per_class);
    figures
        .map(|(name, class)| (name.to_owned(), json!({ "IoU": class.iou, "Acc": class.acc })))
        .collect()
}

/// Refuses images that would go through the encoder whole and have too many patches: those of val without
/// windows, those of train without crops.
fn check_patches(dataset: &Dataset, recipe: &Recipe, patch_px: i64) -> anyhow::Result<()> {
    let patches = |sample: &Sample| {
        let (rows, columns) = scaled_size(sample.rows, sample.columns, &recipe.data, 1.0);
        cells(rows, patch_px) * cells(columns, patch_px)
    };
    let whole = [
        (
            recipe.test.window_px == 0,
            &dataset.val,
            "set `test.window_px` and `test.stride_px`, or ",
        ),
        (recipe.train.patches > 0, &dataset.train, "set `train.patches=0`, or "),
    ];
    for (is_whole, samples, way_out) in whole {
        let large = samples.iter().find(|sample| is_whole && patches(sample) > MOST_PATCHES);
        if let Some(sample) = large {
            bail!(
                "{} has {} patches, and {MOST_PATCHES} are the most: {way_out}scale images down by \
                 `data.long_px` and `data.short_px`",
                sample.image.display(),
                patches(sample)
            );
        }
    }
    Ok(())
}

/// Goes on from the newest checkpoint, if there is one, of the same training.
fn resume(out: &Path, identity: &Identity, trainer: &mut Trainer) -> anyhow::Result<()> {
    let Some((folder, state)) = checkpoint::newest(out)? else { return Ok(()) };
    let differences = identity.differences(&state.identity);
    if !differences.is_empty() {
        bail!(
            "{} holds another training: {}; choose another folder with --out, or put that one aside \
             with --fresh",
            out.display(),
            differences.join(", ")
        );
    }
    checkpoint::load(&folder, &state, trainer)?;
    say!("going on from {} after {} iterations", folder.display(), state.iteration);
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    atomic::write_file(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
