//! Training's batches as `bench step --with-loader` takes them.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use crate::workbench::{Workbench, assert_refused, assert_trained};

fn bench_step(bench: &Workbench, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
    command.args(["bench", "step", "--steps", "3", "--with-loader", "--recipe"]);
    command.arg(bench.path("recipe.toml")).args(words).env("OMP_NUM_THREADS", "1");
    command.output().unwrap()
}

#[test]
fn steps_from_a_store_are_measured_beside_those_on_synthetic_frames() {
    let bench = Workbench::new();
    let (store, json) = (bench.path("walk.store"), bench.path("step.json"));
    let paths = [&store, &json].map(|path| path.to_str().unwrap());
    let words = ["--store", paths[0], "--json", paths[1]];
    let accumulated = ["--set", "train.gradient_accumulation_steps=2"];
    let output = bench_step(&bench, &[&words[..], &accumulated].concat());
    assert_trained(&output);
    let figures: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let number = |key: &str| figures["with_loader"][key].as_f64().unwrap();
    assert!(number("step_seconds") > 0.0 && number("ratio") > 0.0, "{figures}");
    assert!(number("data_seconds") < number("step_seconds"), "{figures}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("step with loader"), "{table}");
}

#[test]
fn a_store_that_cannot_feed_a_bench_gets_one_sentence() {
    let bench = Workbench::new();
    let missing = bench.path("missing.store");
    let output = bench_step(&bench, &["--store", missing.to_str().unwrap()]);
    assert_refused(&output, &["missing.store"]);
    bench.damage("walk.store");
    let store = bench.path("walk.store");
    let output = bench_step(&bench, &["--store", store.to_str().unwrap()]);
    assert_refused(&output, &["frame", "walk.store"]);
}
