//! One setting under measurement: its engine, its batch, and what was seen of them.

use std::{path::PathBuf, time::Instant};

use anyhow::bail;
use dora_data::augment::Views;
use dora_eval::{
    encoder::rate::{matrix_flops_per_s, wait_for},
    memory::peak_memory_bytes,
};
use tch::{Device, Kind};
use torch_ext::{AutocastDtype, cuda_peak_memory_bytes, cuda_reset_peak_memory};

use super::report::Parts;
use crate::{
    engine::{Engine, Scheduled},
    feed::Feed,
    notice::Notice,
    plan::{Placement, draws},
    recipe::Recipe,
    run::{new_engine, new_feed},
    synthetic::{scheduled_at_height, synthetic_views},
    world::World,
};

/// Steps in which parts are timed.
const PART_STEPS: usize = 2;

/// Overflows of float16 in a row after which no step is to be expected.
const MOST_OVERFLOWS: usize = 40;

/// An engine, the one batch that it is given again and again, and batches from stores beside it.
pub(super) struct Setting<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) placement: Placement,
    /// Matrix rates in float32 and in the precision of the step, each time they were measured.
    pub(super) rates: Vec<[f64; 2]>,
    /// Seconds of each timed step.
    pub(super) step_s: Vec<f64>,
    /// The same of steps that took their batches from frame stores, each after one of `step_s`.
    pub(super) fed: Vec<Step>,
    /// Seconds by part.
    pub(super) parts: Parts,
    feed: Option<Feed>,
    engine: Engine,
    views: Views,
    scheduled: Scheduled,
    batches: u64,
}

/// What a step took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub(super) seconds: f64,
    /// Of these, how long it waited for its batches.
    pub(super) waited_s: f64,
}

impl<'a> Setting<'a> {
    /// A setting whose steps also take batches from `stores`, if there are any.
    pub(super) fn new(recipe: &'a Recipe, stores: &[PathBuf]) -> anyhow::Result<Self> {
        let world = World::alone();
        let placement = Placement::new(recipe, &world)?;
        let engine = new_engine(recipe, &placement, &world)?;
        let with_feed = !stores.is_empty();
        let feed = with_feed.then(|| new_feed(recipe, &placement, stores, &world)).transpose()?;
        Ok(Self {
            recipe,
            placement,
            rates: Vec::new(),
            step_s: Vec::new(),
            fed: Vec::new(),
            feed,
            parts: Parts::new(),
            engine,
            views: synthetic_views(recipe, placement.device),
            scheduled: scheduled_at_height(recipe),
            batches: 0,
        })
    }

    /// Measures the matrix rate, before the steps and again after them.
    pub(super) fn measure_rate(&mut self) {
        let device = self.placement.device;
        let float32 = matrix_flops_per_s(device, Kind::Float);
        let own = match self.kind() {
            Kind::Float => float32,
            kind => matrix_flops_per_s(device, kind),
        };
        self.rates.push([float32, own]);
    }

    /// Steps that do not count; gives the seconds of a turn.
    pub(super) fn warm_up(&mut self) -> anyhow::Result<f64> {
        // A GPU chooses its kernels and takes its memory in the first few.
        let steps = if self.placement.device.is_cuda() { 3 } else { 1 };
        if let Device::Cuda(index) = self.placement.device {
            cuda_reset_peak_memory(index);
        }
        let mut seconds = 0.0;
        for _ in 0..steps {
            seconds = self.step(false)?.seconds;
            if self.feed.is_some() {
                seconds += 2.0 * self.step(true)?.seconds;
            }
        }
        Ok(seconds)
    }

    /// One step that counts, and one with batches from stores.
    pub(super) fn time_step(&mut self) -> anyhow::Result<()> {
        if let Some(feed) = &self.feed {
            feed.wait_until_made();
        }
        let seconds = self.step(false)?.seconds;
        self.step_s.push(seconds);
        if self.feed.is_some() {
            // The first finds its batch made while nothing else ran; the next one is as in training.
            self.step(true)?;
            let fed = self.step(true)?;
            self.fed.push(fed);
        }
        Ok(())
    }

    /// Times each part: means over steps of their own, since the device is waited for after each part.
    /// No step counts afterwards.
    pub(super) fn time_parts(&mut self) -> anyhow::Result<()> {
        self.engine.time_parts();
        for _ in 0..PART_STEPS {
            self.step(false)?;
        }
        let sums = self.engine.take_parts();
        self.parts = sums.into_iter().map(|(part, sum)| (part, sum / PART_STEPS as f64)).collect();
        Ok(())
    }

    /// The most memory that was held: the process's on the CPU, tensors' on a GPU.
    pub(super) fn peak_memory_bytes(&self) -> Option<i64> {
        match self.placement.device {
            Device::Cuda(index) => cuda_peak_memory_bytes(index),
            _ => peak_memory_bytes(),
        }
    }

    /// Dtype of the products of the encoders.
    fn kind(&self) -> Kind {
        self.placement.autocast.map_or(Kind::Float, AutocastDtype::kind)
    }

    /// The precision's name in a recipe.
    pub(super) fn precision(&self) -> &'static str {
        match self.placement.autocast {
            None => "float32",
            Some(AutocastDtype::BFloat16) => "bfloat16",
            Some(AutocastDtype::Float16) => "float16",
        }
    }

    /// Takes a step, with batches from the stores or the one made up here. One that float16 skipped is
    /// no whole step, so another is taken.
    pub(super) fn step(&mut self, is_fed: bool) -> anyhow::Result<Step> {
        for _ in 0..MOST_OVERFLOWS {
            wait_for(self.placement.device);
            let started = Instant::now();
            let mut waited_s = 0.0;
            for _ in 0..self.recipe.train.gradient_accumulation_steps {
                match &mut self.feed {
                    Some(feed) if is_fed => {
                        let batch = feed.next()?;
                        waited_s += batch.waited_s;
                        let Views { global_VBTCHW, local_LBTCHW } = &batch.views;
                        self.engine.backward(
                            global_VBTCHW,
                            local_LBTCHW,
                            &batch.draws,
                            &self.scheduled,
                        )?;
                    }
                    _ => {
                        let drawn = draws(self.recipe, 0, self.batches, self.placement.device);
                        self.batches += 1;
                        let Views { global_VBTCHW, local_LBTCHW } = &self.views;
                        self.engine.backward(
                            global_VBTCHW,
                            local_LBTCHW,
                            &drawn,
                            &self.scheduled,
                        )?;
                    }
                }
            }
            let output = self.engine.update(&self.scheduled, Notice::default())?;
            wait_for(self.placement.device);
            if output.skipped.double_value(&[]) == 0.0 {
                return Ok(Step { seconds: started.elapsed().as_secs_f64(), waited_s });
            }
        }
        bail!(
            "float16 overflowed in {MOST_OVERFLOWS} steps in a row: measure `--precision bfloat16` or `float32`"
        )
    }
}
