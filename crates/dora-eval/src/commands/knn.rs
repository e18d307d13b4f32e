//! `knn`: weighted nearest neighbours on a folder of images.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use dora_data::{output::JsonFile, say};
use dora_eval::{
    classification::{
        features::{View, Wanted},
        knn::{Neighbours, TEMPERATURE, top1_top5, unit_features},
    },
    encoder::{Encoder, EncoderArgs},
    images::folder::ImageFolder,
};
use serde_json::json;

use super::features::{CacheArgs, FeatureSource};

#[derive(Args)]
pub(crate) struct KnnArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Folder with train/CLASS/IMAGE and val/CLASS/IMAGE
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Numbers of neighbours
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,20,100,200", value_parser = clap::value_parser!(i64).range(1..))]
    k: Vec<i64>,
    /// Side of the square that the encoder sees; the short side is scaled to 8/7 of it before
    #[arg(long, value_name = "PX", default_value_t = 224, value_parser = clap::value_parser!(i64).range(1..=1024))]
    image_px: i64,
    #[command(flatten)]
    cache: CacheArgs,
    /// Look through data, encoder and sizes, and stop
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    json: JsonFile,
}

pub(crate) fn run(args: &KnnArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let [train, val] = ImageFolder::read_splits(&args.data)?;
    let identities = [train.identity()?, val.identity()?];
    let k = possible(&args.k, train.samples.len() as i64)?;
    let encoder = Encoder::load(&args.encoder)?;
    let wanted = Wanted { view: View::Centre, image_px: args.image_px, blocks: 1 };
    wanted.check(&encoder)?;
    if args.check {
        return Ok(());
    }

    let mut source = FeatureSource::new(&encoder, args.cache.open()?);
    let bank_NLD = source.features((&train, &identities[0]), wanted, "features of train")?;
    let queries_QLD = source.features((&val, &identities[1]), wanted, "features of val")?;
    let [bank_ND, queries_QD] =
        [bank_NLD, queries_QLD].map(|cls| unit_features(&cls).to_device(encoder.device));
    let most = k.iter().copied().max().unwrap_or(1);
    let neighbours = Neighbours::find(&bank_ND, &queries_QD, most);

    let (classes, labels_N, labels_Q) =
        (train.classes.len() as i64, train.labels_N(), val.labels_N());
    let names: Vec<String> = k.iter().map(|k| format!("{k}-NN")).collect();
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        (
            "data",
            format!(
                "{} classes, {} images in train, {} in val, {} px",
                classes,
                train.samples.len(),
                val.samples.len(),
                args.image_px
            ),
        ),
    ];
    let mut figures = serde_json::Map::new();
    figures.insert("encoder".into(), encoder.name.clone().into());
    figures.insert("image_px".into(), args.image_px.into());
    for (&k, name) in k.iter().zip(&names) {
        let scores_QC = neighbours.vote(&labels_N, classes, k, TEMPERATURE);
        let (top1, top5) = top1_top5(&scores_QC, &labels_Q);
        table.push((name, format!("top-1 {:.2} %  top-5 {:.2} %", 100.0 * top1, 100.0 * top5)));
        figures.insert(name.clone(), json!({ "top1": top1, "top5": top5 }));
    }
    source.tell_speed(&wanted, &mut table, &mut figures);
    args.json.tell(&table, &figures)
}

/// Those numbers of neighbours that a bank has; says of others that they are left out.
fn possible(k: &[i64], bank: i64) -> anyhow::Result<Vec<i64>> {
    let (fit, too_many): (Vec<i64>, Vec<i64>) = k.iter().partition(|k| **k <= bank);
    let too_many = too_many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if fit.is_empty() {
        bail!("--k {too_many}, but train has only {bank} images: give a smaller number");
    }
    if !too_many.is_empty() {
        say!("{too_many} neighbours are left out: train has only {bank} images");
    }
    Ok(fit)
}
