//! What is wrong with a step whose numbers are not finite: looked for once, when it ends a run.

use dora_model::StateDict;
use tch::Tensor;

use super::{Engine, StepOutput};

/// The first bad tensor of a step that was skipped, and what the step worked on.
#[derive(Debug)]
pub struct NonFinite {
    /// Loss or gradient.
    pub what: &'static str,
    /// Name of the first tensor that is not finite; none if that is one of another rank or of an
    /// earlier batch of the step.
    pub tensor: Option<String>,
    /// The tensors of this rank's last batch, if one of them is bad.
    pub capture: Option<StateDict>,
}

impl Engine {
    /// Looks for the first bad tensor of the last step, which gave `output`. Waits for the device.
    pub fn non_finite(&mut self, output: &StepOutput) -> NonFinite {
        let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let params = self.student.state().iter();
        let (what, tensor) = if is_finite(&output.loss.total) {
            let norms = Vec::<f64>::try_from(&output.grad_norms).unwrap_or_default();
            let mut named = params.map(|(name, _)| name).zip(norms);
            ("gradient", named.find(|(_, norm)| !norm.is_finite()).map(|(name, _)| name))
        } else {
            let made = self.trace.iter().map(|(name, tensor)| (*name, tensor));
            (
                "loss",
                params.chain(made).find(|(_, tensor)| !is_finite(tensor)).map(|(name, _)| name),
            )
        };
        let tensor = tensor.map(str::to_owned);
        let trace = self.trace.drain(..).map(|(name, tensor)| (name.to_owned(), tensor));
        let capture: StateDict = trace.collect();
        NonFinite { what, capture: tensor.is_some().then_some(capture), tensor }
    }
}
