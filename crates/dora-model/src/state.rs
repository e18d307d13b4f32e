//! Named tensors in a fixed order: what checkpoints hold and optimisers walk over.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, TchError, Tensor};

/// Why a state dict could not be read or does not fit a model.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written as safetensors.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's or the format's reason.
        reason: String,
    },
    /// The model needs a tensor that is not there.
    #[error("the tensor `{0}` is missing")]
    Missing(String),
    /// A tensor does not have the shape that the model's configuration gives.
    #[error("the tensor `{name}` has the shape {found:?}, but the model needs {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape of the model.
        expected: Vec<i64>,
    },
    /// A tensor has a shape that no such model gives it.
    #[error("the tensor `{name}` has the shape {found:?}, and a ViT has {why} there")]
    Unfit {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// What a model has there.
        why: &'static str,
    },
}

impl StateError {
    fn file(action: &'static str, path: &Path, error: TchError) -> Self {
        let reason = match error {
            // tch's own text names the file once more.
            TchError::SafeTensorError { err, .. } => safetensors_reason(&format!("{err:?}")),
            // The lines after it are libtorch's calls.
            other => other.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        Self::File { action, path: path.into(), reason }
    }
}

/// What the safetensors crate says only as the name of its variant.
fn safetensors_reason(variant: &str) -> String {
    let reason = match variant.split('(').next().unwrap_or_default() {
        "MetadataIncompleteBuffer" => "it is cut off, or longer than its tensors",
        "HeaderTooSmall" | "InvalidHeaderLength" => "it is cut off, or no safetensors file",
        "HeaderTooLarge" => "its header is longer than 100 MB",
        "InvalidHeader" | "InvalidHeaderStart" => "it is damaged, or no safetensors file",
        "InvalidHeaderDeserialization" => {
            "its header is damaged, or has dtypes that are not known here"
        }
        "TensorInvalidInfo" | "InvalidOffset" | "ValidationOverflow" => {
            "its header gives a tensor a size that does not fit its values"
        }
        // The system's: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" }).
        "IoError" => variant.split('"').nth(1).unwrap_or(variant),
        _ => variant,
    };
    reason.to_owned()
}

/// Name and shape of a parameter.
pub(crate) type ParameterShape = (String, Vec<i64>);

/// Tensors by name, sorted, so that every walk over them has the same order on every machine.
#[derive(Debug, Default)]
pub struct StateDict(BTreeMap<String, Tensor>);

impl StateDict {
    /// Fresh parameters in float32 on the CPU: weights from a normal distribution of standard
    /// deviation 0.02 truncated at 2, biases 0, scales of norms and of the last layer 1.
    ///
    /// A parameter for which `fan_in` gives a number keeps the default of PyTorch's layers instead,
    /// uniform within `1 / sqrt(fan_in)`: the released code never initialises it.
    pub(crate) fn init(
        shapes: Vec<ParameterShape>,
        fan_in: impl Fn(&str) -> Option<i64>,
        rng: &mut impl Rng,
    ) -> Self {
        let parameter = |(name, shape): ParameterShape| {
            let values = match fan_in(&name) {
                Some(fan_in) => uniform(&shape, 1.0 / (fan_in as f32).sqrt(), rng),
                None => init(&name, &shape, rng),
            };
            (name, values)
        };
        Self(shapes.into_iter().map(parameter).collect())
    }

    /// Reads a safetensors file; tensors arrive on the CPU with the dtypes of the file.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let tensors = Tensor::read_safetensors(path)
            .map_err(|error| StateError::file("read", path, error))?;
        let is_odd = |name: &&String| name.chars().any(char::is_control);
        if let Some(name) = tensors.iter().map(|(name, _)| name).find(is_odd) {
            let reason = format!("it has control characters in the name `{}`", name.escape_debug());
            return Err(StateError::File { action: "read", path: path.into(), reason });
        }
        Ok(Self(tensors.into_iter().collect()))
    }

    /// Writes a safetensors file with the tensors' own dtypes.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let tensors: Vec<(&str, Tensor)> = self
            .iter()
            .map(|(name, tensor)| (name, tensor.detach().to_device(Device::Cpu).contiguous()))
            .collect();
        Tensor::write_safetensors(&tensors, path)
            .map_err(|error| StateError::file("write", path, error))
    }

    /// The tensor of a name, sharing its storage.
    pub fn get(&self, name: &str) -> Result<Tensor, StateError> {
        self.0
            .get(name)
            .map(Tensor::shallow_clone)
            .ok_or_else(|| StateError::Missing(name.to_owned()))
    }

    /// Whether every parameter of a model is here with its shape.
    pub(crate) fn check_shapes(&self, shapes: &[ParameterShape]) -> Result<(), StateError> {
        shapes.iter().try_for_each(|(name, shape)| self.get_shaped(name, shape).map(drop))
    }

    fn get_shaped(&self, name: &str, expected: &[i64]) -> Result<Tensor, StateError> {
        let tensor = self.get(name)?;
        let found = tensor.size();
        if found != expected {
            let (name, expected) = (name.to_owned(), expected.to_vec());
            return Err(StateError::Shape { name, found, expected });
        }
        Ok(tensor)
    }

    /// Adds a tensor or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// The tensors whose names open with `prefix`, named without it; storage is shared.
    pub fn strip_prefix(&self, prefix: &str) -> Self {
        let rest = |(name, tensor): (&str, &Tensor)| {
            name.strip_prefix(prefix).map(|name| (name.to_owned(), tensor.shallow_clone()))
        };
        Self(self.iter().filter_map(rest).collect())
    }

    /// The same tensors under names that open with `prefix`; storage is shared.
    pub fn with_prefix(&self, prefix: &str) -> Self {
        Self(self.iter().map(|(n, t)| (format!("{prefix}{n}"), t.shallow_clone())).collect())
    }

    /// Both dicts in one.
    pub fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Copies in another dtype and on another device that share nothing with these and ask for
    /// gradients or not.
    pub fn copy_to(&self, device: Device, kind: Kind, requires_grad: bool) -> Self {
        let copy = |tensor: &Tensor| {
            tensor.detach().to_device(device).to_kind(kind).copy().set_requires_grad(requires_grad)
        };
        Self(self.iter().map(|(name, tensor)| (name.to_owned(), copy(tensor))).collect())
    }

    /// Copies the values of another dict with the same names and shapes into these tensors.
    pub fn assign(&self, values: &Self) -> Result<(), StateError> {
        tch::no_grad(|| {
            for (name, tensor) in self.iter() {
                let value = values.get_shaped(name, &tensor.size())?;
                tensor.shallow_clone().copy_(&value);
            }
            Ok(())
        })
    }

    /// Names and tensors in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensors in the order of their names.
    pub fn tensors(&self) -> Vec<&Tensor> {
        self.0.values().collect()
    }

    /// Number of values in all tensors.
    pub fn numel(&self) -> usize {
        self.0.values().map(Tensor::numel).sum()
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

fn init(name: &str, shape: &[i64], rng: &mut impl Rng) -> Tensor {
    const STD: f64 = 0.02;
    const CUT: f64 = 2.0;
    if name.ends_with(".bias") {
        return Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    }
    let is_norm_scale = name.contains("norm") && name.ends_with(".weight");
    if is_norm_scale || name.ends_with(".weight_g") {
        return Tensor::ones(shape, (Kind::Float, Device::Cpu));
    }
    let draws = std::iter::repeat_with(|| {
        let normal: f64 = StandardNormal.sample(rng);
        normal * STD
    });
    fill(shape, draws.filter(|value| value.abs() <= CUT).map(|value| value as f32))
}

fn uniform(shape: &[i64], bound: f32, rng: &mut impl Rng) -> Tensor {
    fill(shape, std::iter::repeat_with(|| rng.random_range(-bound..=bound)))
}

fn fill(shape: &[i64], values: impl Iterator<Item = f32>) -> Tensor {
    let values: Vec<f32> = values.take(shape.iter().product::<i64>() as usize).collect();
    Tensor::from_slice(&values).reshape(shape)
}
