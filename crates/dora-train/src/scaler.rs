//! The factor of the loss under float16, whose small gradients would otherwise be zero (Micikevicius
//! et al. 2018). Values and rule are those of `torch.amp.GradScaler`.

use dora_model::StateDict;
use tch::{Device, Kind, Tensor};
use torch_ext::{TorchError, update_loss_scale};

const START: f64 = (1u64 << MOST_OVERFLOWS) as f64;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;

/// Steps in a row that the factor itself may cost, until it is down from its start to 1.
pub const MOST_OVERFLOWS: u32 = 16;

/// A factor that halves when gradients overflow and doubles when they have not for long. It lies on the
/// device, so that no step waits for it.
#[derive(Debug)]
pub struct LossScaler {
    scale: Tensor,
    good_steps: Tensor,
}

impl LossScaler {
    /// The factor of a first step.
    pub fn new(device: Device) -> Self {
        Self {
            scale: Tensor::full([], START, (Kind::Float, device)),
            good_steps: Tensor::zeros([], (Kind::Int, device)),
        }
    }

    /// The factor now, a float32 scalar.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }

    /// Takes note of a step, and of whether it was skipped: 1 or 0 in float32.
    pub fn update(&mut self, skipped: &Tensor) -> Result<(), TorchError> {
        let Self { scale, good_steps } = self;
        update_loss_scale(scale, good_steps, skipped, GROWTH, BACKOFF, GROWTH_INTERVAL)
    }

    /// Factor, and good steps since it changed; storage is shared.
    pub(crate) fn state(&self) -> StateDict {
        let mut state = StateDict::default();
        state.insert("loss_scale", self.scale.shallow_clone());
        state.insert("loss_scale_good_steps", self.good_steps.shallow_clone());
        state
    }
}
