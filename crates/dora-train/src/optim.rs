//! AdamW over a network's parameters, with state that can be saved.

use dora_model::{StateDict, StateError};
use tch::{Kind, Tensor};
use torch_ext::{AdamWLists, TorchError, fused_adamw};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// AdamW (Loshchilov and Hutter 2019) as the released code sets it up: betas 0.9 and 0.999, eps
/// 1e-8, no decay for biases and one-dimensional tensors.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
}

/// A parameter and its state.
#[derive(Debug)]
struct Slot {
    name: String,
    param: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
}

impl AdamW {
    /// An optimiser with empty state over parameters, whose storage it shares.
    pub fn new(params: &StateDict) -> Self {
        let slots = params.iter().map(|(name, param)| {
            let zeros = || param.detach().zeros_like();
            Slot {
                name: name.to_owned(),
                param: param.shallow_clone(),
                exp_avg: zeros(),
                exp_avg_sq: zeros(),
                step: Tensor::zeros([], (Kind::Float, param.device())),
            }
        });
        Self { slots: slots.collect() }
    }

    /// Updates the parameters that have a gradient and are not frozen; the others keep their value
    /// and state.
    pub fn step(
        &mut self,
        lr: f64,
        weight_decay: f64,
        is_frozen: impl Fn(&str) -> bool,
    ) -> Result<(), TorchError> {
        let grads: Vec<Tensor> = self.slots.iter().map(|slot| slot.param.grad()).collect();
        let [mut decayed, mut undecayed] = [AdamWLists::default(), AdamWLists::default()];
        for (slot, grad) in self.slots.iter().zip(&grads) {
            if !grad.defined() || is_frozen(&slot.name) {
                continue;
            }
            let lists = if is_decayed(slot) { &mut decayed } else { &mut undecayed };
            lists.params.push(&slot.param);
            lists.grads.push(grad);
            lists.exp_avgs.push(&slot.exp_avg);
            lists.exp_avg_sqs.push(&slot.exp_avg_sq);
            lists.steps.push(&slot.step);
        }
        let group = |weight_decay| torch_ext::AdamW { lr, betas: BETAS, weight_decay, eps: EPS };
        fused_adamw(&decayed, group(weight_decay))?;
        fused_adamw(&undecayed, group(0.0))
    }

    /// The state as named tensors that share its storage.
    pub fn state(&self) -> StateDict {
        let mut state = StateDict::default();
        for Slot { name, exp_avg, exp_avg_sq, step, .. } in &self.slots {
            state.insert(format!("exp_avg.{name}"), exp_avg.shallow_clone());
            state.insert(format!("exp_avg_sq.{name}"), exp_avg_sq.shallow_clone());
            state.insert(format!("step.{name}"), step.shallow_clone());
        }
        state
    }

    /// Takes over saved state.
    pub fn load(&mut self, saved: &StateDict) -> Result<(), StateError> {
        self.state().assign(saved)
    }
}

fn is_decayed(slot: &Slot) -> bool {
    slot.param.dim() > 1 && !slot.name.ends_with(".bias")
}
