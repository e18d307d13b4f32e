//! The signals that ask us to end: SIGINT and SIGTERM, and SIGUSR1, by which a scheduler announces that
//! the job's time is nearly over. Alone we end at once; while a child works they are noted, for whoever
//! waits for the child, since a training process saves its state first.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
};

use anyhow::Context;
use rustix::process::Signal;
use signal_hook::flag;

use crate::process::Stop;

struct Signals {
    /// Whether a signal ends us at once.
    deadly: Arc<AtomicBool>,
    seen: [(Signal, Arc<AtomicBool>); 3],
    /// The status that the first signal asks for, plus 1; 0 if none came.
    asked: AtomicU8,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| Signals {
    deadly: Arc::new(AtomicBool::new(true)),
    seen: [Signal::INT, Signal::TERM, Signal::USR1].map(|signal| (signal, Arc::default())),
    asked: AtomicU8::new(0),
});

/// From here on the signals end this process with [`status`], or are noted while a [`Hold`] lives.
pub(crate) fn watch() -> anyhow::Result<()> {
    for (signal, seen) in &SIGNALS.seen {
        let (number, status) = (signal.as_raw(), i32::from(status(*signal)));
        flag::register_conditional_shutdown(number, status, SIGNALS.deadly.clone())
            .and_then(|_| flag::register(number, seen.clone()))
            .context("cannot watch for signals")?;
    }
    Ok(())
}

/// While it lives, signals are noted instead of ending us.
pub(crate) struct Hold(());

impl Hold {
    /// # Errors
    /// A signal has come before.
    pub(crate) fn new() -> anyhow::Result<Self> {
        stop_if_asked()?;
        SIGNALS.deadly.store(false, SeqCst);
        Ok(Self(()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        SIGNALS.deadly.store(true, SeqCst);
    }
}

/// The signals that came since the last call.
pub(crate) fn arrived() -> impl Iterator<Item = Signal> {
    SIGNALS.seen.iter().filter(|(_, seen)| seen.swap(false, SeqCst)).map(|(signal, _)| {
        let _ = SIGNALS.asked.compare_exchange(0, status(*signal) + 1, SeqCst, SeqCst);
        *signal
    })
}

/// The status with which the first signal that came asks us to end.
pub(crate) fn asked() -> Option<u8> {
    arrived().for_each(drop);
    SIGNALS.asked.load(SeqCst).checked_sub(1)
}

/// Fails with the status that fits if a signal has come.
pub(crate) fn stop_if_asked() -> anyhow::Result<()> {
    match asked() {
        None => Ok(()),
        Some(status) => Err(Stop::Status(status).into()),
    }
}

/// How we end after a signal: as a shell would say it, but well after SIGUSR1, since the job goes on
/// another time.
fn status(signal: Signal) -> u8 {
    if signal == Signal::USR1 { 0 } else { 128 + signal.as_raw() as u8 }
}
