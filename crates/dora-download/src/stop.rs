//! The signals that end a download early, noted so that it ends in good order.

use crate::error::DownloadError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often whoever waits looks for a signal.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Whether a signal has come, and which.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Set by Ctrl-C or SIGTERM; a second signal ends the process at once.
    ///
    /// # Errors
    /// The system lets nobody listen for signals.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, sets it, and only the next one acts.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.asked))?;
            flag::register_usize(signal, Arc::clone(&stop.signal), signal as usize)?;
            flag::register(signal, Arc::clone(&stop.asked))?;
        }
        Ok(stop)
    }

    /// Whether to end.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The exit status that tells of the signal: 128 + n.
    pub(crate) fn status(&self) -> u8 {
        128 + self.signal.load(Ordering::Relaxed) as u8
    }

    /// Fails once a signal has come.
    pub(crate) fn check(&self) -> Result<(), DownloadError> {
        if self.is_asked() { Err(DownloadError::Stopped) } else { Ok(()) }
    }

    /// Sleeps, but not beyond a signal.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<(), DownloadError> {
        let until = Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}
