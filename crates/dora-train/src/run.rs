//! A run from its first step, or from its last checkpoint, to its end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, anyhow, bail};
use dora_data::{
    augment::Views,
    loader::{ClipBatch, Loader, LoaderSpec},
    rng::stream,
    sampler::Sampler,
    say,
};
use dora_eval::interrupt::Interrupt;
use dora_model::Network;
use dora_store::FrameStore;
use signal_hook::consts::SIGUSR1;
use tch::{Device, Kind};
use torch_ext::keep_freed_memory;

use crate::{
    checkpoint::{State, StoreIdentity},
    engine::{Engine, NonFinite, StepError, StepOutput},
    feed::{FedBatch, Feed},
    guard::memory_error,
    metrics::{StepRead, StepReadBack, Timing},
    monitor,
    notice::Notice,
    plan::{Placement, StepImages, draws, method, network_config},
    position::{Pace, Position},
    recipe::{GradientCompression, Recipe},
    records::{Opened, Records},
    scaler::MOST_OVERFLOWS,
    schedule::{Schedule, lr_warning},
    span::Span,
    synthetic::synthetic_views,
    world::{Settled, World, first_line, lost},
};

/// Steps in a row that may be skipped: after as many no later one is expected to be finite either.
const MOST_SKIPPED: u32 = 5;

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Steps in all, skipped ones included.
    pub step: u64,
    /// Steps of this process that were skipped, since a number was not finite.
    pub skipped_steps: u64,
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
        return Ok(Ended { step, skipped_steps: 0, last_step, checkpoint, signal: None });
    }
    let protocols = protocols.unwrap_or_default();
    let records = opened.map(|opened| opened.begin(recipe, protocols, &schedule, last_step));
    let mut records = world.all_ok(records.transpose())?;
    let loader = Loader::new(sampler, loader_spec, batches).context("cannot load clips");
    let feed = loader
        .and_then(|loader| Feed::new(loader, recipe, world.share.rank, placement.device, batches));
    let feed = world.all_ok(feed)?;

    let mut run = Run {
        recipe,
        run_dir,
        world,
        device: placement.device,
        schedule,
        pace,
        engine,
        feed,
        interrupt,
        place: Place { step, at, batches },
        in_flight: None,
        last: None,
        queued: Instant::now(),
        skipped_steps: 0,
        skipped_in_a_row: 0,
        fault: None,
        saved_step: Some(step).filter(|step| *step > 0),
    };
    let outcome = run.finish(&mut records);
    let outcome = outcome.map_err(|error| run.ended_early(error, &mut records));
    if let Some(records) = &records {
        records.end();
    }
    let signal = outcome?;
    let checkpoint = run.save(records.as_ref())?;
    let (step, skipped_steps) = (run.place.step, run.skipped_steps);
    Ok(Ended { step, skipped_steps, last_step, checkpoint, signal })
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
    if recipe.train.gradient_compression == GradientCompression::Bfloat16 {
        engine.compress_gradients()?;
    }
    engine.set_checkpoint_blocks(recipe.train.checkpoint_blocks);
    Ok(engine)
}

/// The batches of a recipe from frame stores, from the first on.
pub(crate) fn new_feed(
    recipe: &Recipe,
    placement: &Placement,
    stores: &[PathBuf],
    world: &World,
) -> anyhow::Result<Feed> {
    let sampler = Sampler::new(open_stores(stores)?, recipe.clip, world.share, recipe.train.seed)?;
    let loader =
        Loader::new(sampler, loader_spec(recipe, world), 0).context("cannot load clips")?;
    Feed::new(loader, recipe, world.share.rank, placement.device, 0)
}

/// A run under way.
struct Run<'a> {
    recipe: &'a Recipe,
    run_dir: &'a Path,
    world: &'a World,
    device: Device,
    schedule: Schedule,
    pace: Pace,
    engine: Engine,
    feed: Feed,
    interrupt: Interrupt,
    place: Place,
    /// The step that was queued last, whose numbers have not been read.
    in_flight: Option<InFlight>,
    last: Option<Last>,
    /// When the last step was queued.
    queued: Instant,
    /// Steps that were skipped, of this process's.
    skipped_steps: u64,
    /// The last of them, up to the first that was not.
    skipped_in_a_row: u32,
    /// Why this rank cannot go on, until all ranks know of it.
    fault: Option<anyhow::Error>,
    /// The step after which a checkpoint was saved last.
    saved_step: Option<u64>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Steps since the run's beginning.
    step: u64,
    /// Steps on the schedule: others than `step` where epochs have another number of steps since the
    /// number of processes has changed.
    at: u64,
    /// Batches of the data, at the present pace, that have been seen.
    batches: u64,
}

/// Why a run ended whose numbers would not be finite again: its last steps are not worth keeping.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);

/// A step whose numbers are on their way from the device.
struct InFlight {
    read_back: StepReadBack,
    /// Where the run was before it.
    before: Place,
}

/// The step that was queued last, in flight or not.
struct Last {
    output: StepOutput,
    /// The clips of its last batch; none if this rank had none.
    clips: Option<ClipBatch>,
}

impl Run<'_> {
    /// Steps until the schedule ends or a signal comes, which is given back. The numbers of a step are
    /// read once the next one is queued, so that the device always has work.
    fn finish(&mut self, records: &mut Option<Records>) -> anyhow::Result<Option<i32>> {
        let output = &self.recipe.output;
        let [checkpoint_every, tracks_every, monitor_every] =
            [output.checkpoint_every, output.tracks_every, self.recipe.monitor.every]
                .map(|span| span.steps(self.pace.steps_per_epoch()));
        // Before the first step, or what a run that was ended did not come to.
        if self.place.at.is_multiple_of(monitor_every) {
            self.judge(records)?;
        }
        let mut ended_by = None;
        while ended_by.is_none() && self.place.at < self.schedule.total_steps {
            if let (None, Some(signal)) = (&self.world.group, self.interrupt.caught()) {
                self.confirm_all(records)?;
                return Ok(Some(signal));
            }
            let queued = self.queue_step()?;
            let before = self.in_flight.replace(queued);
            let mut signal = self.confirm(before, records)?;
            let Place { step, at, .. } = self.place;
            let is_last = at == self.schedule.total_steps;
            let judges = at.is_multiple_of(monitor_every) || is_last;
            let draws = at.is_multiple_of(tracks_every) || is_last || step == 1;
            let saves = (at.is_multiple_of(checkpoint_every) || self.is_kept()) && !is_last;
            if draws || judges || saves || signal.is_some() {
                signal = signal.or(self.confirm_all(records)?);
            }
            if draws
                && let (Some(records), Some(Last { output, clips: Some(clips) })) =
                    (&mut *records, &self.last)
                && !output.tracks_V.is_empty()
            {
                records.tracks(clips, self.recipe, output, step);
            }
            if judges {
                self.judge(records)?;
            }
            if saves {
                self.save(records.as_ref())?;
            }
            ended_by = signal.filter(|_| !is_last);
        }
        self.world.all_ok(self.fault.take().map_or(Ok(()), Err))?;
        Ok(ended_by)
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
                records.judge(&self.engine, self.recipe, self.place.step, &mut goes_on);
            }
            alive
        })?;
        judged.unwrap_or(Ok(()))
    }

    /// Queues one step: its batches, their gradients, the update. A rank of several that has no batch
    /// or another fault takes part all the same, for the others wait for it; the step then changes
    /// nothing on any rank.
    fn queue_step(&mut self) -> anyhow::Result<InFlight> {
        let before = self.place;
        let scheduled = self.schedule.at(before.at);
        let mut data_s = 0.0;
        let mut last_clips = None;
        for _ in 0..self.pace.batches_per_step {
            let (views, draws) = match self.feed.next() {
                Ok(FedBatch { views, draws, clips, waited_s }) => {
                    data_s += waited_s;
                    last_clips = Some(clips);
                    (views, draws)
                }
                Err(error) if self.world.group.is_none() => return Err(error),
                Err(error) => {
                    self.fault.get_or_insert(error);
                    let draws = draws(self.recipe, self.world.share.rank, 0, self.device);
                    (synthetic_views(self.recipe, self.device), draws)
                }
            };
            let Views { global_VBTCHW, local_LBTCHW } = &views;
            self.engine.backward(global_VBTCHW, local_LBTCHW, &draws, &scheduled)?;
        }
        let notice = Notice { fault: self.fault.is_some(), signal: self.interrupt.caught() };
        let output = self.engine.update(&scheduled, notice)?;
        self.place = Place {
            step: before.step + 1,
            at: before.at + 1,
            batches: before.batches + self.pace.batches_per_step,
        };
        let now = Instant::now();
        let batches = self.pace.batches_per_step * self.world.share.world_size;
        let timing = Timing {
            step_s: now.duration_since(self.queued).as_secs_f64(),
            data_s,
            images: StepImages::new(self.recipe).total() * batches as i64,
        };
        self.queued = now;
        let epoch = self.place.batches as f64 / self.pace.batches_per_epoch as f64;
        let place = (self.place.step, epoch);
        let read_back = StepReadBack::start(&output, &self.engine, &scheduled, place, timing)?;
        self.last = Some(Last { output, clips: last_clips });
        Ok(InFlight { read_back, before })
    }

    /// Reads a step's numbers and records them; gives the signal that ends the run after the steps that
    /// are queued.
    ///
    /// # Errors
    /// On every rank: one had a fault, or too many steps in a row were skipped.
    fn confirm(
        &mut self,
        step: Option<InFlight>,
        records: &mut Option<Records>,
    ) -> anyhow::Result<Option<i32>> {
        let Some(InFlight { read_back, before }) = step else { return Ok(None) };
        let StepRead { metrics, notice } = read_back.wait()?;
        if notice.fault {
            // This step changed nothing, and neither did those that are queued behind it.
            self.in_flight = None;
            self.place = before;
            return Err(self.world.reason(self.fault.take()));
        }
        let recorded = records.as_mut().map_or(Ok(()), |records| records.step(&metrics));
        if let Err(error) = recorded {
            if self.world.group.is_none() {
                return Err(error);
            }
            self.fault.get_or_insert(error);
        }
        if !metrics.is_skipped {
            self.skipped_in_a_row = 0;
            return Ok(notice.signal);
        }
        self.skipped_steps += 1;
        self.skipped_in_a_row += 1;
        // The first overflows of float16 are for the loss scale to find out.
        let overflows = self.engine.loss_scale().map_or(0, |_| MOST_OVERFLOWS);
        if self.skipped_in_a_row < MOST_SKIPPED + overflows {
            return Ok(notice.signal);
        }
        // Only the tensors of the step that was queued last are still there to be looked at.
        match self.in_flight.take() {
            Some(last) => Ok(self.confirm(Some(last), records)?.or(notice.signal)),
            None => Err(self.stopped().into()),
        }
    }

    /// The end of a run whose steps are no longer finite, after what the last one worked on is written.
    fn stopped(&mut self) -> Stopped {
        let (step, in_a_row) = (self.place.step, self.skipped_in_a_row);
        let rank = match self.world.group {
            Some(_) => format!("-rank-{}", self.world.share.rank),
            None => String::new(),
        };
        let path = self.run_dir.join(format!("capture-step-{step}{rank}.safetensors"));
        let Last { output, .. } = self.last.as_ref().expect("a step that was skipped");
        let NonFinite { what, tensor, capture } = self.engine.non_finite(output);
        let captured = match capture.map(|capture| capture.write(&path)) {
            None => String::new(),
            Some(Ok(())) => format!("; what the step worked on lies in {}", path.display()),
            Some(Err(reason)) => format!("; what it worked on was not kept: {reason}"),
        };
        let tensor =
            tensor.map_or("one of another rank or batch".into(), |name| format!("`{name}`"));
        Stopped(format!(
            "step {step} stopped the run: {in_a_row} steps in a row were skipped, since the {what} is \
             not finite; the first tensor that is not: {tensor}{captured}; start anew with a lower \
             `train.lr` and another --run-dir"
        ))
    }

    /// Reads and records the step that is in flight.
    fn confirm_all(&mut self, records: &mut Option<Records>) -> anyhow::Result<Option<i32>> {
        let last = self.in_flight.take();
        self.confirm(last, records)
    }

    /// Whether the checkpoint after the last step is kept for good.
    fn is_kept(&self) -> bool {
        let keep_every = self.recipe.output.keep_every.steps(self.pace.steps_per_epoch());
        self.place.at.is_multiple_of(keep_every)
    }

    /// Saves on the first rank unless that is done, and fails on every rank if it cannot.
    fn save(&mut self, records: Option<&Records>) -> anyhow::Result<Option<PathBuf>> {
        let step = self.place.step;
        if self.saved_step == Some(step) {
            return Ok(records.map(|records| records.checkpoint(step)));
        }
        let saved = records.map(|records| self.save_here(records)).transpose();
        let saved = self.world.all_ok(saved)?;
        self.saved_step = Some(step);
        Ok(saved)
    }

    fn save_here(&self, records: &Records) -> anyhow::Result<PathBuf> {
        let position = self.pace.position(self.place.batches);
        records.save(&self.engine, self.place.step, position, self.is_kept())
    }

    /// The error that ends a run. The steps since the last checkpoint are worth keeping, unless numbers
    /// that are not finite would come again.
    fn ended_early(
        &mut self,
        error: anyhow::Error,
        records: &mut Option<Records>,
    ) -> anyhow::Error {
        if error.is::<Stopped>() {
            return error;
        }
        let failed_step = self.place.step + 1;
        let error = match error.downcast::<StepError>() {
            Ok(error) => match memory_error(&error.to_string()) {
                Some(short_of_memory) => short_of_memory,
                None if self.world.group.is_some() => lost(&error.to_string()),
                None => anyhow!("step {failed_step} failed: {}", first_line(&error.to_string())),
            },
            Err(error) => error,
        };
        self.record_in_flight(records);
        // Where all know of the error, all wait for the save; otherwise a rank may be gone.
        let saved = if error.is::<Settled>() {
            self.save(records.as_ref())
        } else {
            records.as_ref().map(|records| self.save_here(records)).transpose()
        };
        match saved {
            Ok(Some(saved)) => {
                error.context(format!("the run ended early, saved in {}", saved.display()))
            }
            Ok(None) | Err(_) => error,
        }
    }

    /// Records the step before the one that failed, without the other ranks.
    fn record_in_flight(&mut self, records: &mut Option<Records>) {
        let Some(InFlight { read_back, before }) = self.in_flight.take() else { return };
        match read_back.wait() {
            Ok(StepRead { notice: Notice { fault: true, .. }, .. }) => self.place = before,
            Ok(StepRead { metrics, .. }) => {
                if let Some(records) = records {
                    // The run ends with another error already.
                    let _ = records.step(&metrics);
                }
            }
            Err(_) => (),
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
        views: Some(recipe.views),
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
