//! Images through an encoder, each on one core: sums are then made in one order, and results depend
//! neither on the number of cores nor on how many images go together.

use std::sync::{Mutex, PoisonError};

use dora_model::{StateError, Vit};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, prelude::*};
use tch::{Device, no_grad};

use crate::encoder::Encoder;

/// Threads that share the parameters of an encoder. Where it computes on a GPU, there is one.
#[derive(Debug)]
pub struct Pool {
    threads: ThreadPool,
    /// One for each thread: tensors are no thread's but their own.
    vits: Vec<Mutex<Vit>>,
    /// Where the encoder computes.
    pub device: Device,
}

/// Why there are no threads.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The machine gives none.
    #[error("cannot start threads")]
    Threads(#[from] ThreadPoolBuildError),
    /// The encoder's parameters are not an encoder's.
    #[error(transparent)]
    Encoder(#[from] StateError),
}

impl Pool {
    /// As many threads as there are cores, or as `RAYON_NUM_THREADS` says. From then on libtorch uses
    /// one thread for each of its operations on the CPU.
    pub fn new(encoder: &Encoder) -> Result<Self, PoolError> {
        let is_cpu = encoder.device == Device::Cpu;
        let builder = if is_cpu {
            tch::set_num_threads(1);
            // libtorch keeps the number for each thread that calls it.
            ThreadPoolBuilder::new().start_handler(|_| tch::set_num_threads(1))
        } else {
            ThreadPoolBuilder::new().num_threads(1)
        };
        let threads = builder.build()?;
        let vit = |_| Ok(Mutex::new(Vit::from_state(&encoder.config, &encoder.state)?));
        let vits =
            (0..threads.current_num_threads()).map(vit).collect::<Result<_, StateError>>()?;
        Ok(Self { threads, vits, device: encoder.device })
    }

    /// What `look` makes of every item, in their order, without gradients.
    ///
    /// # Errors
    /// The first error of `look`.
    pub fn map<I: Send, T: Send, E: Send>(
        &self,
        items: Vec<I>,
        look: impl Fn(&Vit, I) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let one = |item| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            // One that panicked has left nothing behind: parameters do not change.
            let vit = self.vits[thread].lock().unwrap_or_else(PoisonError::into_inner);
            no_grad(|| look(&vit, item))
        };
        self.install(|| items.into_par_iter().map(one).collect())
    }

    /// Runs `work`, and what it does in parallel, on these threads.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.install(work)
    }
}
