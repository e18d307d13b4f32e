//! How long the parts of a step take; off unless somebody measures, since a lap waits for the device.

use std::{cell::RefCell, time::Instant};

use dora_eval::encoder::rate::wait_for;
use tch::Device;

/// A stopwatch that a step presses after each part.
#[derive(Debug, Default)]
pub(crate) struct Laps(Option<RefCell<Running>>);

#[derive(Debug)]
struct Running {
    device: Device,
    last: Instant,
    parts: Vec<(&'static str, f64)>,
}

impl Laps {
    pub(crate) fn switch_on(&mut self) {
        let running = Running { device: Device::Cpu, last: Instant::now(), parts: Vec::new() };
        self.0 = Some(RefCell::new(running));
    }

    /// A batch begins on `device`.
    pub(crate) fn start(&self, device: Device) {
        if let Some(running) = &self.0 {
            let mut running = running.borrow_mut();
            running.device = device;
            wait_for(device);
            running.last = Instant::now();
        }
    }

    /// What ran since the last call was `part`; the same part of several batches adds up.
    pub(crate) fn end(&self, part: &'static str) {
        let Some(running) = &self.0 else { return };
        let mut running = running.borrow_mut();
        wait_for(running.device);
        let seconds = running.last.elapsed().as_secs_f64();
        running.last = Instant::now();
        match running.parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, sum)) => *sum += seconds,
            None => running.parts.push((part, seconds)),
        }
    }

    /// The parts so far, which start anew.
    pub(crate) fn take(&mut self) -> Vec<(&'static str, f64)> {
        self.0
            .as_mut()
            .map(|running| std::mem::take(&mut running.get_mut().parts))
            .unwrap_or_default()
    }
}
