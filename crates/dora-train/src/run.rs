//! A run from its first step, or from its last checkpoint, to its end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, anyhow, bail};
use dora_data::{
    augment::{ViewKeys, views},
    loader::{ClipBatch, Loader, LoaderSpec},
    rng::stream,
    sampler::Sampler,
    say,
};
use dora_eval::interrupt::Interrupt;
use dora_model::{Network, StateDict};
use dora_store::FrameStore;
use signal_hook::consts::SIGUSR1;
use tch::{Device, Kind};
use torch_ext::keep_freed_memory;

use crate::{
    checkpoint::{State, StoreIdentity},
    engine::{Engine, Scheduled, StepError, StepOutput},
    guard::memory_error,
    metrics::{StepMetrics, Timing},
    monitor,
    plan::{Placement, StepImages, draws, method, network_config},
    position::{Pace, Position},
    recipe::Recipe,
    records::{Opened, Records},
    schedule::{Schedule, lr_warning},
    span::Span,
    world::{Settled, World, first_line, lost},
};

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Steps taken in all.
    pub step: u64,
    /// Steps of the whole run.
    pub last_step: u64,
    /// The newest checkpoint, on the first rank.
    pub checkpoint: Option<PathBuf>,
    /// The signal that ended the run early.
    pub signal: Option<i32>,
}

/// Trains on frame stores into `run_dir`, from its newest checkpoint on when it has one, as one of
/// the processes of `world`; only the first of them reads and writes in `run_dir`. With `allow_changes`
/// a checkpoint of another recipe will do where its state allows that.
pub fn train(
    recipe: &Recipe,
    placement: &Placement,
    stores: &[PathBuf],
    run_dir: &Path,
    allow_changes: bool,
    world: &World,
) -> anyhow::Result<Ended> {
    let interrupt =
        world.all_ok(Interrupt::listen(&[SIGUSR1]).context("cannot listen for signals"))?;
    let protocols = world.on_first(|| monitor::protocols(recipe))?;
    let Prepared { sampler, loader_spec, pace, schedule, start } =
        world.all_ok(prepare(recipe, placement, stores, world))?;
    world.check_same("another recipe", start.recipe_digest())?;
    world.check_same("other frame stores", start.stores_digest())?;

    let mut engine = world.all_ok(new_engine(recipe, placement, world))?;
    let opened = world.on_first(|| Opened::new(run_dir, start, &mut engine, allow_changes))?;
    let (step, position) = share_start(world, opened.as_ref(), &engine)?;
    let batches = pace.batches_to(position);
    let at = match recipe.train.length {
        Span::Steps(_) => step,
        Span::Epochs(_) => batches.div_ceil(pace.batches_per_step),
    };
    let last_step = step + schedule.total_steps.saturating_sub(at);
    if at >= schedule.total_steps {
        if world.is_first() {
            say!("this run is finished; --fresh puts it aside and starts anew");
        }
        let checkpoint = opened.map(|opened| opened.checkpoint());
        return Ok(Ended { step, last_step, checkpoint, signal: None });
    }
    let protocols = protocols.unwrap_or_default();
    let records = opened.map(|opened| opened.begin(recipe, protocols, &schedule, last_step));
    let mut records = world.all_ok(records.transpose())?;
    let loader = Loader::new(sampler, loader_spec, batches).context("cannot load clips");
    let loader = world.all_ok(loader)?;

    let mut run = Run {
        recipe,
        world,
        device: placement.device,
        schedule,
        pace,
        engine,
        loader,
        interrupt,
        step,
        at,
        batches,
        saved_step: Some(step).filter(|step| *step > 0),
    };
    let outcome = run.finish(&mut records);
    if let Some(records) = &records {
        records.end();
    }
    let signal = outcome.map_err(|error| run.ended_early(error, records.as_ref(), run_dir))?;
    let checkpoint = run.save(records.as_ref())?;
    Ok(Ended { step: run.step, last_step, checkpoint, signal })
}

/// The engine of a recipe with its first weights, a function of the seed.
pub fn new_engine(recipe: &Recipe, placement: &Placement, world: &World) -> anyhow::Result<Engine> {
    if placement.device == Device::Cpu {
        keep_freed_memory();
    }
    let config = network_config(recipe);
    let weights = Network::init(&config, &mut stream(recipe.train.seed, "weights", &[]));
    let method = method(recipe, placement);
    let group = world.group.clone();
    let mut engine = Engine::new(&config, method, &weights, placement.device, Kind::Float, group)?;
    engine.set_checkpoint_blocks(recipe.train.checkpoint_blocks);
    Ok(engine)
}

/// A run under way.
struct Run<'a> {
    recipe: &'a Recipe,
    world: &'a World,
    device: Device,
    schedule: Schedule,
    pace: Pace,
    engine: Engine,
    loader: Loader,
    interrupt: Interrupt,
    /// Steps taken since the run's beginning.
    step: u64,
    /// Steps taken on the schedule: others than `step` where epochs have another number of steps since
    /// the number of processes has changed.
    at: u64,
    /// Batches of the data, at the present pace, that have been seen.
    batches: u64,
    /// The step after which a checkpoint was saved last.
    saved_step: Option<u64>,
}

/// What happened at a step's place.
enum Turn {
    Taken { output: StepOutput, last_batch: ClipBatch, data_s: f64 },
    Stopped { signal: i32 },
}

impl Run<'_> {
    /// Steps until the schedule ends or a signal comes, which is given back.
    fn finish(&mut self, records: &mut Option<Records>) -> anyhow::Result<Option<i32>> {
        let output = &self.recipe.output;
        let [checkpoint_every, tracks_every, monitor_every] =
            [output.checkpoint_every, output.tracks_every, self.recipe.monitor.every]
                .map(|span| span.steps(self.pace.steps_per_epoch()));
        let batches = self.pace.batches_per_step * self.world.share.world_size;
        let images = StepImages::new(self.recipe).total() * batches as i64;
        // What could not be recorded ends the run on every rank, before the next step.
        let mut recorded = Ok(());
        // Before the first step, or what a run that was ended did not come to.
        if self.at.is_multiple_of(monitor_every) {
            self.judge(records)?;
        }
        while self.at < self.schedule.total_steps {
            let started = Instant::now();
            let scheduled = self.schedule.at(self.at);
            let (output, last_batch, data_s) = match self.turn(recorded, &scheduled)? {
                Turn::Taken { output, last_batch, data_s } => (output, last_batch, data_s),
                Turn::Stopped { signal } => return Ok(Some(signal)),
            };
            recorded = Ok(());
            (self.step, self.at) = (self.step + 1, self.at + 1);
            self.batches += self.pace.batches_per_step;
            let is_last = self.at == self.schedule.total_steps;
            if let Some(records) = records {
                let epoch = self.batches as f64 / self.pace.batches_per_epoch as f64;
                let timing = Timing { step_s: started.elapsed().as_secs_f64(), data_s, images };
                let metrics =
                    StepMetrics::new(&output, &self.engine, &scheduled, (self.step, epoch), timing);
                recorded = records.step(&metrics);
                let is_due = self.at.is_multiple_of(tracks_every) || is_last || self.step == 1;
                if is_due && !output.tracks_V.is_empty() {
                    records.tracks(&last_batch, self.recipe, &output, self.step);
                }
            }
            if self.at.is_multiple_of(monitor_every) || is_last {
                self.judge(records)?;
            }
            if (self.at.is_multiple_of(checkpoint_every) || self.is_kept()) && !is_last {
                self.save(records.as_ref())?;
            }
        }
        self.world.all_ok(recorded)?;
        Ok(None)
    }

    /// Judges the teacher on the first rank if the recipe asks for it; the others wait. A signal ends it.
    fn judge(&self, records: &mut Option<Records>) -> anyhow::Result<()> {
        if !self.recipe.monitor.is_on() {
            return Ok(());
        }
        let judged = self.world.wait_for_first(|still_here| {
            let mut alive = Ok(());
            let mut goes_on = || {
                alive = still_here();
                alive.is_ok() && self.interrupt.caught().is_none()
            };
            if let Some(records) = records {
                records.judge(&self.engine, self.recipe, self.step, &mut goes_on);
            }
            alive
        })?;
        judged.unwrap_or(Ok(()))
    }

    /// One step: its batches, their gradients, the update. Every rank stops before it if one got a
    /// signal, and fails if one has no batch or could not record the step before.
    fn turn(
        &mut self,
        recorded: anyhow::Result<()>,
        scheduled: &Scheduled,
    ) -> anyhow::Result<Turn> {
        let first = recorded.and_then(|()| Ok(self.loader.next()?));
        let (mut batch, signal) = self.world.agree(first, self.interrupt.caught())?;
        if let Some(signal) = signal {
            return Ok(Turn::Stopped { signal });
        }
        let mut data_s = batch.waited_s;
        self.learn_from(&batch, 0, scheduled)?;
        for index in 1..self.pace.batches_per_step {
            let next = self.loader.next().map_err(anyhow::Error::new);
            (batch, _) = self.world.agree(next, None)?;
            data_s += batch.waited_s;
            self.learn_from(&batch, index, scheduled)?;
        }
        let output = self.engine.update(scheduled)?;
        Ok(Turn::Taken { output, last_batch: batch, data_s })
    }

    /// Adds to the gradients what the batch of this index in its step teaches.
    fn learn_from(
        &mut self,
        batch: &ClipBatch,
        index: u64,
        scheduled: &Scheduled,
    ) -> Result<(), StepError> {
        let (recipe, sample_ids) = (self.recipe, batch.sample_ids());
        let keys =
            ViewKeys { seed: recipe.train.seed, epoch: batch.epoch, sample_ids: &sample_ids };
        let views = views(&batch.frames_BTCHW, &recipe.views, keys, self.device);
        let draws = draws(recipe, self.world.share.rank, self.batches + index, self.device);
        self.engine.backward(&views.global_VBTCHW, &views.local_LBTCHW, &draws, scheduled)
    }

    /// Whether the checkpoint after the last step is kept for good.
    fn is_kept(&self) -> bool {
        let keep_every = self.recipe.output.keep_every.steps(self.pace.steps_per_epoch());
        self.at.is_multiple_of(keep_every)
    }

    /// Saves on the first rank unless that is done, and fails on every rank if it cannot.
    fn save(&mut self, records: Option<&Records>) -> anyhow::Result<Option<PathBuf>> {
        if self.saved_step == Some(self.step) {
            return Ok(records.map(|records| records.checkpoint(self.step)));
        }
        let saved = records.map(|records| self.save_here(records)).transpose();
        let saved = self.world.all_ok(saved)?;
        self.saved_step = Some(self.step);
        Ok(saved)
    }

    fn save_here(&self, records: &Records) -> anyhow::Result<PathBuf> {
        let position = self.pace.position(self.batches);
        records.save(&self.engine, self.step, position, self.is_kept())
    }

    /// The error that ends a run. The steps since the last checkpoint are worth keeping, unless a
    /// number that is not finite would come again.
    fn ended_early(
        &mut self,
        error: anyhow::Error,
        records: Option<&Records>,
        run_dir: &Path,
    ) -> anyhow::Error {
        let failed_step = self.step + 1;
        let error = match error.downcast::<StepError>() {
            Ok(error @ StepError::NonFinite { .. }) => {
                let path = capture_path(run_dir, failed_step, self.world);
                return stopped(&error, self.engine.take_capture(), failed_step, &path);
            }
            Ok(error) => match memory_error(&error.to_string()) {
                Some(short_of_memory) => short_of_memory,
                None if self.world.group.is_some() => lost(&error.to_string()),
                None => anyhow!("step {failed_step} failed: {}", first_line(&error.to_string())),
            },
            Err(error) => error,
        };
        // Where all know of the error, all wait for the save; otherwise a rank may be gone.
        let saved = if error.is::<Settled>() {
            self.save(records)
        } else {
            records.map(|records| self.save_here(records)).transpose()
        };
        match saved {
            Ok(Some(saved)) => {
                error.context(format!("the run ended early, saved in {}", saved.display()))
            }
            Ok(None) | Err(_) => error,
        }
    }
}

/// What every rank finds out for itself before the first step.
struct Prepared {
    sampler: Sampler<FrameStore>,
    loader_spec: LoaderSpec,
    pace: Pace,
    schedule: Schedule,
    start: State,
}

fn prepare(
    recipe: &Recipe,
    placement: &Placement,
    stores: &[PathBuf],
    world: &World,
) -> anyhow::Result<Prepared> {
    let stores = open_stores(stores)?;
    let identities: Vec<_> = stores.iter().map(|store| StoreIdentity::new(store)).collect();
    let sampler = Sampler::new(stores, recipe.clip, world.share, recipe.train.seed)?;
    let loader_spec = loader_spec(recipe, world);
    let pace = Pace {
        batches_per_epoch: loader_spec.batches_per_epoch(&sampler)?,
        batches_per_step: recipe.train.gradient_accumulation_steps as u64,
        clips_per_batch: recipe.train.clips as u64 * world.share.world_size,
    };
    let schedule = Schedule::new(recipe, pace.steps_per_epoch(), pace.clips_per_step())?;
    if world.is_first() {
        let lr = lr_warning(recipe, pace.clips_per_step());
        for warning in lr.into_iter().chain(placement.warning().map(str::to_owned)) {
            say!("warning: {warning}");
        }
    }
    let start = State::new(recipe, placement, world.share.world_size, identities)?;
    Ok(Prepared { sampler, loader_spec, pace, schedule, start })
}

/// Gives every rank what the first has loaded: where the run stands, and the engine's tensors if it
/// has begun.
fn share_start(
    world: &World,
    opened: Option<&Opened>,
    engine: &Engine,
) -> anyhow::Result<(u64, Position)> {
    let known = opened.map(|opened| (opened.step, opened.position)).unwrap_or_default();
    let (step, Position { epoch, clips }) = known;
    let numbers = [step, epoch, clips].map(|number| number as i64);
    let [step, epoch, clips] = world.broadcast_numbers(numbers)?.map(|number| number as u64);
    if step > 0 {
        for tensor in engine.shared_tensors() {
            world.broadcast(&tensor)?;
        }
    }
    Ok((step, Position { epoch, clips }))
}

fn loader_spec(recipe: &Recipe, world: &World) -> LoaderSpec {
    LoaderSpec {
        clips_per_batch: recipe.train.clips,
        crop: recipe.crop,
        threads: if recipe.data.threads == 0 { world.cores() } else { recipe.data.threads },
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

/// Where a rank leaves what a step that failed worked on.
fn capture_path(run_dir: &Path, step: u64, world: &World) -> PathBuf {
    let rank = match world.group {
        Some(_) => format!("-rank-{}", world.share.rank),
        None => String::new(),
    };
    run_dir.join(format!("capture-step-{step}{rank}.safetensors"))
}

/// The error of a step whose numbers are not finite, after its capture is written.
fn stopped(error: &StepError, capture: Option<StateDict>, step: u64, path: &Path) -> anyhow::Error {
    let captured = match capture.map(|capture| capture.write(path)) {
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
