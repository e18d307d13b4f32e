//! What a step computes forward: the teacher's answers and tracks, the student's answers.

use dora_core::tracker::{ClipFeatures, Tracks, discover_and_track};
use dora_model::Network;
use tch::Tensor;
use torch_ext::{Autocast, TorchError};

use super::{Draws, Engine, TrackerMethod};

impl Engine {
    /// The teacher's logits for whole frames, and the objects that its attention finds.
    pub(super) fn teach(
        &self,
        global_VBTCHW: &Tensor,
        head_ids: &[i64],
    ) -> Result<(Tensor, Vec<Tracks>), TorchError> {
        let (views, clips, frames) = leading_dims(global_VBTCHW);
        let images_NCHW = global_VBTCHW.flatten(0, 2);
        let Some(TrackerMethod { spec, layer }) = &self.method.tracker else {
            let cls_ND = self.encode(|| self.teacher.backbone.cls(&images_NCHW, None))?;
            let logits = self.project(&self.teacher, &cls_ND);
            return Ok((logits.reshape([views, clips, frames, -1]), Vec::new()));
        };
        let features = self.encode(|| self.teacher.backbone.features(&images_NCHW, *layer))?;
        let logits_ND = self.project(&self.teacher, &features.tokens_NSD.select(1, 0));
        let logits_VBTD = logits_ND.reshape([views, clips, frames, -1]);
        self.laps.end("teacher");
        let by_clip = |tensor: &Tensor| {
            let shape = [&[views, clips, frames], &tensor.size()[1..]].concat();
            tensor.to_kind(self.kind()).reshape(shape)
        };
        let tokens_VBTSD = by_clip(&features.tokens_NSD);
        let queries_VBTHSE = by_clip(&features.queries_NHSE);
        let keys_VBTHSE = by_clip(&features.keys_NHSE);
        let tracks_V = (0..views).map(|view| {
            let clip_features = ClipFeatures::new(
                &tokens_VBTSD.get(view),
                &queries_VBTHSE.get(view),
                &keys_VBTHSE.get(view),
                head_ids,
            );
            discover_and_track(&clip_features, spec)
        });
        let tracks_V = tracks_V.collect();
        Ok((logits_VBTD, tracks_V))
    }

    /// The student's logits for every frame masked by every object, `[V, B, T, K, D]`, and for the
    /// local crops, `[B, T, L, D]`: all images of one size in one batch.
    pub(super) fn study(
        &self,
        global_VBTCHW: &Tensor,
        local_LBTCHW: &Tensor,
        tracks_V: &[Tracks],
        draws: &Draws,
    ) -> Result<(Tensor, Tensor), TorchError> {
        let (views, clips, frames) = leading_dims(global_VBTCHW);
        let crops = local_LBTCHW.size()[0];
        let (drop_global, drop_local) = match &draws.drop_path {
            Some((global, local)) => (Some(global), Some(local)),
            None => (None, None),
        };
        let images_NCHW = global_VBTCHW.flatten(0, 2);
        let crops_NCHW = local_LBTCHW.permute([1, 2, 0, 3, 4, 5]).flatten(0, 2);
        let backbone = &self.student.backbone;
        let (global_ND, local_ND) = self.encode(|| {
            let global = if tracks_V.is_empty() {
                backbone.cls(&images_NCHW, drop_global)
            } else {
                let masks: Vec<&Tensor> = tracks_V.iter().map(|t| &t.masks_BTKN).collect();
                let masks_NKP = Tensor::stack(&masks, 0).flatten(0, 2);
                backbone.cls_masked(&images_NCHW, &masks_NKP, drop_global)
            };
            (global, backbone.cls(&crops_NCHW, drop_local))
        })?;
        let images = global_ND.size()[0];
        let logits = self.project(&self.student, &Tensor::cat(&[global_ND, local_ND], 0));
        let (global, local) =
            (logits.narrow(0, 0, images), logits.narrow(0, images, crops * clips * frames));
        Ok((
            global.reshape([views, clips, frames, images / (views * clips * frames), -1]),
            local.reshape([clips, frames, crops, -1]),
        ))
    }

    /// Runs an encoder in the method's precision.
    fn encode<T>(&self, forward: impl FnOnce() -> T) -> Result<T, TorchError> {
        let device = self.center_1D.device();
        let _region = self.method.autocast.map(|kind| Autocast::enter(device, kind)).transpose()?;
        Ok(forward())
    }

    /// Head logits in full precision.
    fn project(&self, network: &Network, tokens: &Tensor) -> Tensor {
        network.head.forward(&tokens.to_kind(self.kind()))
    }
}

fn leading_dims(views_VBTCHW: &Tensor) -> (i64, i64, i64) {
    let size = views_VBTCHW.size();
    (size[0], size[1], size[2])
}
