//! Several things at a time, each by a thread, until a signal comes.

use crate::stop::{POLL, Stop};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long threads may take to end after a signal. One that waits for a silent server takes longer,
/// and nothing is lost by leaving it behind.
const GRACE: Duration = Duration::from_secs(5);

/// Does `work` to each of `items`, `jobs` at a time; `done` gets the results as they come, with the
/// place of their item. After a signal, those that did not end are missing.
pub(crate) fn run<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    jobs: usize,
    stop: &Stop,
    work: impl Fn(&T) -> R + Send + Sync + 'static,
    mut done: impl FnMut(usize, R),
) {
    let jobs = jobs.clamp(1, items.len().max(1));
    let left = Arc::new(Mutex::new(items.into_iter().enumerate()));
    let work = Arc::new(work);
    let (results, arriving) = channel();
    for _ in 0..jobs {
        let (left, work, results) = (Arc::clone(&left), Arc::clone(&work), results.clone());
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.is_asked() {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((place, item)) = next else { return };
                if results.send((place, work(&item))).is_err() {
                    return;
                }
            }
        });
    }
    drop(results);
    let mut give_up_at = None;
    loop {
        match arriving.recv_timeout(POLL) {
            Ok((place, result)) => done(place, result),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if stop.is_asked() => {
                let at = *give_up_at.get_or_insert_with(|| Instant::now() + GRACE);
                if Instant::now() >= at {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn everything_is_done_once_and_so_many_at_a_time() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            move |item: &usize| {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::sleep(Duration::from_millis(20));
                running.fetch_sub(1, SeqCst);
                item * 10
            }
        };
        let mut results = vec![0; 7];
        run((0..7).collect(), 3, &Stop::default(), work, |place, result| results[place] += result);
        assert_eq!(results, [0, 10, 20, 30, 40, 50, 60]);
        assert_eq!(most.load(SeqCst), 3);
    }
}
