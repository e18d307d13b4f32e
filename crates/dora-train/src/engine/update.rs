//! What follows backward: reduce over the ranks, check, apply.

use dora_core::{
    loss::{Loss, entropy, next_center},
    tracker::Tracks,
};
use tch::{Kind, Tensor};
use torch_ext::{ReduceOp, TorchError, clear_grads, clip_grad_norm_each, lerp_each};

use super::{Engine, Scheduled, StepError, StepOutput, ranks::Ranks};
use crate::{notice::Notice, scaler::LossScaler};

/// Scalars of [`Loss`]: how many.
const LOSS_SCALARS: i64 = 5;

/// What the batches of a step leave for its update.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batches: usize,
    /// Sums over the batches: the scalars of the loss, the teacher's mean logits and mean answer.
    sums: Tensor,
    tracks_V: Vec<Tracks>,
}

/// Means over the batches of a step and over the ranks.
struct Means {
    loss: Loss,
    teacher_mean_entropy: Tensor,
    center_D: Tensor,
    notices: Tensor,
}

impl Pending {
    /// Of the batches `before` and one more.
    pub(super) fn new(
        before: Option<Self>,
        loss: &Loss,
        teacher_logits_VBTD: &Tensor,
        probs_VBTD: &Tensor,
        tracks_V: Vec<Tracks>,
    ) -> Self {
        let Loss { total, global, local, teacher_entropy, kl } = loss;
        let scalars = Tensor::stack(&[total, global, local, teacher_entropy, kl], 0).detach();
        let mean = |per_image_VBTD: &Tensor| {
            per_image_VBTD.flatten(0, 2).mean_dim([0].as_slice(), false, None::<Kind>)
        };
        let sums = Tensor::cat(&[scalars, mean(teacher_logits_VBTD), mean(probs_VBTD)], 0);
        match before {
            None => Self { batches: 1, sums, tracks_V },
            Some(before) => {
                Self { batches: before.batches + 1, sums: before.sums + sums, tracks_V }
            }
        }
    }
}

impl Engine {
    /// Takes the step that the batches since the last one prepared; with a `notice` for all ranks.
    ///
    /// Nothing but the loss scale changes where a number is not finite or a rank reports a fault.
    ///
    /// # Errors
    /// A rank is gone.
    ///
    /// # Panics
    /// After more or fewer batches than `gradient_accumulation_steps`.
    pub fn update(
        &mut self,
        scheduled: &Scheduled,
        notice: Notice,
    ) -> Result<StepOutput, StepError> {
        let Pending { batches, sums, tracks_V } =
            self.pending.take().expect("an update after a batch");
        assert_eq!(batches, self.method.gradient_accumulation_steps, "batches of a step");
        let Means { loss, teacher_mean_entropy, center_D, notices } =
            self.reduce(&sums, batches, notice)?;
        let grad_norms = self.clip_gradients()?;
        self.laps.end("clip");
        let skipped = self.check(&loss, &grad_norms, &notices);
        self.apply(scheduled, &center_D, &skipped)?;
        Ok(StepOutput { loss, teacher_mean_entropy, grad_norms, tracks_V, skipped, notices })
    }

    /// Means over batches and ranks, and the ranks' notices, in one all-reduce.
    fn reduce(&self, sums: &Tensor, batches: usize, notice: Notice) -> Result<Means, TorchError> {
        let numbers = Tensor::from_slice(&notice.to_numbers());
        // Pinned or not, a few bytes are on their way before this returns, and nothing waits for them.
        let numbers = numbers.to_device_(self.center_1D.device(), self.kind(), true, false);
        let sums = Tensor::cat(&[sums, &numbers], 0);
        let mut terms = batches;
        if let Some(Ranks { group, .. }) = &self.ranks {
            group.all_reduce(&sums, ReduceOp::Sum)?;
            terms *= group.world_size();
        }
        let out_dim = self.center_1D.size()[1];
        let sizes = [LOSS_SCALARS, out_dim, out_dim, Notice::LEN as i64];
        let [scalars, center_D, answer_D, notices] = parts(sums.split_with_sizes(sizes, 0));
        let [total, global, local, teacher_entropy, kl] = parts((scalars / terms as f64).unbind(0));
        Ok(Means {
            loss: Loss { total, global, local, teacher_entropy, kl },
            teacher_mean_entropy: entropy(&(answer_D / terms as f64)),
            center_D: center_D / terms as f64,
            notices,
        })
    }

    /// Clips, and takes the loss scale out; the norms are those of the true gradients.
    fn clip_gradients(&self) -> Result<Tensor, TorchError> {
        let grads: Vec<Tensor> =
            self.student.state().tensors().iter().map(|param| param.grad()).collect();
        let grads: Vec<&Tensor> = grads.iter().collect();
        let loss_scale = self.scaler.as_ref().map(LossScaler::scale);
        clip_grad_norm_each(&grads, self.method.clip_grad, 1e-6, loss_scale)
    }

    /// 1 where the step must change nothing, else 0.
    fn check(&self, loss: &Loss, grad_norms: &Tensor, notices: &Tensor) -> Tensor {
        let is_finite = loss.total.isfinite().logical_and(&grad_norms.isfinite().all());
        let [fault, _signals] = parts(notices.split_with_sizes([1, Notice::LEN as i64 - 1], 0));
        is_finite.logical_not().logical_or(&fault.squeeze().gt(0.0)).to_kind(Kind::Float)
    }

    /// Optimiser, teacher and centre, unless `skipped` is 1; gradients are dropped in any case.
    fn apply(
        &mut self,
        scheduled: &Scheduled,
        batch_center_D: &Tensor,
        skipped: &Tensor,
    ) -> Result<(), TorchError> {
        let norm_last_layer = self.method.norm_last_layer;
        let is_frozen = |name: &str| {
            (scheduled.freeze_last_layer && name.starts_with("head.last_layer."))
                || (norm_last_layer && name == "head.last_layer.weight_g")
        };
        self.optimizer.step(scheduled.lr, scheduled.weight_decay, is_frozen, skipped)?;
        clear_grads(&self.student.state().tensors())?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(skipped)?;
        }
        self.laps.end("optimizer");
        let (teacher, student) = (self.teacher.state().tensors(), self.student.state().tensors());
        lerp_each(&teacher, &student, 1.0 - scheduled.momentum, skipped)?;
        let next = next_center(&self.center_1D, batch_center_D, self.method.center_momentum);
        self.center_1D = self.center_1D.where_self(&skipped.gt(0.0), &next);
        self.laps.end("momentum_teacher");
        Ok(())
    }
}

/// The tensors of a list whose length is known.
fn parts<const N: usize>(tensors: Vec<Tensor>) -> [Tensor; N] {
    tensors.try_into().expect("as many tensors as were asked for")
}
