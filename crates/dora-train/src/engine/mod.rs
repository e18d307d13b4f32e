//! One training step: teacher, tracker, student, loss, backward, clipping, optimiser, teacher update.
//!
//! The host only launches: nothing here waits for the device. A step whose numbers are not finite
//! changes nothing, which the device itself sees to, and what a step leaves behind is read later.
//!
//! With a process group, gradients are averaged over the ranks while backward still runs, and centre
//! and loss afterwards, so that every rank takes the same step.

mod forward;
mod non_finite;
mod ranks;
mod update;

use std::rc::Rc;

use dora_core::{
    loss::{Loss, Reduction, cross_entropy_loss, teacher_probs},
    tracker::{TrackerSpec, Tracks},
};
use dora_model::{DropPath, Network, NetworkConfig, StateDict, StateError, TrackerLayer};
use tch::{Device, Kind, TchError, Tensor, no_grad};
use torch_ext::{AutocastDtype, CastWeights, ProcessGroup, TorchError};

pub use self::non_finite::NonFinite;
use self::{ranks::Ranks, update::Pending};
use crate::{laps::Laps, notice::Notice, optim::AdamW, scaler::LossScaler};

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
    /// Keeps tokens between the encoders' blocks in that dtype too, rather than in full precision.
    pub autocast_tokens: bool,
    /// Computes projection heads under autocast too; their logits are in full precision all the same.
    pub autocast_head: bool,
    /// Batches whose gradients are added up for one update, at least 1.
    pub gradient_accumulation_steps: usize,
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
    /// The loss and its parts: means over accumulated batches and ranks.
    pub loss: Loss,
    /// Entropy of the teacher's mean answer over views, frames, clips, accumulated batches and ranks.
    pub teacher_mean_entropy: Tensor,
    /// Norms of the gradients before clipping, in the order of the parameters' names.
    pub grad_norms: Tensor,
    /// The tracked objects of each view of this rank's last batch.
    pub tracks_V: Vec<Tracks>,
    /// 1 if the step changed nothing but the loss scale, else 0: float32 scalar. A number was not finite
    /// or a rank reported a fault.
    pub skipped: Tensor,
    /// What the ranks said, as the numbers of their [`Notice`]s, summed.
    pub notices: Tensor,
}

/// Why a step failed; the weights are those before it.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// The backward pass failed; over several ranks, mostly since one of them is gone.
    #[error("libtorch failed in backward: {0}")]
    Backward(TchError),
}

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The values do not fit the sizes.
    #[error(transparent)]
    State(#[from] StateError),
    /// libtorch refused.
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
    scaler: Option<LossScaler>,
    ranks: Option<Ranks>,
    pending: Option<Pending>,
    laps: Laps,
    /// The last batch's tensors in the order in which they are made, so that the first bad one is where
    /// it began.
    trace: Vec<(&'static str, Tensor)>,
}

impl Engine {
    /// An engine whose student and teacher start from the same values; with a `group`, one of
    /// several that take the same steps and start from the same values.
    pub fn new(
        config: &NetworkConfig,
        method: Method,
        values: &StateDict,
        device: Device,
        kind: Kind,
        group: Option<Rc<ProcessGroup>>,
    ) -> Result<Self, EngineError> {
        let mut student = Network::new(config, values, device, kind, true)?;
        let mut teacher = Network::new(config, values, device, kind, false)?;
        if let (Some(dtype), true) = (method.autocast, method.autocast_tokens) {
            student.backbone.keep_tokens_in(dtype.kind());
            teacher.backbone.keep_tokens_in(dtype.kind());
        }
        let center_1D = Tensor::zeros([1, config.head.out_dim], (kind, device));
        let optimizer = AdamW::new(student.state());
        let scaler =
            (method.autocast == Some(AutocastDtype::Float16)).then(|| LossScaler::new(device));
        let ranks = group.map(|group| Ranks::new(group, student.state())).transpose()?;
        Ok(Self {
            method,
            student,
            teacher,
            center_1D,
            optimizer,
            scaler,
            ranks,
            pending: None,
            laps: Laps::default(),
            trace: Vec::new(),
        })
    }

    /// From now on the ranks average gradients in bfloat16; before the first step. Nothing for an engine
    /// that is alone.
    pub fn compress_gradients(&mut self) -> Result<(), TorchError> {
        self.ranks.as_ref().map_or(Ok(()), |ranks| ranks.reducer.compress(&ranks.group))
    }

    /// One step on one batch: [`Engine::backward`], then [`Engine::update`]. Only for a method that
    /// takes one batch a step.
    pub fn step(
        &mut self,
        global_VBTCHW: &Tensor,
        local_LBTCHW: &Tensor,
        draws: &Draws,
        scheduled: &Scheduled,
    ) -> Result<StepOutput, StepError> {
        self.backward(global_VBTCHW, local_LBTCHW, draws, scheduled)?;
        self.update(scheduled, Notice::default())
    }

    /// Adds to the gradients what the views of a batch of clips, `global_VBTCHW` and `local_LBTCHW`,
    /// teach. An update takes `gradient_accumulation_steps` of these; the ranks reduce in the last.
    pub fn backward(
        &mut self,
        global_VBTCHW: &Tensor,
        local_LBTCHW: &Tensor,
        draws: &Draws,
        scheduled: &Scheduled,
    ) -> Result<(), StepError> {
        self.trace.clear();
        self.laps.start(self.center_1D.device());
        let cast_weights = CastWeights::keep();
        let answers = no_grad(|| self.teach(global_VBTCHW))?;
        self.laps.end("teacher");
        let probs_VBTD =
            teacher_probs(&answers.logits_VBTD, &self.center_1D, scheduled.teacher_temp);

        // Before the tracker, whose many small operations take a GPU less time than the host.
        let crops_ND = self.study_crops(local_LBTCHW, draws)?;
        self.laps.end("student");
        let tracks_V = no_grad(|| self.track(&answers, &draws.head_ids));
        self.laps.end("tracker");
        let frames_ND = self.study_frames(global_VBTCHW, &tracks_V, draws)?;
        let (global_VBTKD, local_BTLD) = self.student_logits(&probs_VBTD, frames_ND, crops_ND)?;
        drop(cast_weights);
        self.laps.end("student");
        let Method { reduction, gradient_accumulation_steps, .. } = self.method;
        let loss = cross_entropy_loss(&probs_VBTD, &global_VBTKD, &local_BTLD, reduction);
        self.laps.end("loss");

        let batches = 1 + self.pending.as_ref().map_or(0, |pending| pending.batches);
        if let Some(ranks) = &self.ranks
            && batches == gradient_accumulation_steps
        {
            ranks.reducer.prepare_for_backward()?;
        }
        let share = &loss.total / gradient_accumulation_steps as f64;
        let scaled = match &self.scaler {
            Some(scaler) => share * scaler.scale(),
            None => share,
        };
        scaled.f_backward().map_err(StepError::Backward)?;
        self.laps.end("backward");

        let trace = [
            ("global_views", global_VBTCHW),
            ("local_crops", local_LBTCHW),
            ("center", &self.center_1D),
            ("teacher_logits", &answers.logits_VBTD),
            ("teacher_answers", &probs_VBTD),
            ("student_logits_global", &global_VBTKD),
            ("student_logits_local", &local_BTLD),
        ];
        self.trace = trace.map(|(name, tensor)| (name, tensor.detach())).into();
        let before = self.pending.take();
        self.pending =
            Some(Pending::new(before, &loss, &answers.logits_VBTD, &probs_VBTD, tracks_V));
        Ok(())
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

    /// Optimiser state, centre and loss scale as named tensors.
    pub fn training_state(&self) -> StateDict {
        let mut state = self.optimizer.state();
        state.insert("center", self.center_1D.shallow_clone());
        match &self.scaler {
            Some(scaler) => state.merge(scaler.state()),
            None => state,
        }
    }

    /// The factor of the loss under float16, a scalar on the device; none in other precisions.
    pub fn loss_scale(&self) -> Option<&Tensor> {
        self.scaler.as_ref().map(LossScaler::scale)
    }

    /// From now on the student's first `blocks` blocks are computed again in backward
    /// ([`dora_model::Vit::set_checkpoint_blocks`]).
    pub fn set_checkpoint_blocks(&mut self, blocks: usize) {
        self.student.backbone.set_checkpoint_blocks(blocks);
    }

    /// From now on every step notes how long its parts take; it waits for the device after each.
    pub fn time_parts(&mut self) {
        self.laps.switch_on();
    }

    /// Seconds by part since the last call, in the order of a step.
    pub fn take_parts(&mut self) -> Vec<(&'static str, f64)> {
        self.laps.take()
    }

    /// Every tensor that ranks of one run have alike, in a fixed order; storage is shared.
    pub fn shared_tensors(&self) -> Vec<Tensor> {
        let training = self.training_state();
        let dicts = [self.student.state(), self.teacher.state(), &training];
        dicts.iter().flat_map(|dict| dict.tensors()).map(Tensor::detach).collect()
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
        self.training_state().assign(training)
    }
}
