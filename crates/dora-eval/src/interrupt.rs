//! Ctrl-C and SIGTERM end a long command where it can go on later; a second one ends it at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Listens for the signals that ask a command to end.
#[derive(Clone, Debug)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to listen, for the rest of the process.
    pub fn listen() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let came_before = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            // In this order: the first signal finds nothing raised, the second does and ends all.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&came_before))?;
            flag::register(number, Arc::clone(&came_before))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
        }
        Ok(Self { signal })
    }

    /// The signal that came, if any.
    pub fn caught(&self) -> Option<i32> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then_some(signal as i32)
    }
}
