//! The factor of the loss under float16, whose small gradients would otherwise be zero (Micikevicius
//! et al. 2018). Values and rule are those of `torch.amp.GradScaler`.

use tch::Tensor;

const START: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: f64 = 2000.0;
/// Below this, the gradients do not overflow because of the factor.
const SMALLEST: f64 = 1.0;

/// A factor that halves when gradients overflow and doubles when they have not for long.
#[derive(Debug)]
pub struct LossScaler {
    /// Factor and good steps since it changed, as a checkpoint keeps them and ranks share them.
    state: Tensor,
}

impl Default for LossScaler {
    fn default() -> Self {
        Self { state: Tensor::from_slice(&[START, 0.0]) }
    }
}

impl LossScaler {
    /// The factor now.
    pub fn scale(&self) -> f64 {
        self.state.double_value(&[0])
    }

    /// Takes note of a step; returns whether it is to be skipped and its gradients forgotten: they
    /// overflowed, and a smaller factor may help.
    pub fn update(&mut self, overflowed: bool) -> bool {
        let (scale, good_steps) = (self.scale(), self.state.double_value(&[1]) + 1.0);
        if overflowed {
            self.set(scale * BACKOFF, 0.0);
            return scale > SMALLEST;
        }
        if good_steps == GROWTH_INTERVAL {
            self.set(scale * GROWTH, 0.0);
        } else {
            self.set(scale, good_steps);
        }
        false
    }

    /// Factor and good steps, `[2]` in float64 on the CPU; storage is shared.
    pub(crate) fn state(&self) -> &Tensor {
        &self.state
    }

    fn set(&mut self, scale: f64, good_steps: f64) {
        self.state.copy_(&Tensor::from_slice(&[scale, good_steps]));
    }
}
