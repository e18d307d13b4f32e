//! Batches of decoded clips, prepared ahead of the training step.
//!
//! A few lanes take turns at the batches in the sampler's order; each lets a common pool decode the
//! frames of its batch and puts the result into its bounded channel. So the pool has work from the
//! next batch while the last frames of one are still being decoded. The pool also plans the views of a
//! batch, if there are to be any. What a batch holds and when it
//! comes is decided by its number alone: the crops are drawn from a stream named by epoch and
//! sample, so the number of threads changes nothing but the speed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use dora_store::{FrameStore, StoreError};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Kind, Tensor};

use crate::augment::{ViewKeys, ViewSpec, ViewsPlan};
use crate::crop::{CropBox, CropSpec, random_resized_crop};
use crate::decode::{DecodeError, Decoder};
use crate::rng;
use crate::sampler::{ClipRef, Sampler};

/// How batches are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderSpec {
    /// Clips in a batch of this process.
    pub clips_per_batch: usize,
    /// The crop of a clip's frames.
    pub crop: CropSpec,
    /// The views to plan of them, if any.
    pub views: Option<ViewSpec>,
    /// Threads that decode.
    pub threads: usize,
    /// Finished batches that may wait, beside those in the hands of the threads.
    pub prefetch_batches: usize,
}

/// Some clips, decoded and cropped.
#[derive(Debug)]
pub struct ClipBatch {
    /// uint8 `[B, T, 3, px, px]` on the CPU, contiguous.
    pub frames_BTCHW: Tensor,
    /// Where each clip comes from.
    pub clips: Vec<ClipRef>,
    /// The epoch that the clips belong to, from 0.
    pub epoch: u64,
    /// Their views, where the loader was asked for some.
    pub views: Option<Box<ViewsPlan>>,
    /// How long the caller had to wait for this batch.
    pub waited_s: f64,
}

impl ClipBatch {
    /// The sample id of each clip, as [`ViewKeys`] wants them.
    pub fn sample_ids(&self) -> Vec<u64> {
        self.clips.iter().map(|clip| clip.sample_id).collect()
    }
}

/// Why there is no next batch.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The specification is impossible; one sentence for each problem.
    #[error("{}", .0.join("; "))]
    Spec(Vec<String>),
    /// An epoch has fewer clips than a batch.
    #[error(
        "a batch of {clips_per_batch} clips is more than the {clips_per_epoch} that an epoch has for each process: lower the batch size or give a longer video"
    )]
    TooFew {
        /// Clips in a batch.
        clips_per_batch: usize,
        /// Clips in an epoch of this process.
        clips_per_epoch: u64,
    },
    /// The system gives no threads.
    #[error("cannot start {threads} loader thread(s): {reason}; lower the number of threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system says.
        reason: String,
    },
    /// A frame or its time stamp is damaged in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A frame is stored as it was written, but cannot be decoded.
    #[error("frame {frame} of the frame store `{}` cannot be used: {source}; delete the folder and ingest again", store.display())]
    Decode {
        /// The store's folder.
        store: PathBuf,
        /// The frame's index in the store.
        frame: usize,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An error came before.
    #[error("the loader has stopped after an error")]
    Stopped,
}

/// Loads batch after batch, epoch after epoch, without end. Dropping it ends its threads.
#[derive(Debug)]
pub struct Loader {
    /// The next batch comes from the first one; none are left after an error.
    lanes: VecDeque<Lane>,
    stop: Arc<AtomicBool>,
    batches_per_epoch: u64,
}

#[derive(Debug)]
struct Lane {
    batches: Receiver<Result<ClipBatch, LoaderError>>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Starts to load from the batch number `first_batch` on, counted from the start of training:
    /// batch n is batch n % [`Self::batches_per_epoch`] of epoch n / [`Self::batches_per_epoch`].
    ///
    /// # Errors
    /// If the specification is impossible or the system gives no threads.
    pub fn new(
        sampler: Sampler<FrameStore>,
        spec: LoaderSpec,
        first_batch: u64,
    ) -> Result<Self, LoaderError> {
        let worker = Arc::new(Worker::new(sampler, spec)?);
        // Enough for every thread to find a frame while one batch comes to its end.
        let frames_per_batch = spec.clips_per_batch * worker.sampler.spec().frames_per_clip;
        let lanes = 1 + spec.threads.div_ceil(frames_per_batch);
        let (stop, batches_per_epoch) = (worker.stop.clone(), worker.batches_per_epoch);
        let mut loader = Self { lanes: VecDeque::new(), stop, batches_per_epoch };
        for lane in 0..lanes {
            let (sender, batches) = bounded(spec.prefetch_batches / lanes);
            let worker = worker.clone();
            let numbers = (first_batch + lane as u64..).step_by(lanes);
            let thread = std::thread::Builder::new()
                .name(format!("loader-{lane}"))
                .spawn(move || worker.run(numbers, &sender))
                .map_err(|error| no_threads(spec.threads, &error))?;
            loader.lanes.push_back(Lane { batches, thread });
        }
        Ok(loader)
    }

    /// Whole batches in an epoch. Clips that fill no batch at its end are left out, other ones in
    /// each epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches_per_epoch
    }

    /// The next batch, as soon as it is ready.
    ///
    /// # Errors
    /// Names the frame that cannot be read. After an error there are no more batches.
    #[allow(clippy::should_implement_trait)] // never ends, so it is no Iterator
    pub fn next(&mut self) -> Result<ClipBatch, LoaderError> {
        let start = Instant::now();
        let received = self.lanes.front().ok_or(LoaderError::Stopped)?.batches.recv();
        self.lanes.rotate_left(1);
        match received {
            Ok(Ok(batch)) => Ok(ClipBatch { waited_s: start.elapsed().as_secs_f64(), ..batch }),
            failed => {
                self.end();
                failed.unwrap_or(Err(LoaderError::Stopped))
            }
        }
    }

    /// Waits for the threads, and passes on a panic if that was the end of one.
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without receivers, threads that wait to send go on and see that they are to stop.
        let threads: Vec<_> = self.lanes.drain(..).map(|lane| lane.thread).collect();
        for thread in threads {
            if let (Err(panic), false) = (thread.join(), std::thread::panicking()) {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.end();
    }
}

impl LoaderSpec {
    /// Everything wrong with it, one sentence each.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = self.crop.validate();
        problems.extend(self.views.iter().flat_map(ViewSpec::validate));
        let counts = [
            ("clips_per_batch", self.clips_per_batch),
            ("threads", self.threads),
            ("prefetch_batches", self.prefetch_batches),
        ];
        for (key, count) in counts {
            if !(1..=4096).contains(&count) {
                problems.push(format!("`{key}` is {count}, but must lie between 1 and 4096"));
            }
        }
        problems
    }

    /// Whole batches in an epoch of `sampler`.
    ///
    /// # Errors
    /// If there is none.
    pub fn batches_per_epoch<S: crate::sampler::Timeline>(
        &self,
        sampler: &Sampler<S>,
    ) -> Result<u64, LoaderError> {
        let (clips_per_batch, clips_per_epoch) = (self.clips_per_batch, sampler.clips_per_epoch());
        match clips_per_epoch.checked_div(clips_per_batch as u64) {
            Some(batches) if batches > 0 => Ok(batches),
            _ => Err(LoaderError::TooFew { clips_per_batch, clips_per_epoch }),
        }
    }
}

/// What the lanes of a loader share: makes any batch.
pub(crate) struct Worker {
    sampler: Sampler<FrameStore>,
    spec: LoaderSpec,
    batches_per_epoch: u64,
    pool: ThreadPool,
    stop: Arc<AtomicBool>,
}

/// Which clips a batch holds, and the box of each.
pub(crate) struct Draw {
    epoch: u64,
    clips: Vec<ClipRef>,
    boxes: Vec<CropBox>,
}

impl Worker {
    /// A pool of threads for batches of `spec`.
    ///
    /// # Errors
    /// If the specification is impossible or the system gives no threads.
    pub(crate) fn new(sampler: Sampler<FrameStore>, spec: LoaderSpec) -> Result<Self, LoaderError> {
        let problems = spec.validate();
        if !problems.is_empty() {
            return Err(LoaderError::Spec(problems));
        }
        let batches_per_epoch = spec.batches_per_epoch(&sampler)?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(spec.threads)
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map_err(|error| no_threads(spec.threads, &error))?;
        Ok(Self { sampler, spec, batches_per_epoch, pool, stop: Arc::default() })
    }

    fn run(
        &self,
        numbers: impl Iterator<Item = u64>,
        sender: &Sender<Result<ClipBatch, LoaderError>>,
    ) {
        let mut pixels = Vec::new();
        for number in numbers {
            let batch = self.draw(number).and_then(|draw| self.decode(draw, &mut pixels));
            let batch = batch.map(|batch| self.plan_views(batch));
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// What batch `number` of the training holds.
    pub(crate) fn draw(&self, number: u64) -> Result<Draw, LoaderError> {
        let (epoch, batch) = (number / self.batches_per_epoch, number % self.batches_per_epoch);
        let LoaderSpec { clips_per_batch, crop: CropSpec { area, ratio, .. }, .. } = self.spec;
        let first = batch * clips_per_batch as u64;
        let clips: Vec<_> = (first..first + clips_per_batch as u64)
            .map(|position| self.sampler.clip(epoch, position))
            .collect::<Result<_, _>>()?;
        let boxes = clips
            .iter()
            .map(|clip| {
                let header = self.sampler.stores()[clip.store].header();
                let mut rng = rng::stream(self.sampler.seed(), "crop", &[epoch, clip.sample_id]);
                random_resized_crop(&mut rng, header.width_px, header.height_px, area, ratio)
            })
            .collect();
        Ok(Draw { epoch, clips, boxes })
    }

    /// Decodes and crops what was drawn; `pixels` is memory to be used again.
    pub(crate) fn decode(
        &self,
        draw: Draw,
        pixels: &mut Vec<u8>,
    ) -> Result<ClipBatch, LoaderError> {
        let Draw { epoch, clips, boxes } = draw;
        let px = self.spec.crop.px;
        let frames_per_clip = self.sampler.spec().frames_per_clip;
        let frame_bytes = 3 * px as usize * px as usize;
        pixels.resize(clips.len() * frames_per_clip * frame_bytes, 0);
        let frames = pixels.par_chunks_exact_mut(frame_bytes).enumerate();
        let outcomes: Vec<_> = self.pool.install(|| {
            frames
                .map(|(index, out_CHW)| {
                    let (clip, frame) = (index / frames_per_clip, index % frames_per_clip);
                    self.with_decoder(&clips[clip], frame, |decoder, jpeg, size_px| {
                        decoder.crop(jpeg, size_px, boxes[clip], px, out_CHW)
                    })
                })
                .collect()
        });
        // The first error in the order of the frames, whichever thread was first to meet one.
        outcomes.into_iter().collect::<Result<(), _>>()?;

        let [b, t, px] = [clips.len(), frames_per_clip, px as usize].map(|size| size as i64);
        let frames_BTCHW = Tensor::from_data_size(pixels, &[b, t, 3, px, px], Kind::Uint8);
        Ok(ClipBatch { frames_BTCHW, clips, epoch, views: None, waited_s: 0.0 })
    }

    /// Plans the views of a batch, if the specification has any.
    pub(crate) fn plan_views(&self, batch: ClipBatch) -> ClipBatch {
        let (seed, px) = (self.sampler.seed(), self.spec.crop.px as usize);
        let sample_ids = batch.sample_ids();
        let keys = ViewKeys { seed, epoch: batch.epoch, sample_ids: &sample_ids };
        let shape = [batch.clips.len(), self.sampler.spec().frames_per_clip, px, px];
        let plan = |spec| self.pool.install(|| Box::new(ViewsPlan::new(&spec, keys, shape)));
        ClipBatch { views: self.spec.views.map(plan), ..batch }
    }

    /// Calls `body` for every frame of what was drawn, on the pool, with the box of its clip.
    pub(crate) fn each_frame(
        &self,
        draw: &Draw,
        body: impl Fn(&mut Decoder, &[u8], (u32, u32), CropBox) -> Result<(), DecodeError> + Sync,
    ) -> Result<(), LoaderError> {
        let frames_per_clip = self.sampler.spec().frames_per_clip;
        let frames = (0..draw.clips.len() * frames_per_clip).into_par_iter();
        self.pool.install(|| {
            frames.try_for_each(|index| {
                let (clip, frame) = (index / frames_per_clip, index % frames_per_clip);
                self.with_decoder(&draw.clips[clip], frame, |decoder, jpeg, size_px| {
                    body(decoder, jpeg, size_px, draw.boxes[clip])
                })
            })
        })
    }

    /// Calls `body` with this thread's decoder, the JPEG of a clip's frame and its size.
    fn with_decoder(
        &self,
        clip: &ClipRef,
        frame: usize,
        body: impl FnOnce(&mut Decoder, &[u8], (u32, u32)) -> Result<(), DecodeError>,
    ) -> Result<(), LoaderError> {
        thread_local! {
            static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) };
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(LoaderError::Stopped);
        }
        let (store, frame) = (&self.sampler.stores()[clip.store], clip.frames[frame]);
        let jpeg = store.jpeg(frame)?;
        let size_px = (store.header().width_px, store.header().height_px);
        let done = DECODER.with_borrow_mut(|slot| {
            let decoder = match slot {
                Some(decoder) => decoder,
                None => slot.insert(Decoder::new()?),
            };
            body(decoder, jpeg, size_px)
        });
        done.map_err(|source| LoaderError::Decode {
            store: store.folder().to_owned(),
            frame,
            source,
        })
    }
}

fn no_threads(threads: usize, reason: &dyn std::fmt::Display) -> LoaderError {
    LoaderError::Threads { threads, reason: reason.to_string() }
}
