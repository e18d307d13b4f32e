//! Twenty steps of the toy recipe against the losses they have always had: what makes a step faster
//! must not change it.

use std::{fs, path::Path};

use crate::workbench::{Workbench, assert_trained};

/// Loss, gradient norm and teacher's entropy of each step; made on the CPU in float32.
const CURVE: &str = include_str!("toy_curve.json");
/// Other vector units moved the figures by at most 1e-6 of themselves.
const TOLERANCE: f64 = 1e-4;

#[test]
fn twenty_toy_steps_keep_their_losses() {
    let bench = Workbench::new();
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/toy.toml");
    fs::copy(toy, bench.path("recipe.toml")).unwrap();
    let set = [
        "train.length=20 steps",
        "train.lr_warmup=4 steps",
        "train.freeze_last_layer=4 steps",
        "train.clips=2",
        "train.lr=0.02",
        "train.precision=float32",
        "train.device=cpu",
    ];
    assert_trained(&bench.train("run", &set));
    let text = fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    let found: Vec<[f64; 3]> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            ["loss", "grad_norm", "teacher_entropy"].map(|name| line[name].as_f64().unwrap())
        })
        .collect();
    let expected: Vec<[f64; 3]> = serde_json::from_str(CURVE).unwrap();
    let shown = serde_json::to_string(&found).unwrap();
    assert_eq!(found.len(), expected.len(), "{shown}");
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let off = (found - expected).abs() / expected.abs();
            assert!(off < TOLERANCE, "step {}: {found}, not {expected}; all: {shown}", step + 1);
        }
    }
}
