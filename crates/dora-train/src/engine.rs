//! One training step: teacher, tracker, student, loss, backward, clipping, optimiser, teacher update.

use dora_core::{
    loss::{Loss, Reduction, cross_entropy_loss, next_center, teacher_probs},
    tracker::{ClipFeatures, TrackerSpec, Tracks, cls_attention, discover_and_track},
};
use dora_model::{DropPath, Network, NetworkConfig, StateDict, StateError, TrackerLayer};
use tch::{Device, Kind, Tensor, no_grad};
use torch_ext::{Autocast, AutocastDtype, TorchError, clear_grads, clip_grad_norm_each, lerp_each};

use crate::optim::AdamW;

/// What the student learns from, and how; the same for every step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// The tracker of DoRA; `None` is the baseline DINO, whose student sees whole views.
    pub tracker: Option<TrackerMethod>,
    /// How cross-entropies are put together.
    pub reduction: Reduction,
    /// Divides the student's logits.
    pub student_temp: f64,
    /// Weight of the old centre in the new one.
    pub center_momentum: f64,
    /// Norm to which each gradient is clipped on its own.
    pub clip_grad: f64,
    /// Whether the scales of the last layer stay 1 (DINO's `norm_last_layer`).
    pub norm_last_layer: bool,
    /// Computes encoders under autocast in this dtype; `None` is full precision.
    pub autocast: Option<AutocastDtype>,
}

/// How objects are found and followed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackerMethod {
    /// Sinkhorn-Knopp and mask threshold.
    pub spec: TrackerSpec,
    /// Which block's attention, queries and keys.
    pub layer: TrackerLayer,
}

/// What a step draws at random; the engine itself draws nothing.
#[derive(Debug)]
pub struct Draws {
    /// The heads whose attention finds the objects; not read without a tracker.
    pub head_ids: Vec<i64>,
    /// Branches skipped by the global part of the student's batch (views x clips x frames x
    /// objects images) and by its local crops.
    pub drop_path: Option<(DropPath, DropPath)>,
}

/// The scheduled values of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheduled {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of the teacher.
    pub momentum: f64,
    /// Divides the teacher's centred logits.
    pub teacher_temp: f64,
    /// Whether `head.last_layer` keeps its values.
    pub freeze_last_layer: bool,
}

/// What a step leaves behind: tensors on the device, without gradient.
#[derive(Debug)]
pub struct StepOutput {
    /// The loss and its parts.
    pub loss: Loss,
    /// Norms of the gradients before clipping, in the order of the parameters' names.
    pub grad_norms: Tensor,
    /// The tracked objects of each view.
    pub tracks_V: Vec<Tracks>,
}

/// Why a step could not be finished; the weights are those before it.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A number became infinite or undefined.
    #[error("the {what} is not finite; the first tensor that is not: `{tensor}`")]
    NonFinite {
        /// Loss or gradient.
        what: &'static str,
        /// Name of the first tensor with such a number.
        tensor: String,
    },
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// Student, teacher, centre and optimiser.
#[derive(Debug)]
pub struct Engine {
    method: Method,
    student: Network,
    teacher: Network,
    center_1D: Tensor,
    optimizer: AdamW,
    capture: Option<StateDict>,
}

impl Engine {
    /// An engine whose student and teacher start from the same values.
    pub fn new(
        config: &NetworkConfig,
        method: Method,
        values: &StateDict,
        device: Device,
        kind: Kind,
    ) -> Result<Self, StateError> {
        let student = Network::new(config, values, device, kind, true)?;
        let teacher = Network::new(config, values, device, kind, false)?;
        let center_1D = Tensor::zeros([1, config.head.out_dim], (kind, device));
        let optimizer = AdamW::new(student.state());
        Ok(Self { method, student, teacher, center_1D, optimizer, capture: None })
    }

    /// One step on the views of a batch of clips, `global_VBTCHW` and `local_LBTCHW`.
    pub fn step(
        &mut self,
        global_VBTCHW: &Tensor,
        local_LBTCHW: &Tensor,
        draws: &Draws,
        scheduled: &Scheduled,
    ) -> Result<StepOutput, StepError> {
        let (teacher_logits_VBTD, tracks_V) =
            no_grad(|| self.teach(global_VBTCHW, &draws.head_ids))?;
        let probs_VBTD =
            teacher_probs(&teacher_logits_VBTD, &self.center_1D, scheduled.teacher_temp);

        let (global_VBTKD, local_BTLD) =
            self.study(global_VBTCHW, local_LBTCHW, &tracks_V, draws)?;
        let Method { student_temp, reduction, center_momentum, .. } = self.method;
        let loss =
            cross_entropy_loss(&probs_VBTD, &global_VBTKD, &local_BTLD, student_temp, reduction);
        loss.total.backward();

        let grad_norms = self.clip_gradients()?;
        // In the order in which they are made, so that the first bad one is where it began.
        let trace = [
            ("global_views", global_VBTCHW),
            ("local_crops", local_LBTCHW),
            ("center", &self.center_1D),
            ("teacher_logits", &teacher_logits_VBTD),
            ("teacher_answers", &probs_VBTD),
            ("student_logits_global", &global_VBTKD),
            ("student_logits_local", &local_BTLD),
        ];
        if let Some(error) = self.non_finite(&loss, &grad_norms, &trace) {
            let named = |(name, tensor): &(&str, &Tensor)| ((*name).to_owned(), tensor.detach());
            self.capture = Some(trace.iter().map(named).collect());
            clear_grads(&self.student.state().tensors())?;
            return Err(error);
        }

        let norm_last_layer = self.method.norm_last_layer;
        let is_frozen = |name: &str| {
            (scheduled.freeze_last_layer && name.starts_with("head.last_layer."))
                || (norm_last_layer && name == "head.last_layer.weight_g")
        };
        self.optimizer.step(scheduled.lr, scheduled.weight_decay, is_frozen)?;
        clear_grads(&self.student.state().tensors())?;
        lerp_each(
            &self.teacher.state().tensors(),
            &self.student.state().tensors(),
            1.0 - scheduled.momentum,
        )?;
        let batch_center = teacher_logits_VBTD.flatten(0, 2).mean_dim([0].as_slice(), true, None);
        self.center_1D = next_center(&self.center_1D, &batch_center, center_momentum);
        let loss = Loss { total: loss.total.detach(), ..loss };
        Ok(StepOutput { loss, grad_norms, tracks_V })
    }

    /// The teacher's logits for whole frames, and the objects that its attention finds.
    fn teach(
        &self,
        global_VBTCHW: &Tensor,
        head_ids: &[i64],
    ) -> Result<(Tensor, Vec<Tracks>), TorchError> {
        let (views, clips, frames) = leading_dims(global_VBTCHW);
        let images_NCHW = global_VBTCHW.flatten(0, 2);
        let Some(TrackerMethod { spec, layer }) = &self.method.tracker else {
            let tokens_NSD = self.encode(|| self.teacher.backbone.forward(&images_NCHW, None))?;
            let logits = self.project(&self.teacher, &tokens_NSD.select(1, 0));
            return Ok((logits.reshape([views, clips, frames, -1]), Vec::new()));
        };
        let features = self.encode(|| self.teacher.backbone.features(&images_NCHW, *layer))?;
        let by_clip = |tensor: &Tensor| {
            let shape = [&[views, clips, frames], &tensor.size()[1..]].concat();
            tensor.to_kind(self.kind()).reshape(shape)
        };
        let tokens_VBTSD = by_clip(&features.tokens_NSD);
        let queries_VBTHSE = by_clip(&features.queries_NHSE);
        let keys_VBTHSE = by_clip(&features.keys_NHSE);
        let tracks_V = (0..views).map(|view| {
            let queries_BHSE = queries_VBTHSE.get(view).select(1, 0);
            let keys_BTHSE = keys_VBTHSE.get(view);
            let clip_features = ClipFeatures {
                cls_attn_BKN: cls_attention(&queries_BHSE, &keys_BTHSE.select(1, 0), head_ids),
                queries_BND: patches_of_all_heads(&queries_BHSE),
                keys_BTND: patches_of_all_heads(&keys_BTHSE),
                tokens_BND: without_cls(&tokens_VBTSD.get(view).select(1, 0), 1),
            };
            discover_and_track(&clip_features, spec)
        });
        let tracks_V = tracks_V.collect();
        let logits_VBTD = self.project(&self.teacher, &tokens_VBTSD.select(3, 0));
        Ok((logits_VBTD, tracks_V))
    }

    /// The student's logits for every frame masked by every object, `[V, B, T, K, D]`, and for the
    /// local crops, `[B, T, L, D]`: all images of one size in one batch.
    fn study(
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
                backbone.forward(&images_NCHW, drop_global)
            } else {
                let masks: Vec<&Tensor> = tracks_V.iter().map(|t| &t.masks_BTKN).collect();
                let masks_NKP = Tensor::stack(&masks, 0).flatten(0, 2);
                backbone.forward_masked(&images_NCHW, &masks_NKP, drop_global)
            };
            (global.select(1, 0), backbone.forward(&crops_NCHW, drop_local).select(1, 0))
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

    fn clip_gradients(&self) -> Result<Tensor, TorchError> {
        let grads: Vec<Tensor> =
            self.student.state().tensors().iter().map(|param| param.grad()).collect();
        clip_grad_norm_each(&grads.iter().collect::<Vec<_>>(), self.method.clip_grad, 1e-6)
    }

    /// What is wrong with the numbers of a step, and the first tensor where.
    fn non_finite(
        &self,
        loss: &Loss,
        grad_norms: &Tensor,
        trace: &[(&str, &Tensor)],
    ) -> Option<StepError> {
        let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let params = || self.student.state().iter();
        let (what, tensor) = if !is_finite(&loss.total) {
            let first = params()
                .chain(trace.iter().copied())
                .find(|(_, tensor)| !is_finite(tensor))
                .map_or("loss", |(name, _)| name);
            ("loss", first)
        } else if !is_finite(grad_norms) {
            let is_bad = |index: usize| !grad_norms.double_value(&[index as i64]).is_finite();
            let first = params().enumerate().find(|(index, _)| is_bad(*index));
            ("gradient", first.map_or("gradients", |(_, (name, _))| name))
        } else {
            return None;
        };
        Some(StepError::NonFinite { what, tensor: tensor.to_owned() })
    }

    fn kind(&self) -> Kind {
        self.center_1D.kind()
    }

    /// The student.
    pub fn student(&self) -> &Network {
        &self.student
    }

    /// The teacher: the moving average of the student.
    pub fn teacher(&self) -> &Network {
        &self.teacher
    }

    /// The centre of the teacher's logits, `[1, D]`.
    pub fn center(&self) -> &Tensor {
        &self.center_1D
    }

    /// Optimiser state and centre as named tensors.
    pub fn training_state(&self) -> StateDict {
        let mut state = self.optimizer.state();
        state.insert("center", self.center_1D.shallow_clone());
        state
    }

    /// What the step that failed with [`StepError::NonFinite`] worked on.
    pub fn take_capture(&mut self) -> Option<StateDict> {
        self.capture.take()
    }

    /// Takes over everything that a checkpoint holds.
    pub fn load(
        &mut self,
        student: &StateDict,
        teacher: &StateDict,
        training: &StateDict,
    ) -> Result<(), StateError> {
        self.student.state().assign(student)?;
        self.teacher.state().assign(teacher)?;
        self.optimizer.load(training)?;
        let mut center = StateDict::default();
        center.insert("center", self.center_1D.shallow_clone());
        center.assign(training)
    }
}

fn leading_dims(views_VBTCHW: &Tensor) -> (i64, i64, i64) {
    let size = views_VBTCHW.size();
    (size[0], size[1], size[2])
}

/// `[..., H, S, E]` to `[..., N, H * E]`: patches only, heads side by side.
fn patches_of_all_heads(per_head: &Tensor) -> Tensor {
    let joined = per_head.transpose(-3, -2).flatten(-2, -1);
    let tokens_dim = joined.dim() as i64 - 2;
    without_cls(&joined, tokens_dim)
}

fn without_cls(tokens: &Tensor, tokens_dim: i64) -> Tensor {
    tokens.narrow(tokens_dim, 1, tokens.size()[tokens_dim as usize] - 1)
}
