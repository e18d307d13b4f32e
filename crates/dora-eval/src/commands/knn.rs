//! `knn`: weighted nearest neighbours on a folder of images.

use std::path::PathBuf;

use clap::Args;
use dora_data::output::{check_writable, tell};
use dora_eval::{
    encoder::{Encoder, EncoderArgs},
    features::cls_features,
    image_folder::ImageFolder,
    knn::{knn_scores, top1_top5},
};
use tch::Tensor;

const TEMPERATURE: f64 = 0.07;

#[derive(Args)]
pub(crate) struct KnnArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Folder with train/CLASS/IMAGE and val/CLASS/IMAGE
    #[arg(long)]
    data: PathBuf,
    /// Numbers of neighbours
    #[arg(long, value_delimiter = ',', default_value = "10,20,100,200", value_parser = clap::value_parser!(i64).range(1..))]
    k: Vec<i64>,
    /// Side of the square that the encoder sees; the short side is scaled to 8/7 of it before
    #[arg(long, default_value_t = 224)]
    image_px: i64,
    /// File to write the figures to
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &KnnArgs) -> anyhow::Result<()> {
    if let Some(json) = &args.json {
        check_writable("--json", json)?;
    }
    let [train, val] = ImageFolder::read_splits(&args.data)?;
    let encoder = Encoder::load(&args.encoder)?;
    let bank_ND = cls_features(&encoder, &train, args.image_px, "features of train")?;
    let queries_QD = cls_features(&encoder, &val, args.image_px, "features of val")?;
    let [labels_N, labels_Q] = [&train, &val].map(|split| {
        let labels: Vec<i64> = split.samples.iter().map(|(_, label)| *label).collect();
        Tensor::from_slice(&labels)
    });
    let mut table = vec![("encoder", encoder.name.clone())];
    let mut figures = serde_json::Map::new();
    figures.insert("encoder".into(), encoder.name.clone().into());
    let names: Vec<String> = args.k.iter().map(|k| format!("{k}-NN")).collect();
    for (&k, name) in args.k.iter().zip(&names) {
        let classes = train.classes.len() as i64;
        let k = k.min(train.samples.len() as i64);
        let scores_QC = knn_scores(&bank_ND, &labels_N, &queries_QD, classes, k, TEMPERATURE);
        let (top1, top5) = top1_top5(&scores_QC, &labels_Q);
        table.push((name, format!("top-1 {:.2} %  top-5 {:.2} %", 100.0 * top1, 100.0 * top5)));
        figures.insert(name.clone(), serde_json::json!({ "top1": top1, "top5": top5 }));
    }
    tell(&table, &figures, args.json.as_deref())
}
