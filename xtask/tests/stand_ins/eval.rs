//! The commands that judge an encoder: what they hand on to `dora-eval`.

use std::fs;

use crate::world::{World, ended};

/// A world with an encoder and data, whose `dora-eval` only says that it was started.
fn world(name: &str) -> World {
    let world = World::new(name).with_programs();
    world.script("target/dora-eval", r#"echo "dora-eval $*" >>"$WORLD/log""#);
    for recipe in ["small_linear", "ade20k_upernet"] {
        world.write(&format!("checkout/crates/dora-eval/recipes/{recipe}.toml"), "");
    }
    world.write("checkout/walk.store/header", "");
    for folder in ["run", "data"] {
        fs::create_dir_all(world.path(&format!("checkout/{folder}"))).unwrap();
    }
    world
}

/// What `dora-eval` was told last.
fn told(world: &World, line: &str) -> String {
    let (status, said) = ended(world.own_libtorch(line).output().unwrap());
    assert_eq!(status, 0, "{line}: {said}");
    world.lines("log").pop().unwrap()
}

#[test]
fn each_command_hands_on_what_it_was_given() {
    let world = world("eval-given");
    for (line, expected) in [
        (
            "eval-knn --checkpoint run --data data --k 5 --json k.json",
            "dora-eval knn --checkpoint run --data data --k 5 --json k.json --cache data/eval/features",
        ),
        (
            "eval-linear --random-init --arch vit_tiny --data data --no-cache",
            "dora-eval linear --random-init --arch vit_tiny --data data --no-cache",
        ),
        (
            "eval-segmentation --task davis --checkpoint run --data data --short-side 240 --video --out o",
            "dora-eval davis --checkpoint run --short-side 240 --video --out o --data data",
        ),
        (
            "eval-segmentation --task davis --data data --metrics-only run",
            "dora-eval davis-metrics --results run --data data",
        ),
        (
            "eval-segmentation --task semantic --checkpoint run --data data --recipe ade20k_upernet --no-cache --out o",
            "dora-eval semantic --recipe crates/dora-eval/recipes/ade20k_upernet.toml --data data --checkpoint run --no-cache --out o",
        ),
        (
            "eval-discovery --checkpoint run --data data --pictures 3 --out o",
            "dora-eval discovery --checkpoint run --data data --pictures 3 --out o",
        ),
        (
            "visualize --checkpoint run --store walk.store --whole --out o",
            "dora-eval visualize --checkpoint run --store walk.store --whole --out o --",
        ),
        ("export run --out o", "dora-eval export --out o -- run"),
    ] {
        let mut words: Vec<String> = told(&world, line).split(' ').map(str::to_owned).collect();
        let mut expected: Vec<String> = expected.split(' ').map(str::to_owned).collect();
        // Their order is nobody's business.
        words.sort();
        expected.sort();
        assert_eq!(words, expected, "{line}");
    }
}

#[test]
fn without_data_the_toy_walk_is_judged() {
    let world = world("eval-toy-walk");
    for (line, data) in [
        ("eval-segmentation --task davis --checkpoint run", "--data data/toy-walk/davis"),
        ("eval-segmentation --task davis --checkpoint run", "--out-root data/eval/davis"),
        ("eval-segmentation --task semantic --checkpoint run", "--data data/toy-walk/semantic"),
        ("eval-discovery --checkpoint run", "--data data/toy-walk/davis"),
        ("visualize --checkpoint run", "--store store of data/toy-walk/walk.mp4"),
    ] {
        let told = told(&world, line);
        assert!(told.contains(data), "{line}: {told}");
    }
}

#[test]
fn what_is_missing_is_told_before_anything_is_built() {
    let world = world("eval-wrong");
    for (line, expected) in [
        ("eval-knn --data data", "needs an encoder: name a run's folder"),
        ("eval-knn --checkpoint run", "needs --data"),
        ("eval-linear --checkpoint absent --data data", "`absent` does not exist"),
        ("eval-segmentation --checkpoint run", "--task"),
        ("eval-segmentation --task semantic --checkpoint run --video", "davis"),
        ("eval-segmentation --task semantic --checkpoint run --recipe small", "small_linear"),
        ("visualize --checkpoint run --video absent.mp4", "`absent.mp4` does not exist"),
        ("export run", "--out"),
        ("import absent.pth --out o", "`absent.pth` does not exist"),
    ] {
        let (status, said) = ended(world.own_libtorch(line).output().unwrap());
        assert_eq!(status, 2, "{line}: {said}");
        assert!(said.contains(expected), "{line}: {said}");
        assert_eq!(world.lines("log"), Vec::<String>::new(), "{line}");
    }
}
