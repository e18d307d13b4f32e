//! Ctrl-C, SIGTERM and SIGUSR1 end a run after the step under way; a second Ctrl-C or SIGTERM ends it
//! at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
};

/// Listens for the signals that ask a run to end.
#[derive(Debug)]
pub struct Interrupt {
    flags: [(i32, Arc<AtomicBool>); 3],
}

impl Interrupt {
    /// Starts to listen, for the rest of the process.
    pub fn listen() -> io::Result<Self> {
        let any = Arc::new(AtomicBool::new(false));
        let flags =
            [SIGINT, SIGTERM, SIGUSR1].map(|signal| (signal, Arc::new(AtomicBool::new(false))));
        for (signal, flag) in &flags {
            if *signal != SIGUSR1 {
                // In this order: the first signal finds nothing raised, the second does and ends all.
                flag::register_conditional_shutdown(*signal, 128 + signal, Arc::clone(&any))?;
                flag::register(*signal, Arc::clone(&any))?;
            }
            flag::register(*signal, Arc::clone(flag))?;
        }
        Ok(Self { flags })
    }

    /// The signal that came, if any.
    pub fn caught(&self) -> Option<i32> {
        self.flags.iter().find(|(_, flag)| flag.load(Ordering::Relaxed)).map(|(signal, _)| *signal)
    }
}
