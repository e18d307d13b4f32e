//! The real `xtask` in a world of stand-ins: programs on PATH that are shell scripts, an empty cache,
//! a checkout that holds next to nothing. No network, no compiler.

#![allow(clippy::unwrap_used)]

mod compare;
mod download;
mod eval;
mod gpu_kit;
mod launch;
mod world;

use std::{fs, os::unix::process::CommandExt, process::Command};

use world::{World, ended, path_with_system, until};

#[test]
fn a_download_that_breaks_off_is_repaired() {
    let world = World::new("download");
    world.write("break-off", "");
    let (status, text) = world.run("setup");
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("connection lost") && text.contains("pip could not fetch libtorch"));
    assert!(!world.libtorch("").exists());

    // What a killed process leaves: its own folder, and by an older one something without a manifest.
    fs::create_dir_all(world.libtorch("torch/lib")).unwrap();
    let name = world.libtorch("").file_name().unwrap().to_owned();
    let leftover = format!("cache/dora/{}.tmp-1", name.display());
    world.write(&format!("{leftover}/site/torch/lib/libtorch_cpu.so"), "ab");
    let (status, text) = world.run("setup");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("is broken (it was never finished)"), "{text}");
    assert!(!world.path(&leftover).exists());
    let link = fs::read_link(world.path("checkout/.libtorch")).unwrap();
    assert_eq!(link, world.libtorch("torch"));
    assert_eq!(world.pip_calls(), 2);

    let (status, text) = world.run("setup");
    assert_eq!((status, world.pip_calls()), (0, 2), "{text}");

    fs::write(world.libtorch("torch/lib/libtorch_cpu.so"), "ab").unwrap();
    let (status, text) = world.run("setup");
    assert_eq!((status, world.pip_calls()), (0, 3), "{text}");
    assert!(text.contains("libtorch_cpu.so has 2 of 3 bytes"), "{text}");

    fs::write(world.libtorch("torch/lib/libtorch_cpu.so"), "abd").unwrap();
    assert_eq!(world.run("setup").0, 0);
    assert_eq!(world.pip_calls(), 3);
    let mut verify = world.xtask("setup --verify");
    let (status, text) = ended(verify.env("PATH", path_with_system(&world)).output().unwrap());
    assert_eq!((status, world.pip_calls()), (0, 4), "{text}");
    assert!(text.contains("libtorch_cpu.so: FAILED"), "{text}");
}

#[test]
fn two_at_once_fetch_once() {
    let world = World::new("two");
    let children = [0, 1].map(|_| world.xtask("setup").spawn().unwrap());
    for child in children {
        let (status, text) = ended(child.wait_with_output().unwrap());
        assert_eq!(status, 0, "{text}");
    }
    assert_eq!(world.pip_calls(), 1);
}

#[test]
fn missing_packages_are_named_with_the_reason() {
    let world = World::new("packages");
    fs::remove_file(world.path("bin/cmake")).unwrap();
    fs::remove_file(world.path("lib/libclang.so")).unwrap();
    let (status, text) = world.run("test");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("  cmake           configures libjpeg-turbo"), "{text}");
    assert!(text.contains("  libclang-dev    reads headers of OpenCV"), "{text}");
    assert!(text.contains("no apt-get"), "{text}");
    assert!(!text.contains("  make ") && world.pip_calls() == 0, "{text}");
    let output = world.xtask("doctor").output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("WRONG  cmake            missing"), "{report}");
    assert!(report.contains("ok     make             4.6.0"), "{report}");

    world.script("bin/sudo", "[ $1 = -n ] && shift\nexec /usr/bin/env \"$@\"");
    world.script(
        "bin/apt-get",
        r#"PATH=/usr/bin:/bin
echo "$DEBIAN_FRONTEND $*" >>"$WORLD/apt.log"
case "$*" in *" install "*) cp "$WORLD/bin/make" "$WORLD/bin/cmake"; touch "$WORLD/lib/libclang.so";; esac"#,
    );
    let (status, text) = world.run("setup -y");
    assert_eq!(status, 0, "{text}");
    let calls = world.lines("apt.log");
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0].starts_with("noninteractive") && calls[0].ends_with("update"));
    assert!(calls[1].ends_with("install -y --no-install-recommends cmake libclang-dev"));
}

#[test]
fn an_exported_libtorch_wins_and_must_fit() {
    let world = World::new("exported").with_programs();
    let (status, text) = ended(world.own_libtorch("setup").output().unwrap());
    assert_eq!((status, world.pip_calls()), (0, 0), "{text}");
    assert!(!world.path("checkout/.libtorch").exists());
    world.write("torch/build-version", "2.10.0");
    let (status, text) = ended(world.own_libtorch("train").output().unwrap());
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("is version 2.10.0") && world.lines("log").is_empty(), "{text}");
}

#[test]
fn train_ingests_then_starts_the_worker() {
    let world = World::new("train").with_programs();
    let (status, text) = ended(
        world
            .own_libtorch("train --set a.b=1 --video a.mp4 --fps 5 --fresh -- --more")
            .output()
            .unwrap(),
    );
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("`a.mp4` does not exist"), "{text}");

    world.write("checkout/a.mp4", "");
    let line = "train --set a.b=1 --video a.mp4 --fps 5 --fresh -- --more";
    let (status, text) = ended(world.own_libtorch(line).output().unwrap());
    assert_eq!(status, 0, "{text}");
    let recipe = "--recipe crates/dora-train/recipes/toy.toml";
    let manifest = world.path("checkout/Cargo.toml");
    let expected = [
        format!("cargo build --manifest-path {} --workspace --bins", manifest.display()),
        format!("dora-train check {recipe} --set a.b=1 --video a.mp4"),
        "dora-ingest toy-walk --out data/toy-walk".to_owned(),
        "dora-ingest ingest --stores data/stores --short-side 96 --quality 80 --fps 5 -- \
         data/toy-walk/walk.mp4 a.mp4"
            .to_owned(),
        "dora-train put-aside --run-dir data/runs/toy".to_owned(),
        format!(
            "dora-train train {recipe} --set a.b=1 --store store of data/toy-walk/walk.mp4 \
             --store store of a.mp4 --run-dir data/runs/toy --more"
        ),
    ];
    assert_eq!(world.lines("log"), expected);

    fs::remove_file(world.path("log")).unwrap();
    let (status, _) = ended(world.own_libtorch("train --dry-run").output().unwrap());
    let calls = world.lines("log");
    assert_eq!((status, calls.len()), (0, 2), "{calls:?}");
    assert_eq!(calls[1], format!("dora-train train {recipe} --dry-run"));
}

#[test]
fn analyze_hands_its_words_on() {
    let world = World::new("analyze").with_programs();
    let line = "analyze a.mp4 --seconds 1:00 --detections found.csv b --fps 2";
    for (missing, expected) in [
        ("a.mp4", "`a.mp4` does not exist"),
        ("b", "`b` does not exist"),
        ("found.csv", "`found.csv` does not exist; give the CSV file"),
    ] {
        let (status, text) = ended(world.own_libtorch(line).output().unwrap());
        assert!(status == 2 && text.contains(expected), "{text}");
        world.write(&format!("checkout/{missing}"), "");
    }
    assert!(world.lines("log").is_empty());
    let (status, text) = ended(world.own_libtorch("analyze").output().unwrap());
    assert!(status == 2 && text.contains("needs the path of a video"), "{text}");

    let (status, text) = ended(world.own_libtorch(line).output().unwrap());
    assert_eq!(status, 0, "{text}");
    let expected = "dora-ingest analyze --out data/analysis --seconds 1:00 --detections found.csv \
                    --fps 2 -- a.mp4 b";
    assert_eq!(world.lines("log")[1], expected);
}

#[test]
fn ci_compiles_the_feature_cuda_on_any_machine() {
    let lints =
        |features: &str| format!("cargo clippy --workspace --all-targets {features}-- -D warnings");
    let feature = "--features dora-train/cuda ";
    let test = |world: &World, features: &str| {
        let manifest = world.path("checkout/Cargo.toml");
        format!("cargo test --manifest-path {} --workspace{features}", manifest.display())
    };

    let world = World::new("ci").with_programs();
    let (_, text) = ended(world.own_libtorch("ci").output().unwrap());
    assert!(text.contains("passed") && text.contains("feature cuda"), "{text}");
    let expected = [lints(""), lints(feature), test(&world, "")];
    assert_eq!(world.lines("log")[1..4], expected, "{text}");
    assert!(world.path("cache/dora/cuda-headers-13.0/nvidia/nccl/include/nccl.h").exists());
    assert!(world.path("cache/dora/test-tools-python3.11/python").exists());
    assert_eq!(world.pip_calls(), 2);
    ended(world.own_libtorch("ci").output().unwrap());
    assert_eq!(world.pip_calls(), 2);

    let world = World::new("ci-complete").with_programs();
    world.write("torch/lib/libtorch_cuda.so", "");
    world.write("nvidia/nccl/include/nccl.h", "");
    world.write("nvidia/cu13/include/crt/host_defines.h", "");
    let (_, text) = ended(world.own_libtorch("ci").output().unwrap());
    let expected = [lints(feature), test(&world, " --features dora-train/cuda")];
    assert_eq!(world.lines("log")[1..3], expected, "{text}");
    assert!(text.contains("libtorch is complete") && world.pip_calls() == 1, "{text}");
}

#[test]
fn tests_are_told_of_the_test_tools() {
    let world = World::new("test-tools").with_programs();
    world.script("bin/cargo", r#"echo "python ${DORA_TEST_PYTHON-none}" >>"$WORLD/log""#);
    let run = |line: &str| ended(world.own_libtorch(line).output().unwrap());
    assert_eq!(run("test").0, 0);
    let (status, text) = run("setup --test-tools");
    assert_eq!((status, world.pip_calls()), (0, 1), "{text}");
    assert!(text.contains("the set of test tools is in place"), "{text}");
    assert_eq!((run("setup --test-tools").0, world.pip_calls()), (0, 1));
    assert_eq!(run("test").0, 0);
    let mut own = world.own_libtorch("test");
    ended(own.env("DORA_TEST_PYTHON", "/mine/python").output().unwrap());
    let brought = world.path("cache/dora/test-tools-python3.11/python");
    let expected = ["none", &brought.display().to_string(), "/mine/python"];
    assert_eq!(world.lines("log"), expected.map(|python| format!("python {python}")));

    // Packages that were damaged are fetched anew, script and all.
    world.write("cache/dora/test-tools-python3.11/torch/_C.so", "ab");
    assert_eq!((run("setup --test-tools").0, world.pip_calls()), (0, 2));
    assert!(brought.exists());
    world.script("bin/python3", "echo pip 20.0 from /x '(python 3.9)'");
    let (status, text) = run("setup --test-tools");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("the test tools run on Python 3.11 to 3.14"), "{text}");
}

#[test]
fn export_and_import_hand_their_words_on() {
    let world = World::new("release").with_programs();
    world.script("target/dora-eval", r#"echo "dora-eval $*" >>"$WORLD/log""#);
    let run = |line: &str| ended(world.own_libtorch(line).output().unwrap());
    for (line, expected) in [
        ("export --out x", "takes one CHECKPOINT, and 0 were given"),
        ("import a b --out x", "takes one FILE, and 2 were given"),
        ("export run", "needs --out: a new folder"),
        ("import dino.pth --out x", "`dino.pth` does not exist; give a run's folder"),
        ("export . --out xtask", "`xtask` exists already"),
    ] {
        let (status, text) = run(line);
        assert!(status == 2 && text.contains(expected), "{text}");
    }
    assert!(world.lines("log").is_empty());
    world.write("checkout/dino.pth", "");
    assert_eq!(run("import dino.pth --checkpoint-key student --out x").0, 0);
    let expected = "dora-eval import --checkpoint-key student --out x -- dino.pth";
    assert_eq!(world.lines("log")[1], expected);
}

#[test]
fn the_end_of_a_child_is_passed_on() {
    let world = World::new("ends").with_programs();
    let status = |body: &str| {
        world.worker(body);
        ended(world.own_libtorch("train --dry-run").output().unwrap())
    };
    assert_eq!(status("exit 7"), (7, String::new()));
    let (code, text) = status("kill -9 $$");
    assert_eq!(code, 137);
    assert!(text.contains("was ended by signal 9"), "{text}");
}

#[test]
fn ctrl_c_waits_for_the_child() {
    for (signal, group) in [("-INT", "-"), ("-TERM", "")] {
        let world = World::new(&format!("signal{signal}")).with_programs();
        world.worker(
            r#"trap 'sleep 0.2; echo saved >>"$WORLD/log"; exit 5' INT TERM
echo ready >>"$WORLD/log"
while :; do sleep 0.05; done"#,
        );
        let mut command = world.own_libtorch("train --dry-run");
        command.env("PATH", path_with_system(&world));
        let child = command.process_group(0).spawn().unwrap();
        until("the worker starts", || {
            world.lines("log").last().is_some_and(|line| line == "ready")
        });
        let target = format!("{group}{}", child.id());
        Command::new("kill").args([signal, "--", &target]).status().unwrap();
        let (status, text) = ended(child.wait_with_output().unwrap());
        assert_eq!((status, text.as_str()), (5, ""));
        assert_eq!(world.lines("log").last().unwrap(), "saved");
    }
}
