//! Reference tensors in `tests/golden`, from an independent statement of the method in PyTorch.
//!
//! Every size and scalar comes from the files; `DORA_GOLDEN` names another folder with the same
//! names, such as one with other sizes and numbers. `DORA_TEST_DEVICE=cuda` compares on a GPU.

mod classification;
mod devices;
mod discovery;
mod images;
mod method;
mod miou;
mod network;
mod propagation;
mod runs;

use std::{env, fs, path::PathBuf};

use dora_model::{HeadConfig, NetworkConfig, StateDict, VitConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::device;

/// Names a folder in place of `tests/golden`.
const FOLDER: &str = "DORA_GOLDEN";

/// Largest error of float32 outputs, as a share of the tensor's largest magnitude.
const FORWARD: f64 = 1e-5;
/// The same for gradients.
const GRADIENT: f64 = 1e-4;

/// A golden file: its tensors and the scalars in its metadata.
struct Golden {
    tensors: StateDict,
    meta: Value,
}

impl Golden {
    /// The file of a name; in a folder of others it may be missing, which this then says.
    fn find(name: &str) -> Option<Self> {
        if env::var_os(FOLDER).is_some() && !Self::path(name).exists() {
            println!("skipped: there is no {}", Self::path(name).display());
            return None;
        }
        Some(Self::read(name))
    }

    fn path(name: &str) -> PathBuf {
        let folder = env::var_os(FOLDER).map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")),
            PathBuf::from,
        );
        folder.join(format!("{name}.safetensors"))
    }

    fn read(name: &str) -> Self {
        let path = Self::path(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let meta = match header["__metadata__"]["meta"].as_str() {
            Some(meta) => serde_json::from_str(meta).unwrap(),
            None => Value::Null,
        };
        Self { tensors: StateDict::read(&path).unwrap(), meta }
    }

    /// A tensor on the device under test.
    fn get(&self, name: &str) -> Tensor {
        self.on_cpu(name).to_device(device())
    }

    /// A tensor for what works on the CPU wherever its input comes from.
    fn on_cpu(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap()
    }

    fn number(&self, name: &str) -> f64 {
        self.meta[name].as_f64().unwrap_or_else(|| panic!("scalar {name}"))
    }

    fn integer(&self, name: &str) -> i64 {
        self.meta[name].as_i64().unwrap_or_else(|| panic!("scalar {name}"))
    }
}

/// The encoder and head whose weights `vit` and `head` hold.
fn network_config(vit: &Golden, head: &Golden) -> NetworkConfig {
    let vit = VitConfig {
        patch_px: vit.integer("patch"),
        width: vit.integer("dim"),
        depth: vit.integer("depth"),
        heads: vit.integer("heads"),
        mlp_ratio: vit.integer("mlp_ratio"),
        image_px: vit.integer("img"),
        norm_eps: vit.number("eps"),
    };
    let head = HeadConfig {
        in_dim: vit.width,
        hidden_dim: head.integer("hidden"),
        bottleneck_dim: head.integer("bottleneck"),
        out_dim: head.integer("out_dim"),
    };
    NetworkConfig { vit, head }
}

fn network_weights(vit: &Golden, head: &Golden) -> StateDict {
    let backbone = vit.tensors.strip_prefix("weights.").with_prefix("backbone.");
    backbone.merge(head.tensors.strip_prefix("weights.").with_prefix("head."))
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
}

/// Fails unless `actual` is within `tolerance` of `expected`, relative to its largest magnitude.
#[track_caller]
fn check(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.size(), expected.size(), "shape of {what}");
    let error = relative_error(actual, expected);
    assert!(error <= tolerance, "{what}: error {error:.2e} is over {tolerance:.0e}");
}

/// The largest difference of two tensors of one size, as a share of `expected`'s largest magnitude.
fn relative_error(actual: &Tensor, expected: &Tensor) -> f64 {
    let [actual, expected] =
        [actual, expected].map(|tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]);
    (actual - expected).abs().max().double_value(&[]) / largest
}
