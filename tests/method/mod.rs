//! What must hold of the method for any input, beyond the reference tensors.

mod checkpointing;
mod discovery;
pub(crate) mod engine;
mod losses;
mod schedules;
mod sinkhorn;
mod tracking;

use proptest::{prelude::*, test_runner::Config};
use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};
use tch::{Device, Kind, Tensor};

/// Fewer cases than proptest's default: each one runs tensors of real rank.
fn cases() -> Config {
    Config { cases: 48, failure_persistence: None, ..Config::default() }
}

/// A tensor of values in [-1, 1] that a seed decides.
pub(crate) fn uniform(seed: u64, shape: &[i64], kind: Kind) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product::<i64>();
    let values: Vec<f64> =
        (0..count).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0).collect();
    Tensor::from_slice(&values).reshape(shape).to_kind(kind).to_device(Device::Cpu)
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// A random order of `n` things as an index tensor.
fn order(seed: u64, n: i64) -> Tensor {
    uniform(seed, &[n], Kind::Double).argsort(0, false)
}

/// Clips, patches and objects.
fn sizes() -> impl Strategy<Value = (i64, i64, i64)> {
    (1..4i64, 2..60i64, 1..6i64)
}
