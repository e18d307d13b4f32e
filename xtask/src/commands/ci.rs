//! `ci`: everything that continuous integration runs, stopping at the first failure.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::Context;

use super::{gpu_kit, test, train};
use crate::{
    args::{Args, CommandSpec},
    checkout::{CUDA, Checkout},
    process::{self, say},
    setup::{self, Wishes},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "ci",
    about: "Runs what continuous integration runs: format, lints, tests, a short training",
    options: &[],
    operands: "",
    rest: "",
    notes: "Missing system packages are installed without asking.",
    run,
};

/// What makes the toy recipe short and still writes everything that a run writes.
const SHORT_RUN: &[&str] = &[
    "train.length=4 steps",
    "train.lr_warmup=2 steps",
    "train.freeze_last_layer=2 steps",
    "output.tracks_every=2 steps",
];

type Step = (&'static str, fn(&Checkout) -> anyhow::Result<()>);

const STEPS: &[Step] = &[
    ("setup", |checkout| {
        let wishes = Wishes { yes: true, test_tools: true, ..Wishes::default() };
        setup::ensure(checkout, wishes)
    }),
    ("format", |checkout| cargo(checkout, &["fmt", "--all", "--check"])),
    ("lints", |checkout| lint(checkout, checkout.features())),
    ("feature cuda", feature_cuda),
    ("tests", |checkout| test::run(checkout, &[])),
    ("short training", |checkout| short_training(checkout, 1)),
    ("short training with two processes", |checkout| short_training(checkout, 2)),
    ("GPU kit, on the CPU", run_gpu_kit),
];

fn run(checkout: &Checkout, _: &Args) -> anyhow::Result<()> {
    let mut summary = Vec::new();
    for (name, step) in STEPS {
        say!("\n== {name}");
        let started = Instant::now();
        let outcome = step(checkout);
        let word = if outcome.is_ok() { "passed" } else { "FAILED" };
        let seconds = started.elapsed().as_secs_f64();
        say!("== {name}: {word} in {seconds:.1} s");
        summary.push(format!("{word}  {seconds:>7.1} s  {name}"));
        if let Err(error) = outcome {
            say!("\n{}", summary.join("\n"));
            return Err(error);
        }
    }
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    say!("\n{}\nci: all passed: {}", summary.join("\n"), names.join(", "));
    Ok(())
}

fn cargo(checkout: &Checkout, words: &[&str]) -> anyhow::Result<()> {
    process::run(checkout.cargo().args(words).current_dir(checkout.root()))
}

fn lint(checkout: &Checkout, features: &[&str]) -> anyhow::Result<()> {
    let words = [&["clippy", "--workspace", "--all-targets"], features, &["--", "-D", "warnings"]];
    cargo(checkout, &words.concat())
}

/// Compiles the feature where the other steps leave it out. The same words as for the lints before:
/// only what depends on the feature is compiled again, and nothing is linked.
fn feature_cuda(checkout: &Checkout) -> anyhow::Result<()> {
    if !checkout.features().is_empty() {
        say!("libtorch is complete, so every step has this feature");
        return Ok(());
    }
    setup::ensure_cuda_headers()?;
    lint(checkout, CUDA)
}

/// Trains a few steps with so many processes into a folder of its own and looks for what a run must
/// leave there. After a failure the folder stays, to be looked at.
fn short_training(checkout: &Checkout, processes: usize) -> anyhow::Result<()> {
    let run_dir = env::temp_dir().join(format!("dora-ci-{}", std::process::id()));
    let mut options: Vec<_> = SHORT_RUN.iter().map(|value| ("set", value.into())).collect();
    if processes > 1 {
        options.push(("nproc-per-node", processes.to_string().into()));
    }
    options.push(("run-dir", run_dir.clone().into()));
    train::run(checkout, &Args::with(options))?;
    check_run(&run_dir, processes)?;
    let _ = fs::remove_dir_all(&run_dir);
    Ok(())
}

/// Packs a kit and runs it from there, on the CPU, as a stranger's machine would: with nothing of our
/// environment, and the checkout out of reach where this machine lets us hide it.
fn run_gpu_kit(checkout: &Checkout) -> anyhow::Result<()> {
    let folder = env::temp_dir().join(format!("dora-ci-kit-{}", std::process::id()));
    let (kit, results) = (folder.join("kit"), folder.join("results"));
    gpu_kit::run(checkout, &Args::with(vec![("out", kit.clone().into())]))?;
    let python = test::python().context("the step `setup` brings Python's PyTorch")?;

    let mut words: Vec<OsString> = vec!["env".into(), "-i".into()];
    let kept = ["PATH", "HOME"].map(|name| (name, env::var_os(name).unwrap_or_default()));
    for (name, value) in kept.into_iter().chain([("PYTHON", python)]) {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        words.push(word);
    }
    words.push(kit.join("run.sh").into());
    words.extend(["--device", "cpu", "--quick", "--out"].map(OsString::from));
    words.push(results.clone().into());

    let hidden = |words: &[OsString]| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg("mount -t tmpfs none \"$0\" && cd / && exec \"$@\"");
        command.arg(checkout.root()).args(words);
        command
    };
    if hidden(&["true".into()]).output().is_ok_and(|output| output.status.success()) {
        process::run(&hidden(&words))?;
    } else {
        say!("the checkout stays in reach, since this machine lets us mount nothing");
        process::run(Command::new(&words[0]).args(&words[1..]).current_dir("/"))?;
    }
    for file in ["results.json", "results.md", "logs.tar.gz", "profile.tar.gz", "pictures.tar"] {
        let is_there = results.join(file).exists();
        anyhow::ensure!(is_there, "the kit in {} left no {file}", folder.display());
    }
    let _ = fs::remove_dir_all(&folder);
    Ok(())
}

fn check_run(run_dir: &Path, processes: usize) -> anyhow::Result<()> {
    let filled = |path: &Path| fs::metadata(path).is_ok_and(|data| data.len() > 0);
    let holds = |folder: &str, fits: &dyn Fn(&Path) -> bool| {
        entries(&run_dir.join(folder)).iter().any(|path| fits(path))
    };
    let parts = [
        ("metrics.jsonl", filled(&run_dir.join("metrics.jsonl"))),
        (
            "checkpoint",
            holds("checkpoints", &|path| {
                path.is_dir() && entries(path).iter().any(|file| filled(file))
            }),
        ),
        (
            "picture",
            holds("tracks", &|path| {
                path.extension().is_some_and(|extension| extension == "png") && filled(path)
            }),
        ),
        ("event file", holds("tensorboard", &filled)),
    ];
    for (what, is_there) in parts {
        anyhow::ensure!(is_there, "the run in {} left no {what}", run_dir.display());
    }
    for rank in (0..processes).filter(|_| processes > 1) {
        let log = format!("rank-{rank}.log");
        let is_there = run_dir.join(&log).exists();
        anyhow::ensure!(is_there, "the run in {} left no {log}", run_dir.display());
    }
    Ok(())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn a_run_is_whole_only_with_all_its_parts() {
        let folder = Folder::new("ci-run");
        let missing = || check_run(folder.path(), 2).unwrap_err().to_string();
        assert!(missing().contains("left no metrics.jsonl"));
        folder.write("metrics.jsonl", "{}\n");
        folder.write("checkpoints/step-4/state.safetensors", "");
        assert!(missing().contains("left no checkpoint"));
        folder.write("checkpoints/step-4/state.safetensors", "x");
        folder.write("tracks/notes.txt", "x");
        assert!(missing().contains("left no picture"));
        folder.write("tracks/step-4.png", "x");
        assert!(missing().contains("left no event file"));
        folder.write("tensorboard/events.out.tfevents.1.dora", "x");
        assert!(check_run(folder.path(), 1).is_ok());
        folder.write("rank-0.log", "");
        assert!(missing().contains("left no rank-1.log"));
        folder.write("rank-1.log", "");
        assert!(check_run(folder.path(), 2).is_ok());
    }
}
