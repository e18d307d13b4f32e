//! The other processes of a run, as the engine sees them.

use std::rc::Rc;

use dora_model::StateDict;
use tch::Tensor;
use torch_ext::{ProcessGroup, Reducer, TorchError};

/// Gradients are reduced in pieces of this size, as PyTorch's DistributedDataParallel does.
const BUCKET_BYTES: i64 = 25 << 20;

/// The processes that take the same steps.
#[derive(Debug)]
pub(super) struct Ranks {
    pub(super) group: Rc<ProcessGroup>,
    pub(super) reducer: Reducer,
}

impl Ranks {
    /// The ranks of a group, whose gradients of a student are averaged from now on.
    pub(super) fn new(group: Rc<ProcessGroup>, student: &StateDict) -> Result<Self, TorchError> {
        let reducer = Reducer::new(&group, &in_ready_order(student), BUCKET_BYTES)?;
        Ok(Self { group, reducer })
    }
}

/// Parameters in about the order in which backward finishes their gradients, so that full buckets are
/// reduced early. Buckets are never laid out anew: how sums round would depend on how long a process
/// has run.
fn in_ready_order(state: &StateDict) -> Vec<&Tensor> {
    let place = |name: &str| -> i64 {
        let number = |text: &str| text.split('.').next().and_then(|text| text.parse().ok());
        if let Some(rest) = name.strip_prefix("backbone.blocks.") {
            -number(rest).unwrap_or(0)
        } else if let Some(rest) = name.strip_prefix("head.mlp.") {
            -1_000_000 - number(rest).unwrap_or(0)
        } else if name.starts_with("head.") {
            -3_000_000
        } else if name.starts_with("backbone.norm.") {
            -1_000_000 + 1
        } else {
            1
        }
    };
    let mut params: Vec<(&str, &Tensor)> = state.iter().collect();
    params.sort_by_key(|(name, _)| place(name));
    params.into_iter().map(|(_, tensor)| tensor).collect()
}
