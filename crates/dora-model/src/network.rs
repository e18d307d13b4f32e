//! Encoder and projection head in one: what student and teacher are.

use rand::Rng;
use tch::{Device, Kind};

use crate::{HeadConfig, ProjectionHead, StateDict, StateError, Vit, VitConfig};

/// Sizes of a student or teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkConfig {
    /// The encoder.
    pub vit: VitConfig,
    /// The projection head.
    pub head: HeadConfig,
}

/// A student or teacher: encoder, head, and their parameters as one state dict with the prefixes
/// `backbone.` and `head.`.
#[derive(Debug)]
pub struct Network {
    /// The encoder.
    pub backbone: Vit,
    /// The projection head.
    pub head: ProjectionHead,
    state: StateDict,
}

impl Network {
    /// Fresh parameters for a configuration: float32 on the CPU.
    pub fn init(config: &NetworkConfig, rng: &mut impl Rng) -> StateDict {
        let backbone = Vit::init(&config.vit, rng);
        let HeadConfig { bottleneck_dim, .. } = config.head;
        // DINO makes this layer after it has initialised the others.
        let fan_in = |name: &str| (name == "last_layer.weight_v").then_some(bottleneck_dim);
        let head = StateDict::init(config.head.parameter_shapes(), fan_in, rng);
        backbone.with_prefix("backbone.").merge(head.with_prefix("head."))
    }

    /// A network with its own copy of the values of a state dict.
    pub fn new(
        config: &NetworkConfig,
        values: &StateDict,
        device: Device,
        kind: Kind,
        requires_grad: bool,
    ) -> Result<Self, StateError> {
        let state = values.copy_to(device, kind, requires_grad);
        Ok(Self {
            backbone: Vit::from_state(&config.vit, &state.strip_prefix("backbone."))?,
            head: ProjectionHead::from_state(&config.head, &state.strip_prefix("head."))?,
            state,
        })
    }

    /// The parameters by name; storage is shared with the network.
    pub fn state(&self) -> &StateDict {
        &self.state
    }
}
