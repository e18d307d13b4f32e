//! A run from its first step, or from its last checkpoint, to its end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, anyhow, bail};
use dora_data::{
    augment::{ViewKeys, plain_global_views, views},
    loader::{ClipBatch, Loader, LoaderSpec},
    rng::stream,
    sampler::{Sampler, Share},
};
use dora_eval::pictures::track_strip;
use dora_model::{Network, StateDict};
use dora_store::FrameStore;
use tch::{Device, Kind};

use crate::{
    alarm::CollapseAlarm,
    checkpoint::{Checkpoints, State, StoreIdentity},
    engine::{Engine, StepError, StepOutput},
    interrupt::Interrupt,
    metrics::{MetricsFile, StepMetrics, Timing},
    plan::{Placement, StepImages, draws, method, network_config},
    progress::Progress,
    recipe::Recipe,
    run_folder::RunFolder,
    schedule::{Schedule, lr_warning},
    span::Span,
};

/// What to do about a disk that takes no more.
const ROOM: &str = "free some space or choose another --run-dir, and start the same command again";

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Steps taken in all.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// The signal that ended the run early.
    pub signal: Option<i32>,
}

/// Trains on frame stores into `run_dir`, from its newest checkpoint on when it has one; `fresh` puts
/// what is there aside first.
pub fn train(
    recipe: &Recipe,
    stores: &[PathBuf],
    run_dir: &Path,
    fresh: bool,
) -> anyhow::Result<Ended> {
    let placement = Placement::new(recipe)?;
    let device = placement.device;
    let stores = open_stores(stores)?;
    let identities: Vec<_> = stores.iter().map(|store| StoreIdentity::new(store)).collect();
    let share = Share::default();
    let sampler = Sampler::new(stores, recipe.clip, share, recipe.train.seed)?;
    let loader_spec = loader_spec(recipe);
    let steps_per_epoch = loader_spec.batches_per_epoch(&sampler)?;
    let clips_per_step = recipe.train.clips as u64 * share.world_size;
    let schedule = Schedule::new(recipe, steps_per_epoch, clips_per_step)?;
    if let Some(warning) = lr_warning(recipe, clips_per_step) {
        eprintln!("warning: {warning}");
    }

    let folder = RunFolder::open(run_dir, fresh)?;
    let checkpoints = Checkpoints::open(run_dir)?;
    let mut engine = new_engine(recipe, &placement)?;
    let start = State::new(0, recipe, &placement, identities)?;
    let mut step = resume(&start, &checkpoints, &mut engine)?;
    folder.write_recipe(&start.recipe)?;
    let mut metrics_file = MetricsFile::resume(run_dir, step)
        .with_context(|| format!("cannot go on in {}/metrics.jsonl", run_dir.display()))?;

    let every = |span: Span| span.steps(steps_per_epoch);
    let (checkpoint_every, keep_every, tracks_every) = (
        every(recipe.output.checkpoint_every),
        every(recipe.output.keep_every),
        every(recipe.output.tracks_every),
    );
    let images = StepImages::new(recipe).total();
    let first_watched = schedule.lr.warmup_steps.max(schedule.total_steps / 20);
    let mut alarm = CollapseAlarm::new(recipe.model.out_dim, first_watched, schedule.total_steps);
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let save = |engine: &Engine, step: u64| {
        checkpoints.save(engine, start.after(step), keep_every).with_context(|| {
            format!("cannot save a checkpoint; what was saved before is whole: {ROOM}")
        })
    };
    // The steps since the last checkpoint are worth keeping, whatever ends the run.
    let ending = |error: anyhow::Error, engine: &Engine, step: u64| match save(engine, step) {
        Ok(saved) => error.context(format!("the run ended early, saved in {}", saved.display())),
        Err(_) => error,
    };

    let mut signal = None;
    if step >= schedule.total_steps {
        eprintln!("this run is finished; --fresh puts it aside and starts anew");
        let checkpoint = checkpoints.folder_of(step);
        return Ok(Ended { step, total_steps: schedule.total_steps, checkpoint, signal });
    }
    let mut loader = Loader::new(sampler, loader_spec, step)?;
    let mut progress = Progress::new(step, schedule.total_steps);
    while step < schedule.total_steps && signal.is_none() {
        let started = Instant::now();
        let batch = loader.next().map_err(|error| ending(error.into(), &engine, step))?;
        let sample_ids = batch.sample_ids();
        let keys =
            ViewKeys { seed: recipe.train.seed, epoch: batch.epoch, sample_ids: &sample_ids };
        let views = views(&batch.frames_BTCHW, &recipe.views, keys, device);
        let scheduled = schedule.at(step);
        let drawn = draws(recipe, share.rank, step, device);
        let outcome = engine.step(&views.global_VBTCHW, &views.local_LBTCHW, &drawn, &scheduled);
        let output = match outcome {
            Ok(output) => output,
            Err(error) => {
                progress.end();
                return Err(stopped(error, engine.take_capture(), step + 1, run_dir));
            }
        };
        step += 1;

        let epoch = step as f64 / steps_per_epoch as f64;
        let timing =
            Timing { step_s: started.elapsed().as_secs_f64(), data_s: batch.waited_s, images };
        let metrics = StepMetrics::new(&output, engine.center(), &scheduled, (step, epoch), timing);
        if let Err(error) = metrics_file.write(&metrics) {
            let path = metrics_file.path().display();
            let error = anyhow::Error::new(error).context(format!("cannot write {path}: {ROOM}"));
            return Err(ending(error, &engine, step));
        }
        progress.step(&metrics);
        if let Some(collapse) = alarm.look(&metrics) {
            progress.say(&format!("warning: step {step}: {}", collapse.message()));
        }
        let is_last = step == schedule.total_steps;
        if !output.tracks_V.is_empty()
            && (step.is_multiple_of(tracks_every) || is_last || step == 1)
        {
            let strip = draw_tracks(&batch, recipe, keys, device, &output);
            let path = folder.tracks().join(format!("step-{step}.png"));
            if let Err(error) = strip.save(&path) {
                progress.say(&format!("warning: cannot write {}: {error}", path.display()));
            }
        }
        if is_last {
            break;
        }
        signal = interrupt.caught();
        let is_due = step.is_multiple_of(checkpoint_every) || step.is_multiple_of(keep_every);
        if is_due && signal.is_none() {
            save(&engine, step)?;
        }
    }
    progress.end();
    let checkpoint = save(&engine, step)?;
    Ok(Ended { step, total_steps: schedule.total_steps, checkpoint, signal })
}

/// The engine of a recipe with its first weights, a function of the seed.
pub fn new_engine(recipe: &Recipe, placement: &Placement) -> anyhow::Result<Engine> {
    let config = network_config(recipe);
    let weights = Network::init(&config, &mut stream(recipe.train.seed, "weights", &[]));
    let method = method(recipe, placement);
    Ok(Engine::new(&config, method, &weights, placement.device, Kind::Float)?)
}

fn loader_spec(recipe: &Recipe) -> LoaderSpec {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    LoaderSpec {
        clips_per_batch: recipe.train.clips,
        crop: recipe.crop,
        threads: if recipe.data.threads == 0 { cores } else { recipe.data.threads },
        prefetch_batches: recipe.data.prefetch_batches,
    }
}

fn open_stores(folders: &[PathBuf]) -> anyhow::Result<Vec<Arc<FrameStore>>> {
    let mut stores = Vec::with_capacity(folders.len());
    for folder in folders {
        let store = FrameStore::open(folder)?;
        if !store.is_complete() {
            let folder = folder.display();
            bail!(
                "the frame store {folder} is not finished: run `cargo xtask ingest` for its video again"
            );
        }
        stores.push(Arc::new(store));
    }
    Ok(stores)
}

/// Loads the newest whole checkpoint; returns the steps that it has taken.
fn resume(start: &State, checkpoints: &Checkpoints, engine: &mut Engine) -> anyhow::Result<u64> {
    let found = checkpoints.newest().context(
        "every checkpoint of this run is damaged: `--fresh` puts the run aside and starts anew",
    )?;
    let Some(found) = found else { return Ok(0) };
    let shown = found.folder.display();
    let differences = start
        .differences(&found.state)
        .with_context(|| format!("the recipe in {shown} cannot be read by this version"))?;
    if !differences.is_empty() {
        bail!(
            "the run in {shown} cannot go on, since it was started differently:\n  {}\nstart it as it was, give another --run-dir, or put it aside with --fresh",
            differences.join("\n  ")
        );
    }
    found.load_into(engine).with_context(|| format!("cannot load {shown}"))?;
    eprintln!("going on from {shown}");
    let step = found.state.step;
    for (folder, flaw) in found.damaged {
        eprintln!("warning: {:#}; the checkpoint before it is used", anyhow::Error::new(flaw));
        checkpoints.set_aside(&folder);
    }
    Ok(step)
}

fn draw_tracks(
    batch: &ClipBatch,
    recipe: &Recipe,
    keys: ViewKeys<'_>,
    device: Device,
    output: &StepOutput,
) -> image::RgbImage {
    let first = batch.frames_BTCHW.narrow(0, 0, 1);
    let keys = ViewKeys { sample_ids: &keys.sample_ids[..1], ..keys };
    let plain_VBTCHW = plain_global_views(&first, &recipe.views, keys, device);
    let frames_TCHW = plain_VBTCHW.get(0).get(0).to_device(Device::Cpu);
    let masks_TKN = output.tracks_V[0].masks_BTKN.get(0).to_device(Device::Cpu);
    track_strip(&frames_TCHW, &masks_TKN, recipe.model.patch_px)
}

/// The error of a step that failed, after its capture is written.
fn stopped(
    error: StepError,
    capture: Option<StateDict>,
    step: u64,
    run_dir: &Path,
) -> anyhow::Error {
    let StepError::NonFinite { .. } = error else {
        return anyhow::Error::new(error).context(format!("step {step} failed"));
    };
    let path = run_dir.join(format!("capture-step-{step}.safetensors"));
    let captured = match capture.map(|capture| capture.write(&path)) {
        None => String::new(),
        Some(Ok(())) => format!("; what the step worked on lies in {}", path.display()),
        Some(Err(reason)) => {
            format!("; what it worked on was not kept: {reason}")
        }
    };
    anyhow!(
        "step {step} stopped the run: {error}{captured}; start anew with a lower `train.lr` and \
         another --run-dir"
    )
}
