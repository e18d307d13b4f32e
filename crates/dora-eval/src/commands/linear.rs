//! `linear`: a linear classifier on frozen features of a folder of images.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{anyhow, bail};
use clap::Args;
use dora_data::output::JsonFile;
use dora_eval::{
    classification::{
        features::{View, Wanted},
        knn::top1_top5,
        linear::{Labelled, LinearSpec, flat_features, train_and_score},
    },
    encoder::{Encoder, EncoderArgs},
    images::folder::ImageFolder,
    memory::shortage,
    progress::Progress,
};
use serde_json::{Value, json};

use super::features::{CacheArgs, FeatureSource};

#[derive(Args)]
pub(crate) struct LinearArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Folder with train/CLASS/IMAGE and val/CLASS/IMAGE
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Times that every image of train is seen
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    epochs: u64,
    /// Random views of each image, which epochs take in turn; as many as epochs is the exact protocol
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    views: u64,
    /// Learning rates for a batch of 256, each for a classifier of its own
    #[arg(
        long,
        value_name = "X,...",
        value_delimiter = ',',
        default_value = "0.001,0.003,0.01,0.03,0.1,0.3"
    )]
    lr: Vec<f64>,
    /// Images of a step
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// The last blocks whose [CLS] tokens are classified together
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    blocks: u64,
    /// Seed of views, order and first weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    probe_seed: u64,
    /// Side of the square that the encoder sees; the short side of val is scaled to 8/7 of it before
    #[arg(long, value_name = "PX", default_value_t = 224, value_parser = clap::value_parser!(i64).range(1..=1024))]
    image_px: i64,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    json: JsonFile,
}

pub(crate) fn run(args: &LinearArgs) -> anyhow::Result<()> {
    args.json.check()?;
    if let Some(lr) = args.lr.iter().find(|lr| !(lr.is_finite() && **lr > 0.0)) {
        bail!("--lr {lr}: a learning rate must be above 0");
    }
    let [train, val] = ImageFolder::read_splits(&args.data)?;
    let identities = [train.identity()?, val.identity()?];
    let encoder = Encoder::load(&args.encoder)?;
    let of_view = |view| Wanted { view, image_px: args.image_px, blocks: args.blocks as usize };
    let centre = of_view(View::Centre);
    centre.check(&encoder)?;
    // More views than epochs are seen by none.
    let views = args.views.min(args.epochs);
    let width = encoder.config.width * args.blocks as i64;
    check_memory(views, train.samples.len() as u64, width as u64)?;

    let mut source = FeatureSource::new(&encoder, args.cache.open()?);
    let mut flat = |split, wanted, what: &str| -> anyhow::Result<_> {
        Ok(flat_features(&source.features(split, wanted, what)?))
    };
    let queries_QD = flat((&val, &identities[1]), centre, "features of val")?;
    let views_V = (0..views)
        .map(|number| {
            let view = View::Random { seed: args.probe_seed, number };
            let what = format!("features of train, view {} of {views}", number + 1);
            flat((&train, &identities[0]), of_view(view), &what)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let data =
        Labelled { views_V, labels_N: train.labels_N(), classes: train.classes.len() as i64 };

    let spec = |&lr| LinearSpec {
        epochs: args.epochs,
        batch: args.batch as usize,
        lr,
        seed: args.probe_seed,
    };
    let specs: Vec<LinearSpec> = args.lr.iter().map(spec).collect();
    let progress = Mutex::new(Progress::new("epochs", args.epochs * specs.len() as u64));
    let watch = || progress.lock().unwrap_or_else(PoisonError::into_inner).advance(1);
    let trained = train_and_score(&data, &queries_QD, encoder.device, &specs, &watch);
    drop(progress);

    let labels_Q = val.labels_N();
    let results: Vec<Outcome> = specs
        .iter()
        .zip(&trained)
        .filter(|(_, (linear, _))| linear.loss.is_finite())
        .map(|(spec, (linear, scores_QC))| {
            let (top1, top5) = top1_top5(scores_QC, &labels_Q);
            Outcome { lr: spec.lr, top1, top5, loss: linear.loss }
        })
        .collect();
    let best = results.iter().max_by(|a, b| a.top1.total_cmp(&b.top1).then(b.lr.total_cmp(&a.lr)));
    let best = best.ok_or_else(|| {
        anyhow!("the loss of every learning rate became infinite: give --lr smaller ones")
    })?;

    let names: Vec<String> = specs.iter().map(|spec| format!("lr {}", spec.lr)).collect();
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        (
            "data",
            format!(
                "{} classes, {} images in train, {} in val, {} px",
                data.classes,
                train.samples.len(),
                val.samples.len(),
                args.image_px
            ),
        ),
        (
            "protocol",
            format!(
                "[CLS] of the last {} blocks, {} epochs over {views} random views of each image, batch {}",
                args.blocks, args.epochs, args.batch
            ),
        ),
    ];
    for (spec, name) in specs.iter().zip(&names) {
        let result = results.iter().find(|result| result.lr == spec.lr);
        let text = result.map_or("the loss became infinite".to_owned(), |result| {
            let mark = if result.lr == best.lr && specs.len() > 1 { "  best on val" } else { "" };
            format!("{}{mark}", result.text())
        });
        table.push((name, text));
    }
    let per_lr: BTreeMap<String, Value> =
        results.iter().map(|r| (r.lr.to_string(), r.json())).collect();
    let mut figures = serde_json::Map::new();
    for (name, value) in [
        ("encoder", json!(encoder.name)),
        ("image_px", json!(args.image_px)),
        ("top1", json!(best.top1)),
        ("top5", json!(best.top5)),
        ("lr", json!(best.lr)),
        ("per_lr", json!(per_lr)),
        ("epochs", json!(args.epochs)),
        ("views", json!(views)),
        ("is_exact_protocol", json!(views == args.epochs)),
        ("batch", json!(args.batch)),
        ("blocks", json!(args.blocks)),
        ("probe_seed", json!(args.probe_seed)),
    ] {
        figures.insert(name.into(), value);
    }
    source.tell_speed(&centre, &mut table, &mut figures);
    args.json.tell(&table, &figures)
}

/// What a learning rate came to.
struct Outcome {
    lr: f64,
    top1: f64,
    top5: f64,
    loss: f64,
}

impl Outcome {
    fn text(&self) -> String {
        format!(
            "top-1 {:.2} %  top-5 {:.2} %  loss in training {:.3}",
            100.0 * self.top1,
            100.0 * self.top5,
            self.loss
        )
    }

    fn json(&self) -> Value {
        json!({ "top1": self.top1, "top5": self.top5, "train_loss": self.loss })
    }
}

/// Refuses what memory cannot hold: the features of all views lie in it while classifiers are trained.
fn check_memory(views: u64, images: u64, width: u64) -> anyhow::Result<()> {
    let needed_bytes = views.saturating_mul(images).saturating_mul(width * 4);
    match shortage(needed_bytes) {
        None => Ok(()),
        Some(shortage) => {
            bail!("--views {views} of {images} images need {shortage}: give fewer")
        }
    }
}
