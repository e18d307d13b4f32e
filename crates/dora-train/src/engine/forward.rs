//! What a step computes forward: the teacher's answers and tracks, the student's answers.

use dora_core::tracker::{ClipFeatures, Tracks, discover_and_track};
use dora_model::{Features, Network};
use tch::Tensor;
use torch_ext::{Autocast, TorchError};

use super::{Draws, Engine, TrackerMethod};

/// What the teacher says of whole frames.
pub(super) struct Answers {
    pub(super) logits_VBTD: Tensor,
    /// What the tracker reads; none without one.
    features: Option<Features>,
}

impl Engine {
    /// The teacher's logits for whole frames, and what the tracker reads of them.
    pub(super) fn teach(&self, global_VBTCHW: &Tensor) -> Result<Answers, TorchError> {
        let (views, clips, frames) = leading_dims(global_VBTCHW);
        let images_NCHW = global_VBTCHW.flatten(0, 2);
        let backbone = &self.teacher.backbone;
        let (cls_ND, features) = match &self.method.tracker {
            None => (self.encode(|| backbone.cls(&images_NCHW, None))?, None),
            Some(TrackerMethod { layer, .. }) => {
                let features = self.encode(|| backbone.features(&images_NCHW, *layer))?;
                (features.tokens_NSD.select(1, 0), Some(features))
            }
        };
        let logits_ND = self.project(&self.teacher, &cls_ND, 1.0)?;
        Ok(Answers { logits_VBTD: logits_ND.reshape([views, clips, frames, -1]), features })
    }

    /// The objects that the teacher's attention finds, for each view.
    pub(super) fn track(&self, answers: &Answers, head_ids: &[i64]) -> Vec<Tracks> {
        let (Some(TrackerMethod { spec, .. }), Some(features)) =
            (&self.method.tracker, &answers.features)
        else {
            return Vec::new();
        };
        let (views, clips, frames) = leading_dims(&answers.logits_VBTD);
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
        tracks_V.collect()
    }

    /// The student's `[CLS]` tokens for the local crops, `[B * T * L, D]`.
    pub(super) fn study_crops(
        &self,
        local_LBTCHW: &Tensor,
        draws: &Draws,
    ) -> Result<Tensor, TorchError> {
        let crops_NCHW = local_LBTCHW.permute([1, 2, 0, 3, 4, 5]).flatten(0, 2);
        let drop_path = draws.drop_path.as_ref().map(|(_, local)| local);
        self.encode(|| self.student.backbone.cls(&crops_NCHW, drop_path))
    }

    /// The student's `[CLS]` tokens for every frame masked by every object, `[V * B * T * K, D]`, or for
    /// whole frames where nothing is tracked.
    pub(super) fn study_frames(
        &self,
        global_VBTCHW: &Tensor,
        tracks_V: &[Tracks],
        draws: &Draws,
    ) -> Result<Tensor, TorchError> {
        let images_NCHW = global_VBTCHW.flatten(0, 2);
        let drop_path = draws.drop_path.as_ref().map(|(global, _)| global);
        let backbone = &self.student.backbone;
        if tracks_V.is_empty() {
            return self.encode(|| backbone.cls(&images_NCHW, drop_path));
        }
        let masks: Vec<&Tensor> = tracks_V.iter().map(|tracks| &tracks.masks_BTKN).collect();
        let masks_NKP = Tensor::stack(&masks, 0).flatten(0, 2);
        self.encode(|| backbone.cls_masked(&images_NCHW, &masks_NKP, drop_path))
    }

    /// The student's logits, divided by its temperature: `[V, B, T, K, D]` for frames, and
    /// `[B, T, L, D]` for local crops, of their `[CLS]` tokens. `like_VBTD` gives the sizes.
    pub(super) fn student_logits(
        &self,
        like_VBTD: &Tensor,
        frames_ND: Tensor,
        crops_ND: Tensor,
    ) -> Result<(Tensor, Tensor), TorchError> {
        let (views, clips, frames) = leading_dims(like_VBTD);
        let counts = [frames_ND.size()[0], crops_ND.size()[0]];
        let cls_ND = Tensor::cat(&[frames_ND, crops_ND], 0);
        let logits_ND = self.project(&self.student, &cls_ND, self.method.student_temp)?;
        // One split, whose gradient is one concatenation.
        let parts = logits_ND.split_with_sizes(counts, 0);
        let [objects, crops] = [counts[0] / (views * clips * frames), counts[1] / (clips * frames)];
        Ok((
            parts[0].reshape([views, clips, frames, objects, -1]),
            parts[1].reshape([clips, frames, crops, -1]),
        ))
    }

    /// Runs an encoder in the method's precision.
    fn encode<T>(&self, forward: impl FnOnce() -> T) -> Result<T, TorchError> {
        let device = self.center_1D.device();
        let _region = self.method.autocast.map(|kind| Autocast::enter(device, kind)).transpose()?;
        Ok(forward())
    }

    /// Head logits in full precision.
    fn project(
        &self,
        network: &Network,
        tokens: &Tensor,
        temperature: f64,
    ) -> Result<Tensor, TorchError> {
        let forward = || network.head.forward(&tokens.to_kind(self.kind()), temperature);
        if self.method.autocast_head {
            return Ok(self.encode(forward)?.to_kind(self.kind()));
        }
        Ok(forward())
    }
}

fn leading_dims(views_VBTCHW: &Tensor) -> (i64, i64, i64) {
    let size = views_VBTCHW.size();
    (size[0], size[1], size[2])
}
