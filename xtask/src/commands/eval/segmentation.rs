//! `eval-segmentation`: video object segmentation by label propagation. Each task has options of its
//! own and a subcommand of `dora-eval`.

use std::path::PathBuf;

use super::{check_encoder, check_exists, encoder_options};
use crate::{
    args::{Args, CommandSpec, Value, flag, nearest, option},
    checkout::Checkout,
    commands::ingest,
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "eval-segmentation",
    about: "Judges an encoder by segmentation: objects followed through videos",
    options: encoder_options![
        option(
            "task",
            Value::Text("TASK"),
            "davis: follow the objects of a first frame through a video"
        ),
        option(
            "data",
            Value::Text("DIR"),
            "davis: folder with JPEGImages, Annotations and ImageSets (default: the\ntoy walk, with its own masks)",
        ),
        option("out", Value::Text("DIR"), "davis: where masks go (default: data/eval/davis)"),
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
    ],
    operands: "",
    rest: "",
    notes: "`davis` follows the protocol of DINO on DAVIS and computes J and F as its official code does.\n\
            Masks are written as palette PNGs of the original size, DIR/SEQUENCE/00000.png and so on.\n\n\
            examples:\n  \
              cargo xtask eval-segmentation --task davis --checkpoint data/runs/toy --video\n  \
              cargo xtask eval-segmentation --task davis --data DAVIS --checkpoint teacher.safetensors\n  \
              cargo xtask eval-segmentation --task davis --data DAVIS --metrics-only results",
    run,
};

/// What can be segmented.
struct Task {
    name: &'static str,
    /// Its options, beside `--json`, `--data` and `--out`, which all have.
    options: &'static [&'static str],
    run: fn(&Checkout, &Task, &Args) -> anyhow::Result<()>,
}

const TASKS: &[Task] = &[Task {
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
}];

/// Options of every task.
const COMMON: &[&str] = &["task", "data", "out", "json"];

/// Where masks of videos go, in the checkout.
const DAVIS_OUT: &str = "data/eval/davis";

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let task = task(args)?;
    task.check_options(args)?;
    (task.run)(checkout, task, args)
}

fn run_davis(checkout: &Checkout, task: &Task, args: &Args) -> anyhow::Result<()> {
    let results = args.value("metrics-only");
    match results {
        Some(results) => {
            check_exists(results, "a folder with SEQUENCE/00000.png and so on")?;
            let mut encoder = Task::encoder_options();
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
        None => toy_walk(checkout)?,
    };
    let mut program = checkout.program("dora-eval")?;
    match results {
        Some(results) => {
            program.arg("davis-metrics").arg("--results").arg(results);
            program.args(args.forward(&["year", "split", "sequences", "resolution", "json"]));
        }
        None => {
            let out = args.value("out").map_or_else(|| checkout.path(DAVIS_OUT), PathBuf::from);
            program.arg(task.name).arg("--out").arg(out).args(args.forward(&task.forwarded()));
        }
    }
    process::run(program.arg("--data").arg(data))
}

/// The toy walk's takes with their masks, rendered the first time.
fn toy_walk(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    let walk = checkout.path(ingest::TOY_WALK_DIR);
    process::run_for_output(&ingest::toy_walk_into(checkout, &walk)?)?;
    Ok(walk.join("davis"))
}

impl Task {
    /// What the program understands as it stands: all but the options that are resolved here.
    fn forwarded(&self) -> Vec<&'static str> {
        let own = self.options.iter().copied();
        own.chain(Self::encoder_options()).chain(["json"]).collect()
    }

    /// The options of every encoder.
    fn encoder_options() -> impl Iterator<Item = &'static str> {
        let of_tasks = |name: &str| TASKS.iter().any(|task| task.options.contains(&name));
        let names = COMMAND.options.iter().map(|option| option.name);
        names.filter(move |name| !COMMON.contains(name) && !of_tasks(name))
    }

    /// Refuses what belongs to another task.
    fn check_options(&self, args: &Args) -> anyhow::Result<()> {
        let others = TASKS.iter().filter(|other| other.name != self.name);
        let foreign = others
            .flat_map(|other| other.options.iter().map(move |option| (other.name, *option)))
            .find(|(_, option)| args.has(option) && !self.options.contains(option));
        match foreign {
            None => Ok(()),
            Some((other, option)) => Err(fixable(format!(
                "`--{option}` is an option of `--task {other}`, not of `--task {}`; leave it out",
                self.name
            ))),
        }
    }
}

/// The task that the user names.
fn task(args: &Args) -> anyhow::Result<&'static Task> {
    let names = || TASKS.iter().map(|task| task.name);
    let known = names().collect::<Vec<_>>().join(" or ");
    let Some(word) = args.value("task") else {
        return Err(fixable(format!("`cargo xtask eval-segmentation` needs --task: {known}")));
    };
    let word = word.to_string_lossy();
    TASKS.iter().find(|task| task.name == word).ok_or_else(|| {
        let hint = nearest(&word, names())
            .map(|name| format!("did you mean `{name}`?"))
            .unwrap_or_else(|| format!("name {known}"));
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
        let names: Vec<&str> = Task::encoder_options().collect();
        let expected =
            ["checkpoint", "checkpoint-key", "random-init", "arch", "patch", "seed", "device"];
        assert_eq!(names, expected);
    }
}
