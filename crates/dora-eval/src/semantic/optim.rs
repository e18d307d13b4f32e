//! AdamW over a head and, where it learns, its encoder: learning rates fall from block to block.

use dora_model::{StateDict, StateError};
use tch::Tensor;
use torch_ext::{AdamWLists, AdamWSlot, TorchError, clear_grads, fused_adamw};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// The optimiser with its state.
#[derive(Debug)]
pub struct Optimiser {
    groups: Vec<Group>,
}

/// Parameters that share a learning rate and weight decay.
#[derive(Debug)]
struct Group {
    lr_scale: f64,
    is_decayed: bool,
    slots: Vec<AdamWSlot>,
}

impl Optimiser {
    /// An optimiser with empty state over the parameters of a head and of an encoder of `depth` blocks,
    /// empty if that does not learn; their storage is shared.
    ///
    /// The learning rate of block `i` is `layer_decay^(depth - i)` times the head's, that of what comes
    /// before the blocks one power lower, that of the final norm the head's, as BEiT has it.
    ///
    /// Vectors, `pos_embed` and `cls_token` do not decay: an offset of the input is no weight to keep
    /// small. BEiT's lists say so too, but its code for segmentation compares them with names that begin with
    /// `backbone.`, so that by it the two decay.
    pub fn new(head: &StateDict, encoder: &StateDict, depth: i64, layer_decay: f64) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let of_head = head.iter().map(|(name, param)| (name.to_owned(), param, 1.0));
        let of_encoder = encoder.iter().map(|(name, param)| {
            let lr_scale = layer_decay.powi((depth + 1 - layer_of(name, depth)) as i32);
            (format!("backbone.{name}"), param, lr_scale)
        });
        for (name, param, lr_scale) in of_head.chain(of_encoder) {
            let is_token = name.ends_with("pos_embed") || name.ends_with("cls_token");
            let is_decayed = param.dim() > 1 && !is_token;
            let slot = AdamWSlot::new(name, param);
            let same =
                |group: &&mut Group| group.lr_scale == lr_scale && group.is_decayed == is_decayed;
            match groups.iter_mut().find(same) {
                Some(group) => group.slots.push(slot),
                None => groups.push(Group { lr_scale, is_decayed, slots: vec![slot] }),
            }
        }
        Self { groups }
    }

    /// Updates every parameter that has a gradient, and drops the gradients.
    pub fn step(&mut self, lr: f64, weight_decay: f64) -> Result<(), TorchError> {
        for Group { lr_scale, is_decayed, slots } in &self.groups {
            let with_grads: Vec<(&AdamWSlot, Tensor)> = slots
                .iter()
                .map(|slot| (slot, slot.param.grad()))
                .filter(|(_, grad)| grad.defined())
                .collect();
            let mut lists = AdamWLists::default();
            for (slot, grad) in &with_grads {
                lists.push(slot, grad);
            }
            let weight_decay = if *is_decayed { weight_decay } else { 0.0 };
            let group =
                torch_ext::AdamW { lr: lr * lr_scale, betas: BETAS, weight_decay, eps: EPS };
            fused_adamw(&lists, group, None)?;
        }
        let params: Vec<&Tensor> = self.slots().map(|slot| &slot.param).collect();
        clear_grads(&params)
    }

    /// The state as named tensors that share its storage.
    pub fn state(&self) -> StateDict {
        let mut state = StateDict::default();
        for (name, tensor) in self.slots().flat_map(AdamWSlot::state) {
            state.insert(name, tensor);
        }
        state
    }

    /// Takes over saved state.
    pub fn load(&mut self, saved: &StateDict) -> Result<(), StateError> {
        self.state().assign(saved)
    }

    fn slots(&self) -> impl Iterator<Item = &AdamWSlot> {
        self.groups.iter().flat_map(|group| &group.slots)
    }
}

/// 0 for what comes before the blocks, 1 to `depth` for the blocks, then the final norm.
fn layer_of(name: &str, depth: i64) -> i64 {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match block {
        Some(block) => 1 + i64::min(block, depth - 1),
        None if name.starts_with("norm.") => depth + 1,
        None => 0,
    }
}
