//! AdamW over a network's parameters, with state that can be saved.

use dora_model::{StateDict, StateError};
use tch::Tensor;
use torch_ext::{AdamWLists, AdamWSlot, TorchError, fused_adamw};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// AdamW (Loshchilov and Hutter 2019) as the released code sets it up: betas 0.9 and 0.999, eps
/// 1e-8, no decay for biases and one-dimensional tensors.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<AdamWSlot>,
}

impl AdamW {
    /// An optimiser with empty state over parameters, whose storage it shares.
    pub fn new(params: &StateDict) -> Self {
        let slots = params.iter().map(|(name, param)| AdamWSlot::new(name.to_owned(), param));
        Self { slots: slots.collect() }
    }

    /// Updates the parameters that have a gradient and are not frozen; the others keep their value
    /// and state, and so do all where `skipped`, a float32 scalar on their device, is 1.
    pub fn step(
        &mut self,
        lr: f64,
        weight_decay: f64,
        is_frozen: impl Fn(&str) -> bool,
        skipped: &Tensor,
    ) -> Result<(), TorchError> {
        let grads: Vec<Tensor> = self.slots.iter().map(|slot| slot.param.grad()).collect();
        let [mut decayed, mut undecayed] = [AdamWLists::default(), AdamWLists::default()];
        for (slot, grad) in self.slots.iter().zip(&grads) {
            if !grad.defined() || is_frozen(&slot.name) {
                continue;
            }
            let lists = if is_decayed(slot) { &mut decayed } else { &mut undecayed };
            lists.push(slot, grad);
        }
        let group = |weight_decay| torch_ext::AdamW { lr, betas: BETAS, weight_decay, eps: EPS };
        fused_adamw(&decayed, group(weight_decay), Some(skipped))?;
        fused_adamw(&undecayed, group(0.0), Some(skipped))
    }

    /// The state as named tensors that share its storage.
    pub fn state(&self) -> StateDict {
        let mut state = StateDict::default();
        for (name, tensor) in self.slots.iter().flat_map(AdamWSlot::state) {
            state.insert(name, tensor);
        }
        state
    }

    /// Takes over saved state.
    pub fn load(&mut self, saved: &StateDict) -> Result<(), StateError> {
        self.state().assign(saved)
    }
}

fn is_decayed(slot: &AdamWSlot) -> bool {
    slot.param.dim() > 1 && !slot.name.ends_with(".bias")
}
