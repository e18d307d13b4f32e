//! `dora-train bench` as users start it, and the count of operations behind its figures.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use dora_train::{
    bench::{
        flops::StepFlops,
        profile::{Profile, Row},
        split_overrides,
    },
    recipe::Recipe,
};
use serde_json::Value;
use tempfile::TempDir;

/// A step of milliseconds: the smallest encoder on tiny views, 2 frames of one clip.
const TINY: [&str; 9] = [
    "model.image_px=32",
    "model.out_dim=32",
    "model.hidden_dim=16",
    "model.bottleneck_dim=8",
    "clip.frames_per_clip=2",
    "crop.px=48",
    "views.global_px=32",
    "views.local_px=16",
    "views.local_crops=1",
];

fn bench(words: &[&str], json: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
    command.args(["bench", "step", "--arch", "vit_tiny", "--set", "train.device=cpu"]);
    for text in TINY {
        command.args(["--set", text]);
    }
    command.args(words).arg("--json").arg(json);
    command.env("OMP_NUM_THREADS", "1").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The figures that a bench wrote, after it succeeded.
fn figures(output: &Output, json: &Path) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

fn number(figures: &Value, key: &str) -> f64 {
    let value = figures[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {figures}"));
    assert!(value.is_finite() && value > 0.0, "`{key}` is {value}");
    value
}

#[track_caller]
fn assert_keys(figures: &Value, expected: &[&str]) {
    let mut keys: Vec<&str> = figures.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

const KEYS: [&str; 15] = [
    "step_seconds",
    "clips_per_s",
    "images_per_s",
    "matrix_flops_per_s",
    "share_of_matrix_rate",
    "peak_memory_bytes",
    "parts",
    "device",
    "threads",
    "precision",
    "arch",
    "out_dim",
    "clips",
    "flops_per_step",
    "steps_timed",
];

#[test]
fn a_bench_prints_and_writes_what_a_step_takes() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("step.json");
    let output = bench(&["--clips", "2", "--steps", "4"], &json);
    let figures = figures(&output, &json);
    assert_keys(&figures, &KEYS);
    for (key, expected) in [
        ("device", "cpu".into()),
        ("threads", 1.into()),
        ("precision", "float32".into()),
        ("arch", "vit_tiny".into()),
        ("out_dim", 32.into()),
        ("clips", 2.into()),
        ("steps_timed", Value::from(4)),
    ] {
        assert_eq!(figures[key], expected, "{key}");
    }
    let step_s = number(&figures, "step_seconds");
    let is = |key: &str, expected: f64| {
        let value = number(&figures, key);
        assert!((value / expected - 1.0).abs() < 1e-9, "`{key}` is {value}, not {expected}");
    };
    is("clips_per_s", 2.0 / step_s);
    // Two clips of 2 frames: the teacher's, 3 objects, 1 crop.
    is("images_per_s", 4.0 * (1.0 + 3.0 + 1.0) / step_s);
    let reached = number(&figures, "flops_per_step") / step_s;
    is("share_of_matrix_rate", reached / number(&figures, "matrix_flops_per_s"));
    // A processor multiplies matrices at a billion operations a second or far more.
    assert!(number(&figures, "matrix_flops_per_s") > 1e9);
    // libtorch alone takes more than this.
    assert!(number(&figures, "peak_memory_bytes") > 50e6);

    let parts = &figures["parts"];
    let names = [
        "teacher",
        "tracker",
        "student",
        "loss",
        "backward",
        "clip",
        "optimizer",
        "momentum_teacher",
    ];
    assert_keys(parts, &names);
    let sum: f64 = names.iter().map(|name| number(parts, name)).sum();
    assert!((0.2..5.0).contains(&(sum / step_s)), "parts take {sum} s of {step_s} s");

    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["vit_tiny", "clips/s", "images/s", "TFLOP/s", "share", "GiB", "backward"] {
        assert!(table.contains(word), "{word} in {table}");
    }
}

#[test]
fn two_settings_are_compared() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("both.json");
    let other = "train.clips=2,views.global_area=[0.5,1.0],train.precision=bfloat16";
    let output = bench(&["--steps", "3", "--compare", other], &json);
    let figures = figures(&output, &json);
    assert_keys(&figures, &["base", "compared", "ratio"]);
    let keys: Vec<&str> = KEYS.into_iter().filter(|key| *key != "peak_memory_bytes").collect();
    let [base, compared] = ["base", "compared"].map(|side| &figures[side]);
    for side in [base, compared] {
        assert_keys(side, &keys);
        assert_eq!(side["steps_timed"], 3);
    }
    assert_eq!((&base["clips"], &base["precision"]), (&1.into(), &"float32".into()));
    assert_eq!((&compared["clips"], &compared["precision"]), (&2.into(), &"bfloat16".into()));
    let ratio = number(base, "step_seconds") / number(compared, "step_seconds");
    assert!((number(&figures, "ratio") / ratio - 1.0).abs() < 1e-9);
    assert!(String::from_utf8(output.stdout).unwrap().contains(other));
}

#[test]
fn what_cannot_be_measured_gets_one_sentence() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("step.json");
    let missing = folder.path().join("missing/step.json");
    for (words, json, parts) in [
        (["--precision", "int8"], &json, &["`train.precision` is \"int8\"", "bfloat16"][..]),
        (["--arch", "vit_huge"], &json, &["`model.arch`", "vit_huge", "vit_small"]),
        (["--clips", "0"], &json, &["`train.clips` is 0"]),
        (
            ["--compare", "train.clip=2"],
            &json,
            &["`--compare train.clip=2`", "did you mean `clips`?"],
        ),
        (["--steps", "3"], &missing, &["cannot write", "missing/step.json", "--json"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.args(["bench", "step"]).args(words).arg("--json").arg(json);
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.starts_with("error: ") && output.stdout.is_empty(), "{text}");
        assert!(!text.contains("panicked") && !text.contains("multiplying"), "{text}");
        parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` in {text}"));
        assert!(!json.exists());
    }
}

fn flops(overrides: &[&str]) -> StepFlops {
    let overrides: Vec<String> = overrides.iter().copied().map(String::from).collect();
    StepFlops::new(&Recipe::parse("", &overrides).unwrap())
}

#[test]
fn a_small_step_has_the_operations_that_were_counted_by_hand() {
    let small = |others: &[&str]| {
        let own = ["model.arch=vit_tiny", "train.clips=1", "method.objects=1"];
        flops(&[&TINY[..], &own, others].concat())
    };
    let count = small(&[]);
    // Width 192, 12 blocks. A frame has 4 patches, so 5 tokens; a crop has one patch.
    let embed = [2.0 * 4.0 * 768.0 * 192.0, 2.0 * 768.0 * 192.0];
    // Each token: 192 x 576, 192 x 192, 192 x 768, 768 x 192; all pairs of tokens twice.
    let encode = [5.0, 2.0].map(|tokens| {
        24.0 * (tokens * (110_592.0 + 36_864.0 + 2.0 * 147_456.0) + 2.0 * tokens * tokens * 192.0)
    });
    // In the student's last block, [CLS] alone has queries, 192 x 192, and what follows them.
    let to_cls = [(encode[0], 5.0), (encode[1], 2.0)].map(|(encode, tokens)| {
        let others = tokens - 1.0;
        let left_out = 2.0 * (36_864.0 + 36_864.0 + 2.0 * 147_456.0) + 4.0 * tokens * 192.0;
        encode - others * left_out
    });
    let head = 2.0 * (192.0 * 16.0 + 16.0 * 16.0 + 16.0 * 8.0 + 8.0 * 32.0);
    assert_eq!(count.teacher, 2.0 * (embed[0] + encode[0] + head));
    assert_eq!(count.teacher, 109_003_264.0);
    // [CLS] in one head of 64; the prototype; scores; the refined prototype; 2 frames.
    assert_eq!(count.tracker, 2.0 * (5.0 * 64.0 + 4.0 * 192.0 * (1.0 + 1.0 + 1.0 + 2.0)));
    let embedded = 2.0 * 2.0 * (embed[0] + embed[1]);
    assert_eq!(count.student, embedded + 3.0 * 2.0 * (to_cls[0] + to_cls[1] + 2.0 * head));
    assert_eq!(count.total(), count.teacher + count.tracker + count.student);

    assert_eq!(small(&["train.clips=6"]).total(), 6.0 * count.total());
    assert_eq!(small(&["train.gradient_accumulation_steps=3"]).total(), 3.0 * count.total());
    let unrefined = small(&["tracker.sinkhorn=false"]).tracker;
    assert_eq!(count.tracker - unrefined, 2.0 * 2.0 * 4.0 * 192.0);
    assert_eq!(small(&["views.views=2"]).teacher, 2.0 * count.teacher);
    assert_eq!(small(&["method.name=dino", "views.views=2"]).tracker, 0.0);
    // Three objects in place of one: the frames are embedded no more often.
    let three = small(&["method.objects=3"]);
    assert_eq!(three.student - count.student, 3.0 * 2.0 * 2.0 * (to_cls[0] + head));
}

#[test]
fn one_clip_of_the_default_step_takes_about_a_teraflop() {
    // With all tokens in the student's last block, and without the head, it is about 1.05e12.
    let total = flops(&["train.clips=1"]).total();
    assert!((0.98e12..1.01e12).contains(&total), "{total}");
}

#[test]
fn overrides_are_parted_at_commas_outside_of_values() {
    assert_eq!(split_overrides("a.b=1, c.d=[1,2],e.f=x"), ["a.b=1", "c.d=[1,2]", "e.f=x"]);
    assert_eq!(split_overrides("a.b"), ["a.b"]);
}

#[test]
fn a_profile_names_what_ran() {
    let folder = TempDir::new().unwrap();
    let (json, profile) = (folder.path().join("step.json"), folder.path().join("new/profile"));
    let output = bench(&["--steps", "1", "--profile", profile.to_str().unwrap()], &json);
    assert_keys(&figures(&output, &json), &KEYS);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(profile.join(name)).unwrap()).unwrap()
    };
    assert!(!read("trace.json")["traceEvents"].as_array().unwrap().is_empty());
    let sums = read("kernels.json");
    let kernels = sums["kernels"].as_array().unwrap();
    let calls = |name: &str| {
        let row = kernels.iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no {name} in {sums}"))["calls"].as_u64().unwrap()
    };
    // One update of all parameters a step; forward and backward both multiply.
    assert_eq!(calls("aten::_fused_adamw_") % 2, 0);
    assert!(calls("aten::addmm") > 2 * 12 && calls("aten::mm") > 2 * 12);
    let shares: f64 = kernels.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ms a step"));
}

fn profile(events: &str) -> Profile {
    Profile::parse(format!(r#"{{"traceEvents": [{events}]}}"#).as_bytes()).unwrap()
}

fn sums(rows: &[Row]) -> Vec<(&str, usize, f64)> {
    rows.iter().map(|row| (&*row.name, row.calls, row.total_us)).collect()
}

#[test]
fn operators_on_the_cpu_count_without_those_they_call() {
    let found = profile(
        r#"{"ph": "X", "cat": "cpu_op", "name": "linear", "ts": 0, "dur": 100, "tid": 1},
           {"ph": "X", "cat": "cpu_op", "name": "matmul", "ts": 10, "dur": 60, "tid": 1},
           {"ph": "X", "cat": "cpu_op", "name": "mm", "ts": 20, "dur": 50, "tid": 1},
           {"ph": "X", "cat": "cpu_op", "name": "mm", "ts": 90, "dur": 10, "tid": 1},
           {"ph": "X", "cat": "cpu_op", "name": "mm", "ts": 40, "dur": 7, "tid": "2"},
           {"ph": "M", "name": "process_name", "pid": 1}"#,
    );
    assert_eq!(sums(&found.kernels), [("mm", 3, 67.0), ("linear", 1, 30.0), ("matmul", 1, 10.0)]);
    assert!((found.kernels[0].share - 67.0 / 107.0).abs() < 1e-12);
    assert!(found.host_calls.is_empty());
}

#[test]
fn with_a_gpu_its_kernels_count_and_what_the_host_calls() {
    let found = profile(
        r#"{"ph": "X", "cat": "cpu_op", "name": "mm", "ts": 0, "dur": 100, "tid": 1},
           {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 5, "dur": 30.5, "tid": 7},
           {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 40, "dur": 9, "tid": 7},
           {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 2, "tid": 1},
           {"ph": "s", "cat": "ac2g", "name": "ac2g", "ts": 1, "tid": 1}"#,
    );
    assert_eq!(sums(&found.kernels), [("gemm", 1, 30.5), ("Memcpy HtoD", 1, 9.0)]);
    assert_eq!(sums(&found.host_calls), [("cudaLaunchKernel", 1, 2.0)]);
    assert_eq!(found.table()[1], ["gemm", "0", "0.015", "77.2 %"]);
}
