//! `monitor.knn`: weighted nearest neighbours on a folder of images.

use std::path::Path;

use anyhow::bail;
use dora_eval::{
    classification::{
        features::{FeatureError, View, Wanted, cls_features},
        knn::{Neighbours, TEMPERATURE, top1_top5, unit_features},
    },
    encoder::Encoder,
    images::folder::ImageFolder,
};
use tch::Tensor;

use super::{Protocol, Watch};
use crate::recipe::Recipe;

/// Images of val that are compared between two looks at the watch.
const QUERIES: i64 = 1024;

/// The images and how they are classified.
#[derive(Debug)]
pub(super) struct Knn {
    train: ImageFolder,
    val: ImageFolder,
    k: i64,
    wanted: Wanted,
}

impl Knn {
    /// Lists the images.
    pub(super) fn open(recipe: &Recipe) -> anyhow::Result<Self> {
        let monitor = &recipe.monitor;
        let [train, val] = ImageFolder::read_splits(Path::new(&monitor.knn))?;
        let (k, bank) = (monitor.knn_k, train.samples.len());
        if k > bank as i64 {
            bail!("`monitor.knn_k` is {k}, but train in {} has only {bank} images", monitor.knn);
        }
        let px = if monitor.image_px == 0 { recipe.model.image_px } else { monitor.image_px };
        let wanted = Wanted { view: View::Centre, image_px: px, blocks: 1 };
        Ok(Self { train, val, k, wanted })
    }
}

impl Protocol for Knn {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn judge(
        &self,
        encoder: &Encoder,
        watch: Watch<'_>,
    ) -> anyhow::Result<Option<Vec<(&'static str, f64)>>> {
        let (bank, queries) = (self.train.samples.len() as u64, self.val.samples.len() as u64);
        // Comparing is a look at every image of val once more.
        let total = bank + 2 * queries;
        let mut done = 0;
        let mut watch = |images| {
            done += images;
            watch(done, total)
        };
        let mut features = |images| match cls_features(encoder, images, self.wanted, &mut watch) {
            Ok(features_NLD) => Ok(Some(unit_features(&features_NLD).to_device(encoder.device))),
            Err(FeatureError::Stopped) => Ok(None),
            Err(error) => Err(error),
        };
        let Some(bank_ND) = features(&self.train)? else { return Ok(None) };
        let Some(queries_QD) = features(&self.val)? else { return Ok(None) };
        let labels_N = self.train.labels_N();
        let classes = self.train.classes.len() as i64;
        let mut scores = Vec::new();
        for part_QD in queries_QD.split(QUERIES, 0) {
            let neighbours = Neighbours::find(&bank_ND, &part_QD, self.k);
            scores.push(neighbours.vote(&labels_N, classes, self.k, TEMPERATURE));
            if !watch(part_QD.size()[0] as u64) {
                return Ok(None);
            }
        }
        let (top1, top5) = top1_top5(&Tensor::cat(&scores, 0), &self.val.labels_N());
        Ok(Some(vec![("top1", top1), ("top5", top5)]))
    }
}
