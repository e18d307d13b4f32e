//! What a run writes and shows; on the first rank only.

use std::{
    fs,
    io::{self, Cursor},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use dora_data::{
    augment::{ViewKeys, plain_global_views},
    loader::ClipBatch,
    say,
};
use dora_eval::{encoder::Encoder, pictures::track_strip};
use image::ImageFormat;
use serde::Serialize;
use tch::Device;

use crate::{
    alarm::CollapseAlarm,
    checkpoint::{Checkpoints, Found, State},
    engine::{Engine, StepOutput},
    metrics::{MetricsFile, StepMetrics},
    monitor::{Monitor, Protocol},
    plan::network_config,
    position::Position,
    progress::Progress,
    recipe::{Differences, Recipe},
    run_folder::RunFolder,
    schedule::Schedule,
    step_lines::StepLines,
    tensorboard::{Picture, TensorBoard},
};

/// What to do about a disk that takes no more.
const ROOM: &str = "free some space or choose another --run-dir, and start the same command again";

/// The run's folder before its first step: locked, and its newest checkpoint known.
#[derive(Debug)]
pub(crate) struct Opened {
    folder: RunFolder,
    checkpoints: Checkpoints,
    start: State,
    /// Steps that have been taken.
    pub(crate) step: u64,
    /// What of the data they have seen.
    pub(crate) position: Position,
    /// What the user changes of the run from here on, one sentence each.
    changes: Vec<String>,
}

/// A line of `changes.jsonl`: what a run was resumed with after `step` steps that it was not started with.
#[derive(Debug, Serialize)]
struct Changes<'a> {
    step: u64,
    changes: &'a [String],
}

/// Folder, checkpoints, metrics, pictures, and the progress that the user sees.
#[derive(Debug)]
pub(crate) struct Records {
    folder: RunFolder,
    checkpoints: Checkpoints,
    start: State,
    metrics: MetricsFile,
    monitor: Option<Monitor>,
    board: TensorBoard,
    progress: Progress,
    alarm: CollapseAlarm,
}

impl Opened {
    /// Opens the folder and loads its newest whole checkpoint, if it has one, into the engine. With
    /// `allow_changes` it may come from a run whose recipe was another, as far as the state allows.
    pub(crate) fn new(
        run_dir: &Path,
        start: State,
        engine: &mut Engine,
        allow_changes: bool,
    ) -> anyhow::Result<Self> {
        let folder = RunFolder::open(run_dir)?;
        let checkpoints = Checkpoints::open(run_dir)?;
        let found = checkpoints.newest().context(
            "no checkpoint of this run can be used: `--fresh` puts the run aside and starts anew",
        )?;
        let Some(found) = found else {
            let (position, changes) = (Position::default(), Vec::new());
            return Ok(Self { folder, checkpoints, start, step: 0, position, changes });
        };
        let changes = resume(&start, &found, engine, allow_changes)?;
        let (step, position) = (found.state.step, found.state.position);
        for (folder, flaw) in found.damaged {
            say!("warning: {:#}; the checkpoint before it is used", anyhow::Error::new(flaw));
            checkpoints.set_aside(&folder);
        }
        Ok(Self { folder, checkpoints, start, step, position, changes })
    }

    /// Where the checkpoint of the last step lies.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.checkpoints.folder_of(self.step)
    }

    /// Opens what the steps of a run are written to; `last_step` is the number of its last one.
    pub(crate) fn begin(
        self,
        recipe: &Recipe,
        protocols: Vec<Box<dyn Protocol>>,
        schedule: &Schedule,
        last_step: u64,
    ) -> anyhow::Result<Records> {
        let Self { folder, checkpoints, start, step, changes, .. } = self;
        folder.write_recipe(&start.recipe)?;
        record(&changes, folder.path(), step)
            .with_context(|| format!("cannot write {}/changes.jsonl", folder.path().display()))?;
        let metrics = MetricsFile::resume(folder.path(), step).with_context(|| {
            format!("cannot go on in {}/metrics.jsonl", folder.path().display())
        })?;
        let judges = !protocols.is_empty();
        let monitor = judges.then(|| Monitor::resume(protocols, folder.path(), step)).transpose();
        let monitor = monitor.with_context(|| {
            format!("cannot go on in {}/monitor.jsonl", folder.path().display())
        })?;
        let board = folder.tensorboard();
        let board = TensorBoard::resume(&board, step)
            .with_context(|| format!("cannot write into {}", board.display()))?;
        let first_watched = schedule.lr.warmup_steps.max(last_step / 20);
        Ok(Records {
            metrics,
            monitor,
            board,
            progress: Progress::new(step, last_step),
            alarm: CollapseAlarm::new(recipe.model.out_dim, first_watched, last_step),
            folder,
            checkpoints,
            start,
        })
    }
}

impl Records {
    /// Writes and shows a step.
    pub(crate) fn step(&mut self, metrics: &StepMetrics) -> anyhow::Result<()> {
        self.metrics
            .write(metrics)
            .with_context(|| format!("cannot write {}: {ROOM}", self.metrics.path().display()))?;
        self.board
            .scalars(metrics.step, &metrics.scalars())
            .with_context(|| format!("cannot write {}: {ROOM}", self.board.path().display()))?;
        self.progress.step(metrics);
        if metrics.is_skipped {
            let step = metrics.step;
            self.progress
                .say(&format!("step {step} was skipped: its loss or a gradient is not finite"));
        }
        if let Some(collapse) = self.alarm.look(metrics) {
            let step = metrics.step;
            self.progress.say(&format!("warning: step {step}: {}", collapse.message()));
        }
        Ok(())
    }

    /// Judges the teacher after `step` steps by what the recipe asks for. `goes_on` is asked now and then;
    /// what it ends is left out.
    pub(crate) fn judge(
        &mut self,
        engine: &Engine,
        recipe: &Recipe,
        step: u64,
        goes_on: &mut dyn FnMut() -> bool,
    ) {
        let Some(monitor) = &mut self.monitor else { return };
        let state = engine.teacher().state().strip_prefix("backbone.");
        let (config, device) = (network_config(recipe).vit, engine.center().device());
        match Encoder::new(format!("teacher after {step} steps"), &state, config, device) {
            Ok(encoder) => {
                monitor.judge(&encoder, step, &mut self.progress, &mut self.board, goes_on);
            }
            Err(error) => self.progress.say(&format!("warning: {error}")),
        }
    }

    /// Draws the tracks of a batch's first clip.
    pub(crate) fn tracks(
        &mut self,
        batch: &ClipBatch,
        recipe: &Recipe,
        output: &StepOutput,
        step: u64,
    ) {
        let first = batch.frames_BTCHW.narrow(0, 0, 1);
        let sample_ids = batch.sample_ids();
        let (seed, sample_ids) = (recipe.train.seed, &sample_ids[..1]);
        let keys = ViewKeys { seed, epoch: batch.epoch, sample_ids };
        let plain_VBTCHW = plain_global_views(&first, &recipe.views, keys, Device::Cpu);
        let frames_TCHW = plain_VBTCHW.get(0).get(0);
        let masks_TKN = output.tracks_V[0].masks_BTKN.get(0).to_device(Device::Cpu);
        let path = self.folder.tracks().join(format!("step-{step}.png"));
        let strip = track_strip(&frames_TCHW, &masks_TKN, recipe.model.patch_px);
        let (width_px, height_px) = strip.dimensions();
        let mut png = Vec::new();
        let written = strip
            .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
            .map_err(anyhow::Error::new)
            .and_then(|()| Ok(fs::write(&path, &png)?));
        if let Err(error) = written {
            self.progress.say(&format!("warning: cannot write {}: {error}", path.display()));
            return;
        }
        let picture = Picture { width_px, height_px, png: &png };
        if let Err(error) = self.board.picture("train/tracks", step, picture) {
            let path = self.board.path().display();
            self.progress.say(&format!("warning: cannot write {path}: {error}"));
        }
    }

    /// Saves the engine after `step` steps; for good if `is_kept`.
    pub(crate) fn save(
        &self,
        engine: &Engine,
        step: u64,
        position: Position,
        is_kept: bool,
    ) -> anyhow::Result<PathBuf> {
        let state = self.start.after(step, position, is_kept);
        self.checkpoints.save(engine, state).with_context(|| {
            format!("cannot save a checkpoint; what was saved before is whole: {ROOM}")
        })
    }

    /// Where the checkpoint after `step` steps lies.
    pub(crate) fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints.folder_of(step)
    }

    /// Takes the progress bar away.
    pub(crate) fn end(&self) {
        self.progress.end();
    }
}

/// Loads a checkpoint; returns what of the run is changed from here on.
fn resume(
    start: &State,
    found: &Found,
    engine: &mut Engine,
    allow_changes: bool,
) -> anyhow::Result<Vec<String>> {
    let shown = found.folder.display();
    let Differences { changeable, fixed } = start
        .differences(&found.state)
        .with_context(|| format!("the recipe in {shown} cannot be read by this version"))?;
    if !fixed.is_empty() || !(allow_changes || changeable.is_empty()) {
        let allow = if fixed.is_empty() { "allow it with --allow-changes, " } else { "" };
        let refused = if allow_changes { fixed } else { [fixed, changeable].concat() };
        bail!(
            "the run in {shown} cannot be resumed, since it was started differently:\n  {}\n{allow}start it as it was, give another --run-dir, or put it aside with --fresh",
            refused.join("\n  ")
        );
    }
    found.load_into(engine).with_context(|| format!("cannot load {shown}"))?;
    say!("going on from {shown}");
    for change in &changeable {
        say!("changed from here on: {change}");
    }
    let (before, now) = (found.state.world_size, start.world_size);
    if before != now {
        say!(
            "the run was started with {before} process(es) and goes on with {now}: the order of its clips stays, but not every bit of its numbers"
        );
    }
    Ok(changeable)
}

/// Writes down what is changed after `step` steps.
fn record(changes: &[String], run_dir: &Path, step: u64) -> io::Result<()> {
    let path = run_dir.join("changes.jsonl");
    if changes.is_empty() && !path.exists() {
        return Ok(());
    }
    // The checkpoint of this step knows of no change after it: what stands there of one led to no other.
    let mut lines = StepLines::resume(path, step.saturating_sub(1))?;
    if changes.is_empty() { Ok(()) } else { lines.write(&Changes { step, changes }) }
}
