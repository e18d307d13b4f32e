//! What training steps on: batches whose views are finished before the step asks for them.
//!
//! A thread takes a batch from the loader, copies its frames, the plan of its views and its draws to
//! the device in one piece, and makes the views there while the step before still runs: on the CPU as
//! one more thread, on a GPU by a stream of its own, which the step's stream waits for and the host
//! does not. What a batch holds is a function of seed, epoch and position alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use dora_data::{
    arena::Arena,
    augment::{Together, Views},
    loader::{ClipBatch, Loader, LoaderError},
};
use tch::{Device, Tensor};
use torch_ext::{Event, HostBuffer, Stream, TorchError, cuda_set_device, record_stream};

use crate::{engine::Draws, plan::DrawsPlan, recipe::Recipe};

/// Where each piece of a batch begins in the memory that travels, in bytes.
const ALIGN: usize = 64;

/// What a step takes.
#[derive(Debug)]
pub struct FedBatch {
    /// The views, on the device.
    pub views: Views,
    /// The draws, on the device.
    pub draws: Draws,
    /// The clips themselves, on the CPU.
    pub clips: ClipBatch,
    /// How long the step had to wait for this batch.
    pub waited_s: f64,
}

/// Gives batch after batch, without end. Dropping it ends its threads.
#[derive(Debug)]
pub struct Feed {
    device: Device,
    /// None after an error.
    made: Option<Receiver<anyhow::Result<Made>>>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread works on a batch, rather than holding one.
    is_making: Arc<AtomicBool>,
}

/// A batch and the event after which it is there.
struct Made {
    batch: FedBatch,
    /// The memory that its draws lie in.
    bytes: Tensor,
    ready: Option<Event>,
}

/// What the thread works with.
struct Producer {
    loader: Loader,
    recipe: Recipe,
    rank: u64,
    device: Device,
    /// The next batch, numbered from the run's beginning.
    number: u64,
    is_making: Arc<AtomicBool>,
}

impl Feed {
    /// Starts to make the batches of a loader that plans views; its first one has the number
    /// `first_batch`, as [`DrawsPlan::new`] counts.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(
        loader: Loader,
        recipe: &Recipe,
        rank: u64,
        device: Device,
        first_batch: u64,
    ) -> anyhow::Result<Self> {
        let (is_making, recipe) = (Arc::new(AtomicBool::new(true)), recipe.clone());
        let producer = Producer {
            loader,
            recipe,
            rank,
            device,
            number: first_batch,
            is_making: is_making.clone(),
        };
        // A finished batch waits in the hands of the thread, so one is made ahead.
        let (sender, made) = sync_channel(0);
        let (started, has_started) = sync_channel::<()>(0);
        let threads = tch::get_num_threads();
        let thread = std::thread::Builder::new()
            .name("feed".into())
            .spawn(move || {
                // The step has the cores: one thread for views is the least that it has to share.
                tch::set_num_threads(1);
                drop(started);
                producer.run(&sender);
            })
            .context("cannot start the thread that makes views")?;
        // What that thread sets is also what libtorch's next thread would start with.
        let _ = has_started.recv();
        tch::set_num_threads(threads);
        Ok(Self { device, made: Some(made), thread: Some(thread), is_making })
    }

    /// The next batch, as soon as it is ready.
    ///
    /// # Errors
    /// What the loader says, or libtorch. After an error there are no more batches.
    #[allow(clippy::should_implement_trait)] // never ends, so it is no Iterator
    pub fn next(&mut self) -> anyhow::Result<FedBatch> {
        let start = Instant::now();
        let received = self.made.as_ref().ok_or(LoaderError::Stopped)?.recv();
        let waited_s = start.elapsed().as_secs_f64();
        let received = match received {
            Ok(Ok(made)) => self.take(made).map_err(anyhow::Error::from),
            Ok(Err(error)) => Err(error),
            // The thread ended without a word.
            Err(_) => Err(LoaderError::Stopped.into()),
        };
        match received {
            Ok(batch) => Ok(FedBatch { waited_s, ..batch }),
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    /// Waits until the next batch is made, so that nothing runs in the background.
    pub(crate) fn wait_until_made(&self) {
        let has_ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        while self.is_making.load(Ordering::Relaxed) && !has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the step's stream wait for a batch and use its memory.
    fn take(&self, made: Made) -> Result<FedBatch, TorchError> {
        let Made { batch, bytes, ready } = made;
        if let (Device::Cuda(index), Some(ready)) = (self.device, ready) {
            let stream = Stream::current(index)?;
            ready.block(stream)?;
            for tensor in [&batch.views.global_VBTCHW, &batch.views.local_LBTCHW, &bytes] {
                record_stream(tensor, stream)?;
            }
        }
        Ok(batch)
    }

    /// Waits for the thread, and passes on a panic if that was its end.
    fn end(&mut self) {
        // Without a receiver it sees that it is to stop.
        self.made = None;
        if let Some(thread) = self.thread.take()
            && let (Err(panic), false) = (thread.join(), std::thread::panicking())
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.end();
    }
}

impl Producer {
    fn run(mut self, sender: &SyncSender<anyhow::Result<Made>>) {
        let stream = match self.device {
            Device::Cuda(index) => {
                cuda_set_device(index).and_then(|()| Stream::new(index)).map(Some)
            }
            _ => Ok(None),
        };
        let entered =
            stream.and_then(|stream| Ok((stream, stream.map(Stream::enter).transpose()?)));
        let (stream, _entered) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                let _ = sender.send(Err(error.into()));
                return;
            }
        };
        loop {
            self.is_making.store(true, Ordering::Relaxed);
            let made = self.make(stream);
            let failed = made.is_err();
            self.is_making.store(false, Ordering::Relaxed);
            if sender.send(made).is_err() || failed {
                return;
            }
        }
    }

    fn make(&mut self, stream: Option<Stream>) -> anyhow::Result<Made> {
        let mut clips = self.loader.next()?;
        let plan = clips.views.take().expect("the loader plans views");
        let mut arena = Arena::default();
        let draws = DrawsPlan::new(&self.recipe, self.rank, self.number, &mut arena);
        self.number += 1;

        let frames = &clips.frames_BTCHW;
        let sizes = [frames.numel(), plan.bytes().len(), arena.bytes().len()];
        let ends = sizes.map(|size| size.next_multiple_of(ALIGN));
        let [to_frames, to_plan, _] = ends;
        let mut buffer = HostBuffer::new(ends.iter().sum(), self.device)?;
        let (first, rest) = buffer.split_at_mut(to_frames);
        frames.flatten(0, -1).copy_data_u8(&mut first[..sizes[0]], sizes[0]);
        rest[..sizes[1]].copy_from_slice(plan.bytes());
        rest[to_plan..to_plan + sizes[2]].copy_from_slice(arena.bytes());

        let bytes = buffer.upload();
        let starts = [0, to_frames, to_frames + to_plan];
        let [on_device, plan_bytes, draw_bytes] =
            std::array::from_fn(|piece| bytes.narrow(0, starts[piece] as i64, sizes[piece] as i64));
        let frames_BTCHW = on_device.view(&frames.size()[..]);
        let views = plan.apply(&frames_BTCHW, &plan_bytes, Together::on(self.device));
        let draws = draws.on_device(&draw_bytes);
        let ready = stream.map(Event::record).transpose()?;
        let batch = FedBatch { views, draws, clips, waited_s: 0.0 };
        Ok(Made { batch, bytes, ready })
    }
}
