//! Where a run stands, also when it goes on with another number of processes.

use serde::{Deserialize, Serialize};

/// How a step takes clips from an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Batches in an epoch of one process.
    pub batches_per_epoch: u64,
    /// Batches of one process in a step.
    pub batches_per_step: u64,
    /// Clips in a batch of all processes.
    pub clips_per_batch: u64,
}

/// What of the data a run has seen; it does not depend on the number of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Whole epochs.
    pub epoch: u64,
    /// Clips of the epoch under way.
    pub clips: u64,
}

impl Pace {
    /// Steps in an epoch, not necessarily a whole number: a step may end in the next.
    pub fn steps_per_epoch(self) -> f64 {
        self.batches_per_epoch as f64 / self.batches_per_step as f64
    }

    /// Clips in a step of all processes.
    pub fn clips_per_step(self) -> u64 {
        self.clips_per_batch * self.batches_per_step
    }

    /// What has been seen after so many batches at this pace.
    pub fn position(self, batches: u64) -> Position {
        Position {
            epoch: batches / self.batches_per_epoch,
            clips: batches % self.batches_per_epoch * self.clips_per_batch,
        }
    }

    /// The batches that lead to a position at this pace. Where none ends there, since it was reached at
    /// another pace, up to the next that does: less than a batch of clips is left out.
    pub fn batches_to(self, position: Position) -> u64 {
        let in_epoch = position.clips.div_ceil(self.clips_per_batch).min(self.batches_per_epoch);
        position.epoch * self.batches_per_epoch + in_epoch
    }
}
