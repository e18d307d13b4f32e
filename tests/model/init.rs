//! Fresh weights: each parameter's distribution is the one that the released code leaves it with.

use dora_data::rng::stream;
use dora_model::{HeadConfig, Network, NetworkConfig, StateDict, VitConfig};
use tch::{Kind, Tensor};

const CONFIG: NetworkConfig = NetworkConfig {
    vit: VitConfig {
        patch_px: 8,
        width: 192,
        depth: 2,
        heads: 3,
        mlp_ratio: 4,
        image_px: 64,
        norm_eps: 1e-6,
    },
    head: HeadConfig { in_dim: 192, hidden_dim: 256, bottleneck_dim: 64, out_dim: 1024 },
};

fn init(seed: u64) -> StateDict {
    Network::init(&CONFIG, &mut stream(seed, "weights", &[]))
}

fn statistics(values: &Tensor) -> [f64; 3] {
    let values = values.to_kind(Kind::Double);
    let root_mean_square = values.square().mean(Kind::Double).sqrt();
    [values.mean(Kind::Double), root_mean_square, values.abs().max()].map(|t| t.double_value(&[]))
}

/// Fails unless values lie within `1 / sqrt(fan_in)`, reach near it, and spread as a uniform
/// distribution does.
#[track_caller]
fn assert_uniform(values: &Tensor, fan_in: f64) {
    let bound = 1.0 / fan_in.sqrt();
    let [mean, spread, largest] = statistics(values);
    let count = values.numel() as f64;
    assert!(largest <= bound * (1.0 + 1e-6) && largest > 0.95 * bound, "{largest} of {bound}");
    assert!((spread / bound * 3f64.sqrt() - 1.0).abs() < 2.0 / count.sqrt(), "spread {spread}");
    assert!(mean.abs() < 4.0 * spread / count.sqrt(), "mean {mean}");
}

#[test]
fn each_parameter_has_the_distribution_of_the_released_code() {
    let mut normal = 0;
    for (name, values) in init(1).iter() {
        match name {
            "backbone.patch_embed.proj.weight" | "backbone.patch_embed.proj.bias" => {
                assert_uniform(values, 3.0 * 8.0 * 8.0);
            }
            "head.last_layer.weight_v" => assert_uniform(values, 64.0),
            "head.last_layer.weight_g" => assert_eq!(statistics(&(values - 1)), [0.0; 3]),
            _ if name.ends_with(".bias") => assert_eq!(statistics(values), [0.0; 3], "{name}"),
            _ if name.contains("norm") => assert_eq!(statistics(&(values - 1)), [0.0; 3], "{name}"),
            _ => {
                let [mean, spread, largest] = statistics(values);
                let count = values.numel() as f64;
                assert!((spread / 0.02 - 1.0).abs() < 4.0 / count.sqrt(), "{name}: {spread}");
                assert!(mean.abs() < 5.0 * 0.02 / count.sqrt(), "{name}: mean {mean}");
                // A normal distribution reaches further than any uniform one of this spread.
                assert!(largest > 0.045, "{name}: {largest}");
                normal += 1;
            }
        }
    }
    // [CLS] token, positions, four matrices a block, three of the head.
    assert_eq!(normal, 2 + 2 * 4 + 3);
}

#[test]
fn weights_are_a_function_of_the_seed() {
    let [first, again, other] = [1, 1, 2].map(init);
    for (name, values) in first.iter() {
        assert_eq!(*values, again.get(name).unwrap(), "{name}");
        let is_drawn = statistics(&(values - values.flatten(0, -1).get(0)))[2] > 0.0;
        assert_eq!(*values == other.get(name).unwrap(), !is_drawn, "{name}");
    }
}
