//! The scripts of the GPU kit, with stand-ins for its programs and for PyTorch.

use std::{fs, path::Path, process::Command, time::Instant};

use serde_json::Value;

use super::world::{World, ended};

/// Prints and leaves what the worker would; a bench takes a second, and one of ViT-B all memory.
const WORKER: &str = r#"#!/usr/bin/env python3
import json, os, struct, sys, time
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
if words[0] == "bench":
    time.sleep(1)
    if value("--arch") == "vit_base":
        sys.exit("error: the device is out of memory")
    figures = {"step_seconds": 0.5, "share_of_matrix_rate": 0.25, "images_per_s": 80.0, "matrix_flops_per_s": 1e12}
    figures |= {"arch": value("--arch"), "clips": int(value("--clips")), "precision": value("--precision")}
    open(value("--json"), "w").write(json.dumps(figures))
    if "--profile" in words:
        os.makedirs(value("--profile"))
        row = {"name": "gemm", "calls": 8, "total_us": 200000.0, "share": 1.0}
        calls = [{"name": "cudaStreamSynchronize", "calls": 6, "total_us": 1.0, "share": 1.0}]
        for name in ("kernels", "trace"):
            sums = {"steps": 2, "kernels": [row], "host_calls": calls}
            open(f"{value('--profile')}/{name}.json", "w").write(json.dumps(sums))
else:
    run = value("--run-dir")
    names = ("loss", "teacher_entropy", "teacher_mean_entropy", "kl", "step_s", "data_s", "device_wait_s", "images_per_s")
    os.makedirs(f"{run}/tracks", exist_ok=True)
    with open(f"{run}/metrics.jsonl", "w") as lines:
        for step in range(1, 25):
            lines.write(json.dumps({"step": step, **dict.fromkeys(names, 1 / step)}) + "\n")
    open(f"{run}/tracks/step-24.png", "w").write("picture")
    tensor = struct.pack("<2f", 0.5, -2.0)
    name = "backbone.norm.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for step in [6] + [24] * (run[-6:] != "killed" or os.path.exists(f"{run}/checkpoints")):
        os.makedirs(f"{run}/checkpoints/step-{step}", exist_ok=True)
        for role in ("student", "teacher"):
            with open(f"{run}/checkpoints/step-{step}/{role}.safetensors", "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header + tensor)
    if run.endswith("killed") and not os.path.exists(f"{run}/checkpoints/step-24"):
        time.sleep(60)
"#;

/// Whose golden tests pass, and whose NCCL fails.
const TESTS: &str = r#"#!/bin/sh
case $1 in
    reference::) echo "step: mean on Cuda(0)"; echo "test result: ok. 24 passed; 0 failed; 0 ignored" ;;
    *) echo "no NCCL here"; exit 101 ;;
esac
"#;

fn kit(name: &str) -> World {
    let world = World::new(name);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/gpu_kit");
    fs::create_dir_all(world.path("kit")).unwrap();
    for script in fs::read_dir(scripts).unwrap() {
        let script = script.unwrap().path();
        fs::copy(&script, world.path("kit").join(script.file_name().unwrap())).unwrap();
    }
    world.write("kit/kit.json", r#"{"made": "today", "commit": "abc"}"#);
    world.write("kit/stores/walk.store/header", "");
    world.script("kit/bin/tests", "");
    world.script("kit/bin/dora-train", "");
    world.write("kit/bin/tests", TESTS);
    world.write("kit/bin/dora-train", WORKER);
    world.write("python/torch/__init__.py", "");
    world.write("python/torch/version.py", "__version__ = '2.11.0+cu130'\n");
    world
}

fn run(world: &World, line: &str) -> (i32, String) {
    let mut command = Command::new("sh");
    command.arg(world.path("kit/run.sh")).args(line.split(' '));
    command.arg("--out").arg(world.path("results")).env("PYTHONPATH", world.path("python"));
    ended(command.output().unwrap())
}

fn results(world: &World) -> Value {
    serde_json::from_slice(&fs::read(world.path("results/results.json")).unwrap()).unwrap()
}

#[test]
fn a_part_that_fails_is_recorded_and_the_next_ones_run() {
    let world = kit("gpu-kit");
    let (status, text) = run(&world, "--device cpu --quick");
    assert_eq!(status, 1, "{text}");
    let parts = results(&world)["parts"].as_array().unwrap().clone();
    let of = |key: &str| -> Vec<String> {
        parts.iter().map(|part| part[key].as_str().unwrap().to_owned()).collect()
    };
    let expected = ["FAILED", "passed", "FAILED", "passed", "passed", "passed"];
    assert_eq!(of("status"), expected, "{:?}", of("result"));
    let said = of("result");
    assert!(said[0].contains("load no libtorch"), "{said:?}");
    assert!(
        said[1].contains("24 golden tests passed") && said[1].contains("identical"),
        "{said:?}"
    );
    assert!(said[2].contains("nccl: status 101: no NCCL here"), "{said:?}");
    assert_eq!(parts[3]["profile"]["waits_a_step"], 3.0);
    // Encoder alone, in float16: 0.5 and -2.
    let teacher = fs::read(world.path("results/teacher.safetensors.0")).unwrap();
    assert!(teacher.ends_with(&[0x00, 0x38, 0x00, 0xc0]), "{teacher:?}");
    assert!(String::from_utf8_lossy(&teacher).contains("\"norm.weight\""));
    let mut files: Vec<String> = fs::read_dir(world.path("results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let expected = [
        "logs.tar.gz",
        "pictures.tar",
        "profile.tar.gz",
        "results.json",
        "results.md",
        "teacher.safetensors.0",
    ];
    assert_eq!(files, expected);
    let table = fs::read_to_string(world.path("results/results.md")).unwrap();
    assert!(table.contains("| vit_tiny | 1 | float32 | 500.0 ms | 0.250 | 80 |"), "{table}");
}

#[test]
fn a_kit_ends_in_its_time_and_says_what_it_left_out() {
    let world = kit("gpu-kit-time");
    let started = Instant::now();
    let (status, text) = run(&world, "--device cuda --parts 4 --minutes 0.3");
    let seconds = started.elapsed().as_secs_f64();
    assert!(seconds < 30.0, "{seconds} s: {text}");
    assert_eq!(status, 0, "{text}");
    let found = results(&world);
    let steps = found["parts"][0]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 18);
    assert_eq!(steps[0]["dora"]["clips"], 16);
    let errors = |arch: &str| -> Vec<&Value> {
        steps.iter().filter(|step| step["arch"] == arch).map(|step| &step["error"]).collect()
    };
    assert!(errors("vit_base").contains(&&"no time left".into()), "{steps:?}");
    let table = fs::read_to_string(world.path("results/results.md")).unwrap();
    assert!(table.contains("the kit was packed without the peers"), "{table}");
}

#[test]
fn another_pytorch_is_refused() {
    let world = kit("gpu-kit-torch");
    world.write("python/torch/version.py", "__version__ = '2.12.0'\n");
    let (status, text) = run(&world, "--device cpu");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("is version 2.12.0, and the kit was built for 2.11"), "{text}");
    let (status, text) = run(&world, "--parts 1,9");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("--parts takes numbers from 1 to 6"), "{text}");
}
