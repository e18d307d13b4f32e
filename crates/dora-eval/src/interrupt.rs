//! Ctrl-C and SIGTERM end long work where it can go on later; a second one ends it at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Listens for the signals that ask the process to end.
#[derive(Clone, Debug)]
pub struct Interrupt {
    flags: Vec<(i32, Arc<AtomicBool>)>,
}

impl Interrupt {
    /// Starts to listen, for the rest of the process, to `others` too; those never end it at once.
    pub fn listen(others: &[i32]) -> io::Result<Self> {
        let any = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds nothing raised, the second does and ends all.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&any))?;
            flag::register(signal, Arc::clone(&any))?;
        }
        let flags: Vec<_> = [SIGINT, SIGTERM]
            .iter()
            .chain(others)
            .map(|signal| (*signal, Arc::new(AtomicBool::new(false))))
            .collect();
        for (signal, flag) in &flags {
            flag::register(*signal, Arc::clone(flag))?;
        }
        Ok(Self { flags })
    }

    /// The signal that came, if any.
    pub fn caught(&self) -> Option<i32> {
        self.flags.iter().find(|(_, flag)| flag.load(Ordering::Relaxed)).map(|(signal, _)| *signal)
    }
}
