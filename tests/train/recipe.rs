//! Recipes: text in, everything resolved out, or all problems.

use dora_model::Arch;
use dora_train::{
    recipe::{Differences, Recipe},
    schedule::Schedule,
    span::Span,
};

fn parse(text: &str, overrides: &[&str]) -> Result<Recipe, Vec<String>> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Recipe::parse(text, &overrides)
}

#[test]
fn overrides_win_over_the_file_and_the_file_over_defaults() {
    let text = "[train]\nclips = 4\nlr = 0.1\n[model]\narch = \"vit_base\"";
    let recipe = parse(text, &["train.lr = 0.2", "train.length=3 epochs"]).unwrap();
    assert_eq!(recipe.train.clips, 4);
    assert_eq!(recipe.train.lr, 0.2);
    assert_eq!(recipe.train.length, Span::Epochs(3.0));
    assert_eq!(recipe.train.momentum, 0.996);
    assert_eq!((recipe.model.arch, recipe.model.arch.width()), (Arch::VitBase, 768));
}

#[test]
fn a_written_recipe_reads_back_the_same() {
    let recipe = parse("[views]\nglobal_px = 96\nlocal_px = 48", &["model.patch_px=8"]).unwrap();
    assert_eq!(parse(&recipe.to_toml().unwrap(), &[]).unwrap(), recipe);
    assert_eq!(recipe.differing_keys(&recipe), Differences::default());
}

#[test]
fn lengths_and_rates_may_change_and_what_the_state_follows_from_may_not() {
    let before = parse("", &[]).unwrap();
    let differences = |set: &[&str]| parse("", set).unwrap().differing_keys(&before);
    let found = differences(&["train.lr=0.1", "train.length=3 epochs", "method.teacher_temp=0.05"]);
    assert_eq!(found.fixed, Vec::<String>::new());
    assert_eq!(found.changeable.len(), 3, "{found:?}");
    for set in [
        "train.seed=1",
        "model.out_dim=1024",
        "model.arch=vit_base",
        "method.loss=released",
        "method.objects=2",
        "tracker.sinkhorn=false",
        "views.local_crops=4",
        "clip.frames_per_clip=4",
        "data.short_side_px=288",
    ] {
        let found = differences(&[set]);
        assert!(found.changeable.is_empty() && found.fixed.len() == 1, "{set}: {found:?}");
    }
    assert_eq!(differences(&["output.run_dir=x", "train.device=cpu"]), Differences::default());
}

#[test]
fn each_key_may_stand_alone() {
    let written = Recipe::default().to_toml().unwrap();
    let mut section = "";
    let mut keys = 0;
    for line in written.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if !line.is_empty() {
            let recipe = parse("", &[&format!("{section}.{line}")]);
            assert_eq!(recipe, Ok(Recipe::default()), "{section}.{line}");
            keys += 1;
        }
    }
    assert!(keys > 60, "{keys} keys");
}

#[test]
fn a_warm_up_that_outlasts_the_run_is_refused() {
    let error = |text: &str| {
        let recipe =
            parse("[train]\nlength = \"100 steps\"", &[text, "train.freeze_last_layer=0 steps"]);
        Schedule::new(&recipe.unwrap(), 1000.0, 8).map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(error("train.lr_warmup=99 steps").is_ok());
    assert!(error("train.lr_warmup=1 epochs").unwrap_err().contains("lasts 1000 steps"));
}

#[test]
fn every_problem_is_reported() {
    let problems = parse("[train]\nclip = 3\nlr = \"high\"\n[mdel]\n", &["nonsense"]).unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:?}");
    let values = "[train]\nlr = -1.0\nmomentum = 2.0\n[model]\npatch_px = 0\n";
    let problems = parse(values, &["method.teacher_temp=0.0"]).unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(parse("not toml", &[]).unwrap_err()[0].contains("not TOML"));
    for bad in ["ten steps", "10", "-1 epochs", "nan epochs", "1e300 epochs", "5 hours"] {
        assert!(parse(&format!("[train]\nlength = \"{bad}\""), &[]).is_err(), "{bad}");
    }
}

#[test]
fn schedules_scale_with_clips_and_epochs() {
    let text = "[train]\nlr = 0.256\nlength = \"10 epochs\"\nlr_warmup = \"2 epochs\"";
    let schedule = Schedule::new(&parse(text, &[]).unwrap(), 50.0, 8).unwrap();
    assert_eq!(schedule.total_steps, 500);
    assert!((schedule.at(100).lr - 0.008).abs() < 1e-12);
    assert_eq!(schedule.at(0).lr, 0.0);
    assert!(schedule.at(49).freeze_last_layer && !schedule.at(50).freeze_last_layer);
    assert!(schedule.at(499).weight_decay > 0.399);
}
