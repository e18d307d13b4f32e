//! What an encoder attends to, finds and follows in frames that come one after the other.

use std::convert::Infallible;

use dora_core::tracker::{
    ClipFeatures, TrackerSpec, cls_attention, discover_and_track, patches_of_all_heads,
};
use dora_model::{Features, TrackerLayer, Vit};
use tch::{Device, Kind, Tensor};

use crate::{images::normalise, pool::Pool};

/// Follows objects through frames, of which it needs only a few at once.
#[derive(Debug)]
pub struct Follower<'a> {
    pool: &'a Pool,
    spec: TrackerSpec,
    layer: TrackerLayer,
    head_ids: Vec<i64>,
    /// Of the frame in which the objects were found, with the keys of the frames that came last.
    objects: Option<ClipFeatures>,
}

/// What is known of frames; on the CPU.
#[derive(Debug)]
pub struct Sight {
    /// Patch tokens after the final norm.
    pub tokens_TND: Tensor,
    /// Attention of the `[CLS]` token to the patches for every head of the tracker's block.
    pub attn_THN: Tensor,
    /// The patches of each object: 1 on it, 0 elsewhere.
    pub masks_TKN: Tensor,
}

impl<'a> Follower<'a> {
    /// Each of `head_ids` of the block `layer` finds one object.
    pub fn new(pool: &'a Pool, spec: TrackerSpec, layer: TrackerLayer, head_ids: Vec<i64>) -> Self {
        Self { pool, spec, layer, head_ids, objects: None }
    }

    /// Forgets the objects: the next frame gives new ones.
    pub fn forget(&mut self) {
        self.objects = None;
    }

    /// Looks at frames uint8 `[3, H, W]` of one size, whose sides are multiples of the patch; there is
    /// one at least. Objects are found in the first frame that is seen, and are those that training
    /// finds in it.
    pub fn look(&mut self, frames_CHW: Vec<Tensor>) -> Sight {
        let of_frame = |vit: &Vit, frame_CHW: Tensor| {
            let image_CHW = normalise(&frame_CHW.to_device(self.pool.device));
            let features = vit.features(&image_CHW.unsqueeze(0), self.layer);
            let heads: Vec<i64> = (0..vit.config().heads).collect();
            let attn_1HN = cls_attention(&features.queries_NHSE, &features.keys_NHSE, &heads);
            Ok::<_, Infallible>((features, attn_1HN))
        };
        let Ok(features) = self.pool.map(frames_CHW, of_frame);
        let in_time = |part: &dyn Fn(&(Features, Tensor)) -> Tensor| {
            let parts: Vec<Tensor> = features.iter().map(part).collect();
            Tensor::cat(&parts, 0)
        };
        let tokens_TSD = in_time(&|(features, _)| features.tokens_NSD.shallow_clone());
        let queries_THSE = in_time(&|(features, _)| features.queries_NHSE.shallow_clone());
        let keys_THSE = in_time(&|(features, _)| features.keys_NHSE.shallow_clone());
        let [tokens_1TSD, queries_1THSE, keys_1THSE] =
            [&tokens_TSD, &queries_THSE, &keys_THSE].map(|tensor| tensor.unsqueeze(0));
        let objects = match self.objects.take() {
            Some(found) => ClipFeatures { keys_BTND: patches_of_all_heads(&keys_1THSE), ..found },
            None => ClipFeatures::new(&tokens_1TSD, &queries_1THSE, &keys_1THSE, &self.head_ids),
        };
        let tracks = discover_and_track(&objects, &self.spec);
        self.objects = Some(objects);
        let patches = tokens_TSD.size()[1] - 1;
        let on_cpu = |tensor: &Tensor| tensor.to_kind(Kind::Float).to_device(Device::Cpu);
        Sight {
            tokens_TND: on_cpu(&tokens_TSD.narrow(1, 1, patches)),
            attn_THN: on_cpu(&in_time(&|(_, attn_1HN)| attn_1HN.shallow_clone())),
            masks_TKN: on_cpu(&tracks.masks_BTKN.get(0)),
        }
    }
}
