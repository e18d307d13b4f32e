//! Features for the commands that classify images: from the cache or by the encoder, with progress, and
//! how fast that was.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use dora_data::say;
use dora_eval::{
    classification::{
        feature_cache::FeatureCache,
        features::{Wanted, cls_features},
    },
    encoder::{
        Encoder,
        rate::{image_rate, matrix_flops_per_s},
    },
    feature_file::FeatureFileError,
    images::folder::ImageFolder,
    progress::Progress,
};
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// Where features are kept.
#[derive(Args)]
pub(super) struct CacheArgs {
    /// Folder that keeps features, so that an encoder sees an image once
    #[arg(long, value_name = "DIR", default_value = "data/eval/features")]
    cache: PathBuf,
    /// Compute features anew and keep none
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

/// Gives features, and counts what it took.
pub(super) struct FeatureSource<'a> {
    encoder: &'a Encoder,
    cache: Option<FeatureCache>,
    computed: u64,
    kept: u64,
    seconds: f64,
}

impl CacheArgs {
    /// Opens the cache.
    pub(super) fn open(&self) -> anyhow::Result<Option<FeatureCache>> {
        if self.no_cache {
            return Ok(None);
        }
        let opened = FeatureCache::open(&self.cache);
        let way_out = "give --cache a folder that may be written, or leave it out with --no-cache";
        opened.map(Some).map_err(|error| anyhow::Error::new(error).context(way_out))
    }
}

impl<'a> FeatureSource<'a> {
    pub(super) fn new(encoder: &'a Encoder, cache: Option<FeatureCache>) -> Self {
        Self { encoder, cache, computed: 0, kept: 0, seconds: 0.0 }
    }

    /// Features `[N, L, D]` of images whose identity is known; `what` names them in the progress.
    pub(super) fn features(
        &mut self,
        (images, identity): (&ImageFolder, &str),
        wanted: Wanted,
        what: &str,
    ) -> anyhow::Result<Tensor> {
        let count = images.samples.len();
        let entry = self.cache.as_ref().map(|c| c.entry(self.encoder, identity, count, &wanted));
        match entry.as_ref().map(|entry| entry.read(wanted.blocks)) {
            Some(Ok(Some(features_NLD))) => {
                self.kept += count as u64;
                return Ok(features_NLD);
            }
            Some(Err(damage)) => warn(&damage, "the features are computed anew"),
            Some(Ok(None)) | None => {}
        }
        let started = Instant::now();
        let mut progress = Progress::new(what, count as u64);
        let mut watch = |images| {
            progress.advance(images);
            true
        };
        let features_NLD = cls_features(self.encoder, images, wanted, &mut watch)?;
        self.seconds += started.elapsed().as_secs_f64();
        self.computed += count as u64;
        if let Some(Err(failure)) = entry.map(|entry| entry.write(&features_NLD)) {
            warn(&failure, "the features are not kept");
        }
        Ok(features_NLD)
    }

    /// A row of the table and figures: how many images went through the encoder, how fast, beside the rate
    /// at which the device multiplies matrices.
    pub(super) fn tell_speed(
        &self,
        wanted: &Wanted,
        table: &mut Vec<(&str, String)>,
        figures: &mut Map<String, Value>,
    ) {
        let kept = match &self.cache {
            Some(cache) if self.kept > 0 => {
                format!("{} from {}", self.kept, cache.folder().display())
            }
            _ => String::new(),
        };
        figures.insert("images_computed".into(), self.computed.into());
        figures.insert("images_cached".into(), self.kept.into());
        if self.computed == 0 {
            table.push(("images", kept));
            return;
        }
        let images_per_s = self.computed as f64 / self.seconds;
        let flops_per_image = wanted.flops(self.encoder);
        let rate = matrix_flops_per_s(self.encoder.device, Kind::Float);
        let share = images_per_s * flops_per_image / rate;
        let kept = if kept.is_empty() { kept } else { format!("; {kept}") };
        table.push(("images", format!("{} encoded in {:.1} s{kept}", self.computed, self.seconds)));
        table.push(("speed", image_rate(images_per_s, share, rate)));
        for (name, value) in [
            ("feature_seconds", self.seconds),
            ("images_per_s", images_per_s),
            ("flops_per_image", flops_per_image),
            ("matrix_flops_per_s", rate),
            ("share_of_matrix_rate", share),
        ] {
            figures.insert(name.into(), value.into());
        }
    }
}

fn warn(error: &FeatureFileError, consequence: &str) {
    let causes = anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    say!("warning: {causes}; {consequence}");
}
