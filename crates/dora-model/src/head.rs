//! The projection head (Caron et al. 2021): an MLP, L2 normalisation and a weight-normalised linear
//! layer to the prototypes.

use tch::Tensor;

use crate::{StateDict, StateError, state::ParameterShape};

/// Sizes of the projection head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// Width of the encoder.
    pub in_dim: i64,
    /// Width of the two hidden layers.
    pub hidden_dim: i64,
    /// Width of the layer before the prototypes.
    pub bottleneck_dim: i64,
    /// Number of prototypes.
    pub out_dim: i64,
}

/// Projects `[CLS]` tokens to logits over the prototypes.
#[derive(Debug)]
pub struct ProjectionHead {
    mlp: [(Tensor, Tensor); 3],
    weight_g_O1: Tensor,
    weight_v_OI: Tensor,
}

impl ProjectionHead {
    /// A head over the tensors of a state dict, whose storage it shares.
    pub fn from_state(config: &HeadConfig, state: &StateDict) -> Result<Self, StateError> {
        state.check_shapes(&config.parameter_shapes())?;
        let layer = |index: usize| -> Result<_, StateError> {
            let [weight, bias] = ["weight", "bias"].map(|n| state.get(&format!("mlp.{index}.{n}")));
            Ok((weight?, bias?))
        };
        Ok(Self {
            mlp: [layer(0)?, layer(2)?, layer(4)?],
            weight_g_O1: state.get("last_layer.weight_g")?,
            weight_v_OI: state.get("last_layer.weight_v")?,
        })
    }

    /// Logits `[N, out_dim]` of tokens `[N, in_dim]`, divided by a temperature: before the last layer,
    /// which is linear and has by far the most outputs.
    pub fn forward(&self, tokens_ND: &Tensor, temperature: f64) -> Tensor {
        let [first, second, third] = &self.mlp;
        let hidden = linear(tokens_ND, first).gelu("none");
        let hidden = linear(&hidden, second).gelu("none");
        let bottleneck = linear(&hidden, third);
        let unit = &bottleneck / (norm(&bottleneck).clamp_min(1e-12) * temperature);
        let weight_OI = Tensor::internal_weight_norm(&self.weight_v_OI, &self.weight_g_O1, 0);
        unit.linear(&weight_OI, None::<Tensor>)
    }
}

impl HeadConfig {
    pub(crate) fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let Self { in_dim, hidden_dim, bottleneck_dim, out_dim } = *self;
        vec![
            ("mlp.0.weight".into(), vec![hidden_dim, in_dim]),
            ("mlp.0.bias".into(), vec![hidden_dim]),
            ("mlp.2.weight".into(), vec![hidden_dim, hidden_dim]),
            ("mlp.2.bias".into(), vec![hidden_dim]),
            ("mlp.4.weight".into(), vec![bottleneck_dim, hidden_dim]),
            ("mlp.4.bias".into(), vec![bottleneck_dim]),
            ("last_layer.weight_g".into(), vec![out_dim, 1]),
            ("last_layer.weight_v".into(), vec![out_dim, bottleneck_dim]),
        ]
    }
}

fn linear(input: &Tensor, (weight, bias): &(Tensor, Tensor)) -> Tensor {
    input.linear(weight, Some(bias))
}

fn norm(rows: &Tensor) -> Tensor {
    rows.norm_scalaropt_dim(2, [-1], true)
}
