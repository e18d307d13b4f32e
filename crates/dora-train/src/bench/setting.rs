//! One setting under measurement: its engine, its batch, and what was seen of them.

use std::time::Instant;

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
    notice::Notice,
    plan::{Placement, draws},
    recipe::Recipe,
    run::new_engine,
    synthetic::{scheduled_at_height, synthetic_views},
    world::World,
};

/// Steps in which parts are timed.
const PART_STEPS: usize = 2;

/// Overflows of float16 in a row after which no step is to be expected.
const MOST_OVERFLOWS: usize = 40;

/// An engine and the one batch that it is given again and again.
pub(super) struct Setting<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) placement: Placement,
    /// Matrix rates in float32 and in the precision of the step, each time they were measured.
    pub(super) rates: Vec<[f64; 2]>,
    /// Seconds of each timed step.
    pub(super) step_s: Vec<f64>,
    /// Seconds by part.
    pub(super) parts: Parts,
    engine: Engine,
    views: Views,
    scheduled: Scheduled,
    batches: u64,
}

impl<'a> Setting<'a> {
    pub(super) fn new(recipe: &'a Recipe) -> anyhow::Result<Self> {
        let world = World::alone();
        let placement = Placement::new(recipe, &world)?;
        Ok(Self {
            recipe,
            placement,
            rates: Vec::new(),
            step_s: Vec::new(),
            parts: Parts::new(),
            engine: new_engine(recipe, &placement, &world)?,
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

    /// Steps that do not count; gives the seconds of the last.
    pub(super) fn warm_up(&mut self) -> anyhow::Result<f64> {
        // A GPU chooses its kernels and takes its memory in the first few.
        let steps = if self.placement.device.is_cuda() { 3 } else { 1 };
        if let Device::Cuda(index) = self.placement.device {
            cuda_reset_peak_memory(index);
        }
        let mut seconds = 0.0;
        for _ in 0..steps {
            seconds = self.step()?;
        }
        Ok(seconds)
    }

    /// One step that counts.
    pub(super) fn time_step(&mut self) -> anyhow::Result<()> {
        let seconds = self.step()?;
        self.step_s.push(seconds);
        Ok(())
    }

    /// Times each part: means over steps of their own, since the device is waited for after each part.
    /// No step counts afterwards.
    pub(super) fn time_parts(&mut self) -> anyhow::Result<()> {
        self.engine.time_parts();
        for _ in 0..PART_STEPS {
            self.step()?;
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

    /// Takes a step and gives its seconds. One that float16 skipped is no whole step, so another is
    /// taken.
    pub(super) fn step(&mut self) -> anyhow::Result<f64> {
        for _ in 0..MOST_OVERFLOWS {
            wait_for(self.placement.device);
            let started = Instant::now();
            for _ in 0..self.recipe.train.gradient_accumulation_steps {
                let drawn = draws(self.recipe, 0, self.batches, self.placement.device);
                self.batches += 1;
                let Views { global_VBTCHW, local_LBTCHW } = &self.views;
                self.engine.backward(global_VBTCHW, local_LBTCHW, &drawn, &self.scheduled)?;
            }
            let output = self.engine.update(&self.scheduled, Notice::default())?;
            wait_for(self.placement.device);
            if output.skipped.double_value(&[]) == 0.0 {
                return Ok(started.elapsed().as_secs_f64());
            }
        }
        bail!(
            "float16 overflowed in {MOST_OVERFLOWS} steps in a row: measure `--precision bfloat16` or `float32`"
        )
    }
}
