//! Work that is spread over the cores in pieces, so that its result does not depend on their number:
//! how a sum rounds depends on how many threads share it, so each piece is one thread's alone.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

use tch::no_grad;

/// Works on pieces 0 to `pieces - 1`, on as many threads as libtorch may use in this one, and hands what
/// comes of them to `take`, on this thread and in any order.
///
/// `worker` makes what a thread has of its own, since threads cannot share tensors; `work` runs
/// without gradients. No more pieces than there are threads wait for `take`.
///
/// # Errors
/// The first of `work` and `take`; what is under way is finished, and nothing else begun.
pub fn on_cores<W: Send, T: Send, E: Send>(
    pieces: usize,
    mut worker: impl FnMut() -> W,
    work: impl Fn(&mut W, usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = tch::get_num_threads();
    let workers: Vec<W> = (0..pieces.min(threads.max(1) as usize)).map(|_| worker()).collect();
    let next = AtomicUsize::new(0);
    let outcome = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(workers.len());
        for mut worker in workers {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                tch::set_num_threads(1);
                loop {
                    let piece = next.fetch_add(1, Ordering::Relaxed);
                    if piece >= pieces {
                        break;
                    }
                    let result = no_grad(|| work(&mut worker, piece));
                    // Nobody listens any more where a piece has failed.
                    if sender.send((piece, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        receiver.into_iter().try_for_each(|(piece, result)| take(piece, result?))
    });
    // What threads set is also what libtorch's next thread starts with.
    tch::set_num_threads(threads);
    outcome
}

/// Runs `work` with libtorch on this thread alone.
pub fn on_one_core<T>(work: impl FnOnce() -> T) -> T {
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let result = work();
    tch::set_num_threads(threads);
    result
}
