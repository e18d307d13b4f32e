//! UperNet against PyTorch's modules, and how its parameters learn.

use std::process::Command;

use dora_data::rng::{Draw, stream};
use dora_eval::semantic::{
    heads::{Head, Mode},
    optim::Optimiser,
    recipe::Recipe,
};
use dora_model::StateDict;
use tch::{Device, Kind, Tensor};

use super::recipe;
use crate::test_python;

const WIDTH: i64 = 24;
const CLASSES: i64 = 5;

fn upernet() -> (Recipe, Head) {
    let recipe = recipe(&["head.dropout=0.0"]);
    let head = Head::init(&recipe.head, WIDTH, CLASSES, 1, Device::Cpu);
    (recipe, head)
}

fn numbers(name: &str, size: &[i64]) -> Tensor {
    let mut draws = stream(3, name, &[]);
    let count = size.iter().product::<i64>();
    let numbers: Vec<f32> = (0..count).map(|_| draws.uniform(-1.0, 1.0) as f32).collect();
    Tensor::from_slice(&numbers).reshape(size)
}

#[test]
fn upernet_and_its_gradients_are_pytorch_s() {
    let Some(python) = test_python("PyTorch") else { return };
    let (recipe, head) = upernet();
    let folder = tempfile::tempdir().unwrap();
    let maps = [0, 1, 2, 3].map(|level| numbers(&format!("map {level}"), &[2, WIDTH, 5, 7]));
    let mut given = StateDict::default();
    for (name, tensor) in head.state().iter() {
        given.insert(name, tensor.detach().copy());
    }
    let mut rng = stream(0, "no dropout", &[]);
    let logits = head.forward(&maps, &mut Mode::Train(&mut rng));
    let auxiliary = logits.auxiliary.unwrap();
    let [of_main, of_auxiliary] =
        [&logits.main, &auxiliary].map(|logits| numbers("gradient", &logits.size()));
    let loss =
        (&logits.main * &of_main).sum(Kind::Float) + (&auxiliary * &of_auxiliary).sum(Kind::Float);
    loss.backward();
    // Running statistics have moved: those are what an image is judged by.
    let tested = head.forward(&maps, &mut Mode::Test).main;

    let of_maps =
        (0..).zip(&maps).map(|(level, map)| (format!("map.{level}"), map.shallow_clone()));
    let outputs = [
        ("out.main", &logits.main),
        ("out.auxiliary", &auxiliary),
        ("out.tested", &tested),
        ("of.main", &of_main),
        ("of.auxiliary", &of_auxiliary),
    ];
    of_maps.for_each(|(name, map)| given.insert(name, map));
    for (name, tensor) in outputs {
        given.insert(name, tensor.detach());
    }
    for (name, param) in head.params().iter() {
        given.insert(format!("grad.{name}"), param.grad());
    }
    let file = folder.path().join("upernet.safetensors");
    given.write(&file).unwrap();
    let auxiliary_level =
        recipe.head.blocks.iter().position(|block| *block == recipe.head.auxiliary_block).unwrap();
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/semantic/tools/upernet.py"))
        .arg(&file)
        .arg(auxiliary_level.to_string())
        .args(recipe.head.pool_sides.iter().map(ToString::to_string))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let errors: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = errors.as_object().unwrap();
    assert_eq!(errors.len(), 3 + head.params().iter().count());
    for (name, error) in errors {
        assert!(error.as_f64().unwrap() < 1e-4, "{name}: {error}");
    }
}

#[test]
fn blocks_learn_the_slower_the_deeper_they_lie() {
    let named = |names: &[&str], size: &[i64]| {
        let mut dict = StateDict::default();
        for name in names {
            let ones = Tensor::ones(size, (Kind::Float, Device::Cpu));
            dict.insert(*name, ones.set_requires_grad(true));
        }
        dict
    };
    let encoder = named(
        &["patch_embed.proj.weight", "pos_embed", "blocks.0.x", "blocks.11.x", "norm.weight"],
        &[1, 2],
    );
    let head = named(&["decode_head.conv_seg.weight"], &[1, 2]);
    let biases = named(&["decode_head.conv_seg.bias"], &[2]);
    let mut optimiser =
        Optimiser::new(&head.with_prefix("").merge(biases.with_prefix("")), &encoder, 12, 0.9);
    // Without a gradient only decay moves a parameter: by learning rate times decay.
    for (_, param) in encoder.iter().chain(head.iter()).chain(biases.iter()) {
        (param * 0.0).sum(Kind::Float).backward();
    }
    optimiser.step(0.1, 0.5).unwrap();
    let moved = |dict: &StateDict, name: &str| {
        1.0 - dict.get(name).unwrap().detach().mean(None).double_value(&[])
    };
    for (dict, name, power) in [
        (&head, "decode_head.conv_seg.weight", Some(0)),
        (&biases, "decode_head.conv_seg.bias", None),
        (&encoder, "norm.weight", Some(0)),
        (&encoder, "blocks.11.x", Some(1)),
        (&encoder, "blocks.0.x", Some(12)),
        (&encoder, "patch_embed.proj.weight", Some(13)),
        (&encoder, "pos_embed", None),
    ] {
        let expected = power.map_or(0.0, |power| 0.1 * 0.5 * 0.9_f64.powi(power));
        let found = moved(dict, name);
        assert!((found - expected).abs() < 1e-6, "{name}: {found} is not {expected}");
    }
}
