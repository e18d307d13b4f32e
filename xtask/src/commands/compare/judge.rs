//! Judging: what `dora-eval` is asked of each run and of random weights, once for each question.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use serde_json::Value as Json;

use super::plan::{Plan, Run};
use crate::{
    args::Args,
    checkout::Checkout,
    commands::{eval::segmentation, train::Needs},
    jobs::{self, Job},
    process::{self, fixable},
};

/// What the row without training is called.
pub(super) const RANDOM: &str = "random initialisation";

/// One protocol: what `dora-eval` is told, and which figures of its answer go into the table.
pub(super) struct Protocol {
    /// The option that gives its data, and its subcommand.
    pub(super) name: &'static str,
    /// What it is told besides encoder, data and where the answer goes.
    options: fn(&Checkout, &Args) -> anyhow::Result<Vec<OsString>>,
    /// Whether it writes into a folder of its own.
    has_out: bool,
    /// Where the figure stands in the answer, as a share of 1, and the name of its column.
    pub(super) figure: (&'static str, &'static str),
    /// Where the speed stands, and its unit.
    pub(super) speed: (&'static str, &'static str),
    /// Where the device's rate of matrix products stands, in operations a second.
    pub(super) matrix_rate: &'static str,
}

pub(super) const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "davis",
        options: |_, args| Ok(args.forward(&["short-side"])),
        has_out: true,
        figure: ("/J&F-Mean", "DAVIS J&F"),
        speed: ("/speed/frames_per_s", "frames/s"),
        matrix_rate: "/speed/matrix_flops_per_s",
    },
    Protocol {
        name: "semantic",
        options: |checkout, args| {
            let recipe = segmentation::resolve_recipe(checkout, args.value("semantic-recipe"))?;
            Ok(vec!["--no-cache".into(), "--recipe".into(), recipe.into()])
        },
        has_out: true,
        figure: ("/mIoU", "mIoU"),
        speed: ("/test_images_per_s", "images/s"),
        matrix_rate: "/matrix_flops_per_s",
    },
    Protocol {
        name: "knn",
        options: |_, args| {
            let mut words = args.forward(&["image-px"]);
            words.extend(["--no-cache", "--k", "20"].map(OsString::from));
            Ok(words)
        },
        has_out: false,
        figure: ("/20-NN/top1", "20-NN top-1"),
        speed: ("/images_per_s", "images/s"),
        matrix_rate: "/matrix_flops_per_s",
    },
];

/// A protocol on data.
pub(super) struct Task {
    pub(super) protocol: &'static Protocol,
    data: PathBuf,
    options: Vec<OsString>,
}

/// What a protocol said of an encoder.
pub(super) struct Answer {
    pub(super) row: String,
    pub(super) protocol: &'static Protocol,
    /// `dora-eval`'s figures.
    pub(super) path: PathBuf,
}

impl Task {
    /// The task of a protocol, if its data was given.
    pub(super) fn read(
        protocol: &'static Protocol,
        checkout: &Checkout,
        args: &Args,
    ) -> Option<anyhow::Result<Self>> {
        let data = PathBuf::from(args.value(protocol.name)?);
        if !data.is_dir() {
            let data = data.display();
            let message = format!("`{data}` is no folder; give one for --{}", protocol.name);
            return Some(Err(fixable(message)));
        }
        let options = (protocol.options)(checkout, args);
        Some(options.map(|options| Self { protocol, data, options }))
    }

    /// `dora-eval` on this task, not yet told the encoder.
    fn ask(&self, checkout: &Checkout) -> anyhow::Result<Command> {
        let mut ask = checkout.program("dora-eval")?;
        ask.arg(self.protocol.name).arg("--data").arg(&self.data).args(&self.options);
        Ok(ask)
    }
}

/// Has every task's data looked through, for encoders of every size that will be judged, before hours of
/// training.
pub(super) fn check(checkout: &Checkout, plan: &Plan, needs: &[Needs]) -> anyhow::Result<()> {
    let sizes: BTreeSet<(&str, u64)> =
        needs.iter().map(|needs| (needs.arch.as_str(), needs.patch_px)).collect();
    for task in &plan.tasks {
        for (arch, patch_px) in &sizes {
            let mut check = task.ask(checkout)?;
            check.args(["--check", "--random-init", "--arch", arch]);
            process::run(check.arg("--patch").arg(patch_px.to_string()))?;
        }
    }
    Ok(())
}

/// Has random weights and every run judged, except where the same question was answered before.
pub(super) fn judge(checkout: &Checkout, plan: &Plan, runs: &[Run]) -> anyhow::Result<Vec<Answer>> {
    let figures = plan.out.join("figures");
    let mut jobs = Vec::new();
    let mut answers = Vec::new();
    for task in &plan.tasks {
        // Sizes are those of the first run; what is random is so with each seed.
        let random = plan.seeds.iter().map(|&seed| (RANDOM, seed, &runs[0].dir));
        let trained = runs.iter().map(|run| (run.variant.name.as_str(), run.seed, &run.dir));
        for (row, seed, run_dir) in random.chain(trained) {
            let protocol = task.protocol;
            let file = format!("{}-seed-{seed}-{}", row.replace(' ', "-"), protocol.name);
            let path = figures.join(format!("{file}.json"));
            answers.push(Answer { row: row.to_owned(), protocol, path: path.clone() });
            let mut ask = task.ask(checkout)?;
            ask.arg("--checkpoint").arg(run_dir);
            if row == RANDOM {
                ask.arg("--random-init").arg("--seed").arg(seed.to_string());
            }
            let question = question(&ask, task, &newest_checkpoint(run_dir)?)?;
            let asked = path.with_extension("question");
            let is_same = fs::read_to_string(&asked).is_ok_and(|text| text == question);
            if is_same && is_answered(&path, protocol) {
                continue;
            }
            // What an answer to another question left would be taken up.
            let _ = fs::remove_file(&path);
            if protocol.has_out {
                let out = plan.out.join("judged").join(&file);
                let _ = fs::remove_dir_all(&out);
                ask.arg("--out").arg(out);
            }
            ask.arg("--json").arg(&path);
            fs::create_dir_all(&figures)
                .and_then(|()| fs::write(&asked, question))
                .with_context(|| format!("cannot write `{}`", asked.display()))?;
            let name = format!("{row} seed {seed}, {}", protocol.name);
            jobs.push(Job { name, command: ask, log: path.with_extension("log") });
        }
    }
    // One after the other: their speeds are part of the table.
    jobs::run(jobs, 1)?;
    Ok(answers)
}

/// Whether a file holds a whole answer; a full disk or a kill leaves a part of one.
fn is_answered(path: &Path, protocol: &Protocol) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let answer: Option<Json> = serde_json::from_str(&text).ok();
    answer.is_some_and(|answer| answer.pointer(protocol.figure.0).is_some())
}

/// What an answer depends on: the program, the words, the texts of files of settings among them, the
/// checkpoint.
fn question(ask: &Command, task: &Task, checkpoint: &str) -> anyhow::Result<String> {
    let program = Path::new(ask.get_program());
    let stamp =
        fs::metadata(program).and_then(|data| Ok((data.len(), nanoseconds(data.modified()?))));
    let (bytes, date) = stamp.with_context(|| format!("cannot read `{}`", program.display()))?;
    let mut text = format!("dora-eval of {bytes} bytes of {date}\n");
    for word in ask.get_args() {
        let _ = writeln!(text, "{}", word.to_string_lossy());
    }
    for path in task.options.iter().map(Path::new).filter(|path| path.is_file()) {
        let settings = fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let _ = writeln!(text, "{settings}");
    }
    let _ = writeln!(text, "{checkpoint}");
    Ok(text)
}

/// Name and date of a run's newest checkpoint.
fn newest_checkpoint(run_dir: &Path) -> anyhow::Result<String> {
    let folder = run_dir.join("checkpoints");
    let entries = fs::read_dir(&folder);
    let entries = entries.with_context(|| format!("cannot read `{}`", folder.display()))?;
    let steps = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let step: u64 = name.strip_prefix("step-")?.parse().ok()?;
        Some((step, nanoseconds(entry.metadata().ok()?.modified().ok()?)))
    });
    let newest = steps.max();
    let (step, date) =
        newest.with_context(|| format!("`{}` holds no checkpoint", folder.display()))?;
    Ok(format!("step {step} of {date}"))
}

/// A date as a number.
fn nanoseconds(date: SystemTime) -> u128 {
    date.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
