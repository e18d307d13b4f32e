//! `eval-segmentation`: video object segmentation by label propagation, and semantic segmentation by a
//! head. Each task has options of its own and a subcommand of `dora-eval`.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{FEATURES, check_encoder, check_exists, encoder_options, toy_walk};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    commands::{subject::Subject, train::resolve_recipe_in},
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "eval-segmentation",
    about: "Judges an encoder by segmentation: of objects in videos, or by classes of pixels",
    options: encoder_options![
        option(
            "task",
            Value::Text("TASK"),
            "davis: follow the objects of a first frame through a video;\nsemantic: train a head that tells the class of each pixel",
        ),
        option(
            "data",
            Value::Text("DIR"),
            "davis: folder with JPEGImages, Annotations and ImageSets;\nsemantic: ADE20K's folder, or one with train/X.jpg, trainannot/X.png,\nval and valannot (default: the toy walk, with its own masks)",
        ),
        option(
            "out",
            Value::Text("DIR"),
            "davis: where masks go (default: data/eval/davis/DATA-ENCODER);\nsemantic: folder of the head, its log and predictions (default:\ndata/eval/semantic/RECIPE-ENCODER)",
        ),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
        option(
            "year",
            Value::Text("YEAR"),
            "davis: folder of lists in ImageSets (default: the last)"
        ),
        option(
            "split",
            Value::Text("NAME"),
            "davis: list of sequences (default: val, or the only one)",
        ),
        option("sequences", Value::Text("NAME,..."), "davis: only these sequences"),
        option(
            "resolution",
            Value::Text("NAME"),
            "davis: folder in JPEGImages and Annotations (default: 480p)",
        ),
        flag("video", "davis: draw the masks over each sequence, as an animated GIF"),
        option(
            "metrics-only",
            Value::Text("RESULTS"),
            "davis: judge masks made elsewhere, RESULTS/SEQUENCE/00000.png and so\non; no encoder",
        ),
        option(
            "short-side",
            Value::Count("PX"),
            "davis: scale frames to this short side (default: 480)",
        ),
        option(
            "window",
            Value::Count("N"),
            "davis: how far an object moves, in patches (default: 12)"
        ),
        option("topk", Value::Count("N"), "davis: neighbours that give their label (default: 5)"),
        option("last-frames", Value::Count("N"), "davis: frames to look back at (default: 7)"),
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "semantic: head, training and test: one of crates/dora-eval/recipes, or\na file of your own (default: small_linear)",
        ),
        option(
            "set",
            Value::Text("KEY=VALUE"),
            "semantic: change one value of the recipe, such as train.lr=1e-3; may\nbe given several times",
        ),
        flag("fresh", "semantic: put the training aside that is there, instead of going on"),
        option(
            "cache",
            Value::Text("DIR"),
            "semantic: keeps features, so that an encoder sees an image once\n(default: data/eval/features)",
        ),
        flag("no-cache", "semantic: compute features anew and keep none"),
    ],
    operands: "",
    rest: "",
    notes: "`davis` follows the protocol of DINO on DAVIS and computes J and F as its official code does.\n\
            Masks are written as palette PNGs of the original size, DIR/SEQUENCE/00000.png and so on.\n\
            `semantic` trains and judges as mmsegmentation does; an interrupted training goes on when the\n\
            same command is given again. `small_*` recipes need minutes on two CPU cores, `ade20k_*` a GPU.\n\n\
            examples:\n  \
              cargo xtask eval-segmentation --task davis --checkpoint data/runs/toy --video\n  \
              cargo xtask eval-segmentation --task davis --data DAVIS --checkpoint teacher.safetensors\n  \
              cargo xtask eval-segmentation --task davis --data DAVIS --metrics-only results\n  \
              cargo xtask eval-segmentation --task semantic --data CamVid --checkpoint data/runs/toy\n  \
              cargo xtask eval-segmentation --task semantic --data ADE20K --checkpoint data/runs/venice \\\n    \
                --recipe ade20k_upernet",
    run,
};

/// What can be segmented. All have the options of [`COMMON`].
const TASKS: &[Subject] = &[
    Subject {
        name: "davis",
        options: &[
            "year",
            "split",
            "sequences",
            "resolution",
            "video",
            "metrics-only",
            "short-side",
            "window",
            "topk",
            "last-frames",
        ],
        run: run_davis,
    },
    Subject {
        name: "semantic",
        options: &["recipe", "set", "fresh", "cache", "no-cache"],
        run: run_semantic,
    },
];

/// Options of every task.
const COMMON: &[&str] = &["task", "data", "out", "json"];

/// Where masks of videos go, in the checkout.
const DAVIS_OUT: &str = "data/eval/davis";

/// Where the recipes of semantic segmentation lie, in the checkout, and the one without a wish.
const RECIPES: &str = "crates/dora-eval/recipes";
const DEFAULT_RECIPE: &str = "small_linear";

/// Where heads and predictions go, in the checkout.
const SEMANTIC_OUT: &str = "data/eval/semantic";

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let task = task(args)?;
    check_options(task, args)?;
    (task.run)(checkout, task, args)
}

fn run_davis(checkout: &Checkout, task: &Subject, args: &Args) -> anyhow::Result<()> {
    let results = args.value("metrics-only");
    match results {
        Some(results) => {
            check_exists(results, "a folder with SEQUENCE/00000.png and so on")?;
            let mut encoder = encoder_option_names();
            let unused = encoder.find(|option| args.has(option)).or_else(|| {
                let of_masks = ["out", "video", "short-side", "window", "topk", "last-frames"];
                of_masks.into_iter().find(|option| args.has(option))
            });
            if let Some(option) = unused {
                return Err(fixable(format!(
                    "`--{option}` says how masks are made, and `--metrics-only` judges masks that are \
                     there: leave one of them out"
                )));
            }
        }
        None => check_encoder(&COMMAND, args)?,
    }
    if let Some(data) = args.value("data") {
        check_exists(data, "a folder with JPEGImages, Annotations and ImageSets")?;
    }
    super::super::build(checkout)?;
    let data = match args.value("data") {
        Some(data) => PathBuf::from(data),
        None => toy_walk(checkout)?.join("davis"),
    };
    let mut program = checkout.program("dora-eval")?;
    match results {
        Some(results) => {
            program.arg("davis-metrics").arg("--results").arg(results);
            program.args(args.forward(&["year", "split", "sequences", "resolution", "json"]));
        }
        None => {
            program.arg(task.name).args(args.forward(&forwarded(task)));
            forward_out(checkout, &mut program, DAVIS_OUT, args);
        }
    }
    process::run(program.arg("--data").arg(data))
}

/// The file of a head's recipe: a name from the repository's own, or a path.
pub(crate) fn resolve_recipe(
    checkout: &Checkout,
    wanted: Option<&OsStr>,
) -> anyhow::Result<PathBuf> {
    let wanted = wanted.unwrap_or(OsStr::new(DEFAULT_RECIPE));
    resolve_recipe_in(checkout, Path::new(RECIPES), wanted)
}

fn run_semantic(checkout: &Checkout, task: &Subject, args: &Args) -> anyhow::Result<()> {
    check_encoder(&COMMAND, args)?;
    let recipe = resolve_recipe(checkout, args.value("recipe"))?;
    if let Some(data) = args.value("data") {
        check_exists(data, "ADE20K's folder, or one with train, trainannot, val and valannot")?;
    }
    super::super::build(checkout)?;
    let data = match args.value("data") {
        Some(data) => PathBuf::from(data),
        None => toy_walk(checkout)?.join("semantic"),
    };
    let mut program = checkout.program("dora-eval")?;
    program.arg(task.name).arg("--recipe").arg(recipe).arg("--data").arg(data);
    forward_out(checkout, &mut program, SEMANTIC_OUT, args);
    if !args.has("cache") && !args.has("no-cache") {
        program.arg("--cache").arg(checkout.path(FEATURES));
    }
    process::run(program.args(args.forward(&forwarded(task))))
}

/// Where to write: where the user says, else into a folder of the encoder's own in `root`, in the checkout as
/// everything that nobody gave a place.
fn forward_out(checkout: &Checkout, program: &mut Command, root: &str, args: &Args) {
    match args.value("out") {
        Some(out) => program.arg("--out").arg(out),
        None => program.arg("--out-root").arg(checkout.path(root)),
    };
}

/// What the program understands as it stands: all but the options that are resolved here.
fn forwarded(task: &Subject) -> Vec<&'static str> {
    let own = task.options.iter().copied().filter(|name| *name != "recipe");
    own.chain(encoder_option_names()).chain(["json"]).collect()
}

/// The options of every encoder.
fn encoder_option_names() -> impl Iterator<Item = &'static str> {
    let of_tasks = |name: &str| TASKS.iter().any(|task| task.options.contains(&name));
    let names = COMMAND.options.iter().map(|option| option.name);
    names.filter(move |name| !COMMON.contains(name) && !of_tasks(name))
}

/// Refuses what belongs to another task.
fn check_options(task: &Subject, args: &Args) -> anyhow::Result<()> {
    match task.foreign_option(TASKS, args) {
        None => Ok(()),
        Some((other, option)) => Err(fixable(format!(
            "`--{option}` is an option of `--task {other}`, not of `--task {}`; leave it out",
            task.name
        ))),
    }
}

/// The task that the user names.
fn task(args: &Args) -> anyhow::Result<&'static Subject> {
    let known = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(" or ");
    let Some(word) = args.value("task") else {
        return Err(fixable(format!("`cargo xtask eval-segmentation` needs --task: {known}")));
    };
    let word = word.to_string_lossy();
    Subject::find(TASKS, &word).map_err(|hint| {
        let hint = hint.unwrap_or_else(|| format!("name {known}"));
        fixable(format!("`--task {word}` is unknown; {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_task_is_found() {
        let of = |word: &str| task(&Args::with(vec![("task", word.into())]));
        assert_eq!(of("davis").unwrap().name, "davis");
        let message = of("davsi").err().unwrap().to_string();
        assert!(message.ends_with("did you mean `davis`?"), "{message}");
        let message = task(&Args::default()).err().unwrap().to_string();
        assert!(message.contains("needs --task"), "{message}");
    }

    #[test]
    fn options_that_choose_an_encoder_are_told_from_those_of_tasks() {
        let names: Vec<&str> = encoder_option_names().collect();
        let expected =
            ["checkpoint", "checkpoint-key", "random-init", "arch", "patch", "seed", "device"];
        assert_eq!(names, expected);
    }
}
