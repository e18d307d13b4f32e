//! One training step: teacher, tracker, student, loss, backward, clipping, optimiser, teacher update.
//!
//! With a process group, gradients are averaged over the ranks while backward still runs, and centre
//! and loss figures afterwards, so that every rank takes the same step.

mod forward;
mod ranks;

use std::rc::Rc;

use dora_core::{
    loss::{Loss, Reduction, cross_entropy_loss, entropy, next_center, teacher_probs},
    tracker::{TrackerSpec, Tracks},
};
use dora_model::{DropPath, Network, NetworkConfig, StateDict, StateError, TrackerLayer};
use tch::{Device, Kind, TchError, Tensor, no_grad};
use torch_ext::{
    AutocastDtype, ProcessGroup, ReduceOp, TorchError, clear_grads, clip_grad_norm_each, lerp_each,
};

use self::ranks::Ranks;
use crate::{laps::Laps, optim::AdamW, scaler::LossScaler};

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
    /// False if a float16 gradient overflowed: nothing but the loss scale has changed.
    pub is_taken: bool,
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
    capture: Option<StateDict>,
}

/// What the batches of a step leave for its update.
#[derive(Debug)]
struct Pending {
    batches: usize,
    /// Sums over the batches, in the order of [`FIGURES`], then the teacher's mean logits.
    sums: Tensor,
    tracks_V: Vec<Tracks>,
    /// The last batch's tensors in the order in which they are made, so that the first bad one is
    /// where it began.
    trace: Vec<(&'static str, Tensor)>,
}

/// Stands for the bad tensor that another rank or an earlier batch had.
const ELSEWHERE: &str = "one of another rank or batch";

/// Scalars of [`Loss`]: how many.
const FIGURES: i64 = 5;

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
        let student = Network::new(config, values, device, kind, true)?;
        let teacher = Network::new(config, values, device, kind, false)?;
        let center_1D = Tensor::zeros([1, config.head.out_dim], (kind, device));
        let optimizer = AdamW::new(student.state());
        let scaler = (method.autocast == Some(AutocastDtype::Float16)).then(LossScaler::default);
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
            capture: None,
        })
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
        self.update(scheduled)
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
        self.laps.start(self.center_1D.device());
        let (teacher_logits_VBTD, tracks_V) =
            no_grad(|| self.teach(global_VBTCHW, &draws.head_ids))?;
        let probs_VBTD =
            teacher_probs(&teacher_logits_VBTD, &self.center_1D, scheduled.teacher_temp);
        self.laps.end("tracker");

        let (global_VBTKD, local_BTLD) =
            self.study(global_VBTCHW, local_LBTCHW, &tracks_V, draws)?;
        self.laps.end("student");
        let Method { student_temp, reduction, gradient_accumulation_steps, .. } = self.method;
        let loss =
            cross_entropy_loss(&probs_VBTD, &global_VBTKD, &local_BTLD, student_temp, reduction);
        self.laps.end("loss");

        let batches = 1 + self.pending.as_ref().map_or(0, |pending| pending.batches);
        if let Some(ranks) = &self.ranks
            && batches == gradient_accumulation_steps
        {
            ranks.reducer.prepare_for_backward()?;
        }
        let scale = self.scaler.as_ref().map_or(1.0, LossScaler::scale);
        let scaled = &loss.total * (scale / gradient_accumulation_steps as f64);
        scaled.f_backward().map_err(StepError::Backward)?;
        self.laps.end("backward");

        let figures = [&loss.total, &loss.global, &loss.local, &loss.teacher_entropy, &loss.kl];
        let batch_center_D =
            teacher_logits_VBTD.flatten(0, 2).mean_dim([0].as_slice(), false, None);
        let mean_answer_D = probs_VBTD.flatten(0, 2).mean_dim([0].as_slice(), false, None);
        let figures = Tensor::stack(&figures, 0).detach();
        let sums = Tensor::cat(&[figures, batch_center_D, mean_answer_D], 0);
        let sums = match self.pending.take() {
            Some(pending) => pending.sums + sums,
            None => sums,
        };
        let trace = [
            ("global_views", global_VBTCHW),
            ("local_crops", local_LBTCHW),
            ("center", &self.center_1D),
            ("teacher_logits", &teacher_logits_VBTD),
            ("teacher_answers", &probs_VBTD),
            ("student_logits_global", &global_VBTKD),
            ("student_logits_local", &local_BTLD),
        ];
        let trace = trace.map(|(name, tensor)| (name, tensor.detach())).into();
        self.pending = Some(Pending { batches, sums, tracks_V, trace });
        Ok(())
    }

    /// Takes the step that the batches since the last one prepared.
    ///
    /// # Errors
    /// A number is not finite on any rank, which all ranks find alike; a rank is gone.
    ///
    /// # Panics
    /// After more or fewer batches than `gradient_accumulation_steps`.
    pub fn update(&mut self, scheduled: &Scheduled) -> Result<StepOutput, StepError> {
        let Pending { batches, sums, tracks_V, trace } =
            self.pending.take().expect("an update after a batch");
        assert_eq!(batches, self.method.gradient_accumulation_steps, "batches of a step");
        let mut terms = batches;
        if let Some(Ranks { group, .. }) = &self.ranks {
            group.all_reduce(&sums, ReduceOp::Sum)?;
            terms *= group.world_size();
        }
        let means = sums / terms as f64;
        let figure = |index: i64| means.get(index);
        let loss = Loss {
            total: figure(0),
            global: figure(1),
            local: figure(2),
            teacher_entropy: figure(3),
            kl: figure(4),
        };
        let out_dim = self.center_1D.size()[1];
        let teacher_mean_entropy = entropy(&means.narrow(0, FIGURES + out_dim, out_dim));

        let grad_norms = self.clip_gradients()?;
        self.laps.end("clip");
        // Here the host waits for the device: what follows depends on it.
        let are_finite = Vec::<bool>::try_from(Tensor::stack(
            &[loss.total.isfinite(), grad_norms.isfinite().all()],
            0,
        ));
        let [loss_is_finite, grads_are_finite] =
            are_finite.ok().and_then(|flags| flags.try_into().ok()).unwrap_or([false; 2]);
        let overflowed = loss_is_finite && !grads_are_finite;
        if let Some(scaler) = &mut self.scaler
            && scaler.update(overflowed)
        {
            clear_grads(&self.student.state().tensors())?;
            let is_taken = false;
            return Ok(StepOutput { loss, teacher_mean_entropy, grad_norms, tracks_V, is_taken });
        }
        if !(loss_is_finite && grads_are_finite) {
            let error = self.non_finite(loss_is_finite, &grad_norms, &trace);
            let is_elsewhere =
                matches!(&error, StepError::NonFinite { tensor, .. } if tensor == ELSEWHERE);
            let captured = trace.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
            self.capture = (!is_elsewhere).then(|| captured.collect());
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
        self.laps.end("optimizer");
        lerp_each(
            &self.teacher.state().tensors(),
            &self.student.state().tensors(),
            1.0 - scheduled.momentum,
        )?;
        let batch_center = means.narrow(0, FIGURES, out_dim);
        self.center_1D = next_center(&self.center_1D, &batch_center, self.method.center_momentum);
        self.laps.end("momentum_teacher");
        Ok(StepOutput { loss, teacher_mean_entropy, grad_norms, tracks_V, is_taken: true })
    }

    /// Clips, and takes the loss scale out; the norms are those of the true gradients.
    fn clip_gradients(&self) -> Result<Tensor, TorchError> {
        let grads: Vec<Tensor> =
            self.student.state().tensors().iter().map(|param| param.grad()).collect();
        let scale = self.scaler.as_ref().map_or(1.0, LossScaler::scale);
        let grads: Vec<&Tensor> = grads.iter().collect();
        clip_grad_norm_each(&grads, self.method.clip_grad, 1e-6, 1.0 / scale)
    }

    /// What is wrong with the numbers of a step, and the first tensor where.
    fn non_finite(
        &self,
        loss_is_finite: bool,
        grad_norms: &Tensor,
        trace: &[(&'static str, Tensor)],
    ) -> StepError {
        let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let mut params = self.student.state().iter();
        let (what, tensor) = if loss_is_finite {
            let is_bad = |index: usize| !grad_norms.double_value(&[index as i64]).is_finite();
            let first = params.enumerate().find(|(index, _)| is_bad(*index));
            ("gradient", first.map_or("gradients", |(_, (name, _))| name))
        } else {
            let made = trace.iter().map(|(name, tensor)| (*name, tensor));
            let first = params.by_ref().chain(made).find(|(_, tensor)| !is_finite(tensor));
            ("loss", first.map_or(ELSEWHERE, |(name, _)| name))
        };
        StepError::NonFinite { what, tensor: tensor.to_owned() }
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
        if let Some(scaler) = &self.scaler {
            state.insert("loss_scale", scaler.state().shallow_clone());
        }
        state
    }

    /// The factor of the loss under float16; 1 in other precisions.
    pub fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, LossScaler::scale)
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
        self.training_state().assign(training)
    }
}
