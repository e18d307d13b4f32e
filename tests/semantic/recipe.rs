use std::{fs, path::Path};

use dora_eval::semantic::recipe::{BackboneMode, HeadKind, Recipe};

#[test]
fn every_recipe_of_the_repository_can_be_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/dora-eval/recipes");
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for line in ["# Reproduces", "# Command", "# Hardware", "# Expect"] {
            assert!(text.contains(line), "{}: {line}", path.display());
        }
        let recipe = Recipe::read(&path, &[]).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert_eq!(recipe.head.kind == HeadKind::Linear, name.ends_with("_linear"));
        assert_eq!(recipe.train.backbone == BackboneMode::Frozen, name.ends_with("_linear"));
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["ade20k_linear", "ade20k_upernet", "small_linear", "small_upernet"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "[head]\nkindd = 1\n[train]\nlr = \"high\"\n[tets]\nx = 1";
    let problems = Recipe::parse(text, &["train.batch".into()]).unwrap_err().join("\n");
    for part in [
        "no key `head.kindd`; did you mean `kind`?",
        "`train.lr` is \"high\"",
        "no section [tets]; did you mean `test`?",
        "`--set train.batch` must have the form",
    ] {
        assert!(problems.contains(part), "no {part} in\n{problems}");
    }
    let text = "[head]\nblocks = [3, 3, 5, 7]\n[train]\nlr = -1.0\nlayer_decay = 0.0\n[augment]\nscale_min = 3.0";
    let problems = Recipe::parse(text, &[]).unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    for (change, part) in [
        ("head.kind=linear", "frozen encoder"),
        ("train.patches=64", "single patches"),
        ("train.batch=1", "at least 2 images"),
        ("head.auxiliary_block=8", "one of `head.blocks`"),
        ("data.short_px=0", "both 0"),
        ("test.stride_px=600", "above `test.window_px`"),
        ("data.void=256", "between 0 and 255"),
        ("data.classes=[\"a\"]", "at least 2"),
        ("head.pool_sides=[]", "numbers from 1 to 64"),
    ] {
        let problems = Recipe::parse("", &[change.into()]).unwrap_err().join("\n");
        assert!(problems.contains(part), "{change}: {problems}");
    }
}

#[test]
fn a_written_recipe_reads_back_the_same_and_tells_what_differs() {
    let recipe =
        Recipe::parse("[train]\nseed = 3", &["data.classes=[\"a\", \"b 1 2 3\"]".into()]).unwrap();
    let again = Recipe::parse(&recipe.to_toml(), &[]).unwrap();
    assert_eq!(again, recipe);
    let other =
        Recipe::parse(&recipe.to_toml(), &["train.seed=4".into(), "test.window_px=0".into()]);
    assert_eq!(other.unwrap().differing_keys(&recipe), ["`train.seed` is 4 and was 3"]);
}

#[test]
fn the_learning_rate_warms_up_and_falls_to_its_end() {
    let changes =
        ["train.iterations=100", "train.warmup_iterations=9", "train.lr=1.0", "train.lr_end=0.2"];
    let train = Recipe::parse("", &changes.map(str::to_owned)).unwrap().train;
    let near = |iteration: u64, expected: f64| {
        assert!((train.lr_at(iteration) - expected).abs() < 1e-12, "{}", train.lr_at(iteration));
    };
    near(0, 0.1);
    near(9, 0.8 * 0.91 + 0.2);
    near(50, 0.6);
    near(100, 0.2);
}
