//! The factor of the loss under float16, whose small gradients would otherwise be zero (Micikevicius
//! et al. 2018). Values and rule are those of `torch.amp.GradScaler`.

use tch::Tensor;

const START: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u32 = 2000;
/// Below this, the gradients do not overflow because of the factor.
const SMALLEST: f64 = 1.0;

/// A factor that halves when gradients overflow and doubles when they have not for long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaler {
    scale: f64,
    good_steps: u32,
}

impl Default for LossScaler {
    fn default() -> Self {
        Self { scale: START, good_steps: 0 }
    }
}

impl LossScaler {
    /// The factor now.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Takes note of a step; returns whether it is to be skipped and its gradients forgotten: they
    /// overflowed, and a smaller factor may help.
    pub fn update(&mut self, overflowed: bool) -> bool {
        if overflowed {
            let can_shrink = self.scale > SMALLEST;
            (self.scale, self.good_steps) = (self.scale * BACKOFF, 0);
            return can_shrink;
        }
        self.good_steps += 1;
        if self.good_steps == GROWTH_INTERVAL {
            (self.scale, self.good_steps) = (self.scale * GROWTH, 0);
        }
        false
    }

    /// Factor and good steps as one tensor of float64.
    pub(crate) fn state(&self) -> Tensor {
        Tensor::from_slice(&[self.scale, f64::from(self.good_steps)])
    }

    /// Takes over what [`LossScaler::state`] gave.
    pub(crate) fn load(&mut self, state: &Tensor) {
        self.scale = state.double_value(&[0]);
        self.good_steps = state.double_value(&[1]) as u32;
    }
}
