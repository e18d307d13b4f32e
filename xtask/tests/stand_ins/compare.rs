//! `compare`: what it trains and judges, side by side, again, and what it puts together.

use std::fs;

use crate::world::{World, ended, path_with_system, until};

/// A world in which training leaves a checkpoint and figures, and judging a number.
fn world(name: &str) -> World {
    let world = World::new(name).with_programs();
    world.write("checkout/crates/dora-train/recipes/small_footage.toml", "");
    world.worker(
        r#"PATH=/usr/bin:/bin
while [ $# -gt 0 ]; do case $1 in --run-dir) dir=$2;; esac; shift; done
echo "threads ${OMP_NUM_THREADS:-all}" >>"$WORLD/log"
if [ -e "$WORLD/wait" ]; then touch "$WORLD/began"; sleep 20; fi
if [ -e "$WORLD/fail" ]; then echo "error: it went wrong" >&2; exit 2; fi
[ -e $dir/checkpoints/step-1 ] || mkdir -p $dir/checkpoints/step-1
echo '{"step_s":1.0,"loss":5.0,"teacher_entropy":4.0,"teacher_mean_entropy":5.5,"mask_iou":0.5}' >$dir/metrics.jsonl"#,
    );
    world.script(
        "target/dora-eval",
        r#"PATH=/usr/bin:/bin
case "$*" in *--check\ *)
  echo "check $*" >>"$WORLD/log"
  if [ -e "$WORLD/bad-data" ]; then echo "error: no images" >&2; exit 2; fi
  exit;;
esac
echo "dora-eval $*" >>"$WORLD/log"
value=0.5
while [ $# -gt 0 ]; do case $1 in
--json) json=$2;; --checkpoint) case $2 in *seed-1) value=0.7;; esac;; --random-init) value=0.2;; esac; shift; done
sleep 0.01
echo "{\"20-NN\":{\"top1\":$value},\"images_per_s\":30,\"matrix_flops_per_s\":2e11}" >$json"#,
    );
    fs::create_dir_all(world.path("images")).unwrap();
    world
}

fn run(world: &World, line: &str) -> (i32, String, String) {
    let mut xtask = world.own_libtorch(line);
    let output = xtask.env("PATH", path_with_system(world)).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, said) = ended(output);
    (status, printed, said)
}

const LINE: &str = "compare --knn ../images --out ../out --variant a --variant b:method.name=dino,views.views=2 --jobs 2";

#[test]
fn every_variant_and_seed_is_trained_judged_and_told_once() {
    let world = world("compare");
    let (status, printed, said) = run(&world, LINE);
    assert_eq!(status, 0, "{said}");
    assert!(
        printed.starts_with("| encoder | 20-NN top-1 | images/s |\n|---|---|---|\n"),
        "{printed}"
    );
    for row in [
        "| random initialisation | 20.0 ± 0.0 | 30.0 |",
        "| a | 60.0 ± 14.1 | 30.0 |",
        "| b | 60.0 ± 14.1 | 30.0 |",
    ] {
        assert!(printed.contains(row), "{printed}");
    }
    assert!(printed.contains("| a seed 0 | 1 | 1.00 s | 5.00 | 4.00 | 5.50 | 0.50 |"), "{printed}");
    assert!(printed.contains("multiplied at 0.200 TFLOP/s"), "{printed}");
    assert_eq!(fs::read_to_string(world.path("out/table.md")).unwrap(), printed);
    let log = world.lines("log");
    let trained = |line: &&String| line.starts_with("dora-train train ");
    assert_eq!(log.iter().filter(trained).count(), 4, "{log:#?}");
    let dino = log.iter().filter(trained).find(|line| line.contains("views.views=2")).unwrap();
    assert!(
        dino.contains("--set method.name=dino --set views.views=2 --set train.seed=0"),
        "{dino}"
    );
    assert!(dino.ends_with("--store store of a.mp4"), "{dino}");
    assert!(log.iter().any(|line| line.starts_with("threads ") && line != "threads all"));
    let checked = log.iter().find(|line| line.starts_with("check knn ")).unwrap();
    assert!(checked.contains("--random-init --arch vit_tiny --patch 16"), "{checked}");
    let judged = |log: &[String]| log.iter().filter(|line| line.starts_with("dora-eval ")).count();
    assert_eq!(judged(&log), 6, "{log:#?}");

    // What was judged is not judged again, unless its run went on.
    let (status, again, _) = run(&world, LINE);
    assert_eq!((status, again), (0, printed));
    assert_eq!(judged(&world.lines("log")), 6);
    // Half an answer is none.
    fs::write(world.path("out/figures/a-seed-0-knn.json"), "{\"20-NN\":{").unwrap();
    assert_eq!(run(&world, LINE).0, 0);
    assert_eq!(judged(&world.lines("log")), 7);
    fs::create_dir(world.path("out/runs/b-seed-1/checkpoints/step-2")).unwrap();
    assert_eq!(run(&world, LINE).0, 0);
    assert_eq!(judged(&world.lines("log")), 8);
    // Another question is asked anew.
    assert_eq!(run(&world, &format!("{LINE} --image-px 112")).0, 0);
    assert_eq!(judged(&world.lines("log")), 14);
    // Another program may answer otherwise.
    let program = world.path("target/dora-eval");
    let text = fs::read_to_string(&program).unwrap();
    fs::write(&program, text + "\n").unwrap();
    assert_eq!(run(&world, LINE).0, 0);
    assert_eq!(judged(&world.lines("log")), 20);
}

#[test]
fn two_comparisons_do_not_share_a_folder() {
    let world = world("compare-locked");
    fs::create_dir_all(world.path("out")).unwrap();
    let lock = fs::File::create(world.path("out/.lock")).unwrap();
    lock.lock().unwrap();
    let (status, _, said) = run(&world, LINE);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("another comparison writes into `../out`"), "{said}");
    assert!(world.lines("log").is_empty());
}

#[test]
fn who_fails_ends_all_and_says_why() {
    let world = world("compare-fails");
    world.write("fail", "");
    let (status, _, said) = run(&world, LINE);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("ended with status 2; all it said is in ../out/runs/"), "{said}");
    assert!(said.contains("error: it went wrong"), "{said}");
    assert!(!world.path("out/table.md").exists());
}

#[test]
fn bad_data_is_told_before_training() {
    let world = world("compare-bad-data");
    world.write("bad-data", "");
    let (status, _, said) = run(&world, LINE);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("error: no images"), "{said}");
    let trained = |line: &String| line.starts_with("dora-train train ");
    assert!(!world.lines("log").iter().any(trained));
}

#[test]
fn every_variant_is_looked_at_before_the_first_is_trained() {
    let world = world("compare-variants");
    for (last, expected) in [
        ("c:wrong=1", "error: no such key"),
        ("c:data.videos=['b.mp4']", "the variants `a` and `c` need other frames"),
    ] {
        let (status, _, said) = run(&world, &format!("{LINE} --variant {last}"));
        assert_eq!(status, 2, "{said}");
        assert!(said.contains(expected), "{said}");
        let goes_on = |line: &String| !line.starts_with("dora-train check ");
        let log = world.lines("log");
        assert!(!log.iter().any(|line| goes_on(line) && line.starts_with("dora-")), "{log:#?}");
    }
}

#[test]
fn a_signal_ends_those_that_train() {
    let world = world("compare-stopped");
    world.write("wait", "");
    let mut xtask = world.own_libtorch(LINE);
    let child = xtask.env("PATH", path_with_system(&world)).spawn().unwrap();
    until("training", || world.path("began").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (status, said) = ended(child.wait_with_output().unwrap());
    assert_eq!(status, 143, "{said}");
}

#[test]
fn wrong_words_are_told_before_anything_starts() {
    let world = world("compare-wrong");
    for (line, expected) in [
        ("compare", "nothing to judge by: give the folder of at least one of --davis"),
        ("compare --knn ../absent", "`../absent` is no folder; give one for --knn"),
        ("compare --knn ../images --variant :x", "`:x` is no variant; write NAME:KEY=VALUE"),
        ("compare --knn ../images --seeds 1,2,1", "the seed 1 stands twice"),
        ("compare --knn ../images --variant a --variant a:x=1", "two variants are called `a`"),
        ("compare --knn ../images --seeds a", "`a` are no seeds; write whole numbers"),
        ("compare --knn ../images --jobs 0", "at least 1"),
    ] {
        let (status, _, said) = run(&world, line);
        assert_eq!(status, 2, "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(world.lines("log").is_empty());
    }
}
