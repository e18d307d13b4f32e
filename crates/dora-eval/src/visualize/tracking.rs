//! What an encoder attends to, finds and follows in frames that come one after the other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dora_core::tracker::{
    ClipFeatures, MOST_ITERATIONS, Threshold, TrackerSpec, cls_attention, discover_and_track,
    patches_of_all_heads,
};
use dora_model::{Features, TrackerLayer, Vit};
use image::RgbImage;
use serde::Deserialize;
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    encoder::{Encoder, NotFinite, cores::on_one_core, look::look_at_each},
    images::normalise,
    pictures::to_image,
};

/// How objects are found and followed: the section `tracker` of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tracking {
    /// The block whose attention, queries and keys are used.
    pub layer: TrackerLayer,
    /// The rest.
    #[serde(flatten)]
    pub spec: TrackerSpec,
}

/// A recipe that says nothing of use.
#[derive(Debug, thiserror::Error)]
#[error("{}, which the encoder was trained by, cannot be used: {reason}", path.display())]
pub struct TrackingError {
    path: PathBuf,
    reason: String,
}

impl Default for Tracking {
    /// The paper's, with the released code's layer.
    fn default() -> Self {
        Self { layer: TrackerLayer::Last, spec: TrackerSpec::default() }
    }
}

impl Tracking {
    /// As the recipe of a run says in its section `tracker`; where it says nothing, by default. The threshold
    /// is the one of each map alone: the other clips of a batch of training are not here.
    ///
    /// # Errors
    /// It cannot be read, is no recipe, or names impossible values.
    pub fn of_recipe(path: &Path) -> Result<Self, TrackingError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Recipe {
            tracker: Tracking,
        }
        let failed = |reason: String| TrackingError { path: path.into(), reason };
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let recipe: Recipe =
            toml::from_str(&text).map_err(|error| failed(error.message().to_owned()))?;
        let mut tracking = recipe.tracker;
        let TrackerSpec { eps, iterations, .. } = tracking.spec;
        if !(eps > 0.0 && eps.is_finite()) || iterations > MOST_ITERATIONS {
            return Err(failed(format!(
                "`tracker.eps` is {eps} and `tracker.iterations` {iterations}, but must be above 0, and at \
                 most {MOST_ITERATIONS}"
            )));
        }
        tracking.spec.threshold = Threshold::Sample;
        Ok(tracking)
    }
}

/// Follows objects through frames, of which it needs only a few at once.
#[derive(Debug)]
pub struct Follower<'a> {
    encoder: &'a Encoder,
    tracking: Tracking,
    head_ids: Vec<i64>,
    /// Of the frame in which the objects were found, with the keys of the frames that came last.
    objects: Option<ClipFeatures>,
}

/// What is known of frames; on the CPU.
#[derive(Debug)]
pub struct Sight {
    /// The frames.
    pub frames: Vec<RgbImage>,
    /// Patch tokens after the final norm.
    pub tokens_TND: Tensor,
    /// Attention of the `[CLS]` token to the patches for every head of the tracker's block.
    pub attn_THN: Tensor,
    /// The patches of each object: 1 on it, 0 elsewhere.
    pub masks_TKN: Tensor,
}

impl Sight {
    /// # Errors
    /// A number in it means nothing.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        NotFinite::check(&[&self.tokens_TND, &self.attn_THN])
    }
}

impl<'a> Follower<'a> {
    /// Each of `head_ids` finds one object.
    pub fn new(encoder: &'a Encoder, tracking: Tracking, head_ids: Vec<i64>) -> Self {
        Self { encoder, tracking, head_ids, objects: None }
    }

    /// Forgets the objects: the next frame gives new ones.
    pub fn forget(&mut self) {
        self.objects = None;
    }

    /// Looks at `frames` frames (one at least), uint8 `[3, H, W]` of one size whose sides are multiples of
    /// the patch, as `read` gives them. Objects are found in the first frame that is seen, and are those
    /// that training finds in it.
    ///
    /// # Errors
    /// The first of `read`.
    pub fn look<E: Send>(
        &mut self,
        frames: usize,
        read: impl Fn(usize) -> Result<Tensor, E> + Sync,
    ) -> Result<Sight, E> {
        let (device, layer) = (self.encoder.device, self.tracking.layer);
        let look = |vit: &Vit, _: usize, frame_CHW: Tensor| {
            let image_CHW = normalise(&frame_CHW.to_device(device));
            let features = vit.features(&image_CHW.unsqueeze(0), layer);
            let heads: Vec<i64> = (0..vit.config().heads).collect();
            let attn_1HN = cls_attention(&features.queries_NHSE, &features.keys_NHSE, &heads);
            Ok((to_image(&frame_CHW), features, attn_1HN))
        };
        let seen = look_at_each(self.encoder, frames, read, look, || ())?;
        Ok(on_one_core(|| no_grad(|| self.follow(seen))))
    }

    fn follow(&mut self, seen: Vec<(RgbImage, Features, Tensor)>) -> Sight {
        let in_time = |part: fn(&(RgbImage, Features, Tensor)) -> &Tensor| {
            let parts: Vec<&Tensor> = seen.iter().map(part).collect();
            Tensor::cat(&parts, 0)
        };
        let tokens_TSD = in_time(|(_, features, _)| &features.tokens_NSD);
        let queries_1THSE = in_time(|(_, features, _)| &features.queries_NHSE).unsqueeze(0);
        let keys_1THSE = in_time(|(_, features, _)| &features.keys_NHSE).unsqueeze(0);
        let objects = match self.objects.take() {
            Some(found) => ClipFeatures { keys_BTND: patches_of_all_heads(&keys_1THSE), ..found },
            None => {
                let tokens_1TSD = tokens_TSD.unsqueeze(0);
                ClipFeatures::new(&tokens_1TSD, &queries_1THSE, &keys_1THSE, &self.head_ids)
            }
        };
        let tracks = discover_and_track(&objects, &self.tracking.spec);
        self.objects = Some(objects);
        let patches = tokens_TSD.size()[1] - 1;
        let on_cpu = |tensor: &Tensor| tensor.to_kind(Kind::Float).to_device(Device::Cpu);
        Sight {
            tokens_TND: on_cpu(&tokens_TSD.narrow(1, 1, patches)),
            attn_THN: on_cpu(&in_time(|(_, _, attn_1HN)| attn_1HN)),
            masks_TKN: on_cpu(&tracks.masks_BTKN.get(0)),
            frames: seen.into_iter().map(|(frame, ..)| frame).collect(),
        }
    }
}
