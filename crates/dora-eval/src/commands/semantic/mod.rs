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
    interrupt::Interrupt,
    semantic::{
        checkpoint::{self, Identity},
        dataset::Dataset,
        metrics::Scores,
        recipe::{HeadKind, Recipe},
        train::Trainer,
    },
};
use dora_store::atomic;
use serde_json::{Map, Value, json};
use tch::Kind;

use super::features::CacheArgs;
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
    /// Folder for head, log and predictions; an interrupted training there goes on [default:
    /// RECIPE-ENCODER in the folder of --out-root]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where that folder lies if it is not named
    #[arg(long, value_name = "DIR", default_value = "data/eval/semantic")]
    out_root: PathBuf,
    /// Put aside what is in that folder and train anew
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// Look through the data, and stop
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
}

pub(crate) fn run(args: &SemanticArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let recipe = Recipe::read(&args.recipe, &args.overrides)?;
    let dataset = Arc::new(Dataset::open(&args.data, &recipe.data)?);
    if args.check {
        return Ok(());
    }
    let encoder = Encoder::load(&args.encoder)?;
    let cache = args.cache.open()?;
    let interrupt = Interrupt::listen(&[]).context("cannot listen for signals")?;
    let identity = Identity {
        recipe: recipe.to_toml(),
        encoder: encoder.name.clone(),
        encoder_width: encoder.config.width,
        encoder_digest: encoder.digest.clone(),
        data_digest: dataset.digest.clone(),
    };
    let mut trainer = Trainer::new(&encoder, &recipe, dataset.classes.len())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.out_root.join(default_name(&args.recipe, &encoder)));
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
    let matrix_flops_per_s = matrix_flops_per_s(encoder.device, Kind::Float);
    let (confusion, test_images_per_s) = training.test(&trainer)?;
    speed.test_images_per_s = test_images_per_s;

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
            format!("{}, {train} images to learn from, {val} to judge by", args.data.display()),
        ),
    ];
    let per_class = || dataset.classes.names().zip(&scores.per_class);
    for (name, class) in per_class() {
        table.push((name, format!("IoU {}   Acc {}", percent(class.iou), percent(class.acc))));
    }
    table.push(("mIoU", format!("{} %", percent(Some(scores.miou)))));
    table.push(("aAcc", format!("{} %", percent(Some(scores.aacc)))));
    table.push(("mAcc", format!("{} %", percent(Some(scores.macc)))));
    table.push(("speed", speed.words(matrix_flops_per_s)));
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
        "per_class": per_class_figures(&dataset, &scores),
        // Rows are annotated classes, columns predicted ones, in the order of `classes`.
        "classes": dataset.classes.names().collect::<Vec<_>>(),
        "confusion_matrix": confusion.rows().collect::<Vec<_>>(),
        "features_images_per_s": speed.features_images_per_s,
        "train_images_per_s": speed.train_images_per_s,
        "train_s": speed.train_s,
        "test_images_per_s": speed.test_images_per_s,
        "matrix_flops_per_s": matrix_flops_per_s,
    });
    args.json.tell(&table, &figures)
}

impl Speed {
    fn words(&self, matrix_flops_per_s: f64) -> String {
        let rate = |what: &str, rate: Option<f64>| {
            rate.map_or(String::new(), |rate| format!("{what} {rate:.1} images/s, "))
        };
        format!(
            "{}{}trained for {:.0} s, test {:.1} images/s; matrices {}",
            rate("features", self.features_images_per_s),
            rate("training", self.train_images_per_s),
            self.train_s,
            self.test_images_per_s,
            matrix_rate(matrix_flops_per_s)
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

/// A folder's name, by the recipe and the encoder.
fn default_name(recipe: &Path, encoder: &Encoder) -> String {
    let name = recipe.file_stem().unwrap_or_default().to_string_lossy();
    format!("{name}-{}", &encoder.digest[..8])
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
