//! `compare`: variants of a recipe, trained with one budget and several seeds, judged beside random
//! initialisation.

mod judge;
mod plan;
mod table;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
};

use anyhow::Context;

use self::plan::{Plan, Run, Variant};
use super::{
    ingest,
    train::{self, Needs},
};
use crate::{
    args::{Args, CommandSpec, Value, option},
    checkout::Checkout,
    jobs::{self, Job},
    process::fixable,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "compare",
    about: "Trains variants of a recipe with one budget and judges them beside random weights",
    options: &[
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "what they have in common (default: small_footage)",
        ),
        option(
            "variant",
            Value::Text("NAME:KEY=VALUE,..."),
            "one of them and what differs; may be given several times (default:\ndora, dora-released and dino)",
        ),
        option("seeds", Value::Text("N,..."), "runs of each variant (default: 0,1)"),
        option("video", Value::Text("PATH"), "as for `train`; may be given several times"),
        ingest::FPS,
        option("set", Value::Text("KEY=VALUE"), "as for `train`: for all variants"),
        option("davis", Value::Text("DIR"), "judge by label propagation on this DAVIS folder"),
        option("short-side", Value::Count("PX"), "davis: height of the frames (default: 480)"),
        option("semantic", Value::Text("DIR"), "judge by a segmentation head on this folder"),
        option(
            "semantic-recipe",
            Value::Text("NAME|PATH"),
            "semantic: how it is trained (default: small_linear)",
        ),
        option("knn", Value::Text("DIR"), "judge by nearest neighbours on this folder"),
        option("image-px", Value::Count("PX"), "knn: side of the images (default: 224)"),
        option(
            "jobs",
            Value::Count("N"),
            "runs that train side by side, the cores divided among them\n(default: 1)",
        ),
        option("out", Value::Text("DIR"), "runs, figures and table (default: data/compare/RECIPE)"),
    ],
    operands: "",
    rest: "",
    notes: "Writes table.md and table.json. The same command goes on where it stopped: runs resume, and what\n\
            was judged is not judged again.\n\n\
            example:\n  \
              cargo xtask compare --video walk.mp4 --davis DAVIS --knn imagenette --jobs 2",
    run,
};

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let plan = Plan::read(checkout, args)?;
    let _lock = lock(&plan.out)?;
    super::build(checkout)?;
    let needs = needs(checkout, args, &plan)?;
    judge::check(checkout, &plan, &needs)?;
    let stores = train::ingest_videos(checkout, &needs[0], args.forward(&["fps"]))?;
    let runs = plan.runs();
    jobs::run(trainings(checkout, args, &plan, &runs, &stores)?, plan.at_once)?;
    let answers = judge::judge(checkout, &plan, &runs)?;
    table::tell(&plan, &runs, &answers)
}

/// What each variant needs, asked before the first is trained: all train on the same frames.
fn needs(checkout: &Checkout, args: &Args, plan: &Plan) -> anyhow::Result<Vec<Needs>> {
    let of =
        |variant: &Variant| train::ask_for_needs(checkout, &plan.recipe, args, &variant.overrides);
    let needs: Vec<Needs> = plan.variants.iter().map(of).collect::<anyhow::Result<_>>()?;
    let other =
        needs.iter().zip(&plan.variants).find(|(needed, _)| !needed.has_frames_of(&needs[0]));
    match other {
        None => Ok(needs),
        Some((_, variant)) => Err(fixable(format!(
            "the variants `{}` and `{}` need other frames; give `data.videos`, `data.short_side_px` and \
             `data.jpeg_quality` to all of them by --set",
            plan.variants[0].name, variant.name
        ))),
    }
}

/// Keeps a second comparison out of the folder.
fn lock(out: &Path) -> anyhow::Result<File> {
    let shown = out.display();
    let lock = fs::create_dir_all(out).and_then(|()| File::create(out.join(".lock"))).map_err(
        |error| fixable(format!("cannot write into `{shown}`: {error}; give another --out")),
    )?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(fixable(format!(
            "another comparison writes into `{shown}`: wait for it, or give another --out"
        ))),
        Err(TryLockError::Error(error)) => Err(error).context(format!("cannot lock `{shown}`")),
    }
}

/// What trains each run, or takes it up.
fn trainings(
    checkout: &Checkout,
    args: &Args,
    plan: &Plan,
    runs: &[Run],
    stores: &[PathBuf],
) -> anyhow::Result<Vec<Job>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let job = |run: &Run| {
        let mut command = checkout.program("dora-train")?;
        command.arg("train").arg("--recipe").arg(&plan.recipe).args(args.forward(&["set"]));
        for value in &run.variant.overrides {
            command.arg("--set").arg(value);
        }
        command.arg("--set").arg(format!("train.seed={}", run.seed));
        command.arg("--run-dir").arg(&run.dir);
        for store in stores {
            command.arg("--store").arg(store);
        }
        if plan.at_once > 1 {
            command.env("OMP_NUM_THREADS", (cores / plan.at_once).max(1).to_string());
        }
        Ok(Job { name: run.name(), command, log: log_of(&run.dir) })
    };
    runs.iter().map(job).collect()
}

fn log_of(run_dir: &Path) -> PathBuf {
    run_dir.join("output.log")
}
