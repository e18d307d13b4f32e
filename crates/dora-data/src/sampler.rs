//! Which frames form which clip.
//!
//! Every frame that leaves room for a whole clip is a start. The starts of all stores form one
//! long range, each epoch walks it in a new random order, and each rank takes its share. A clip is
//! a pure function of seed, epoch and position, so a run resumes anywhere, and memory does not
//! grow with the number of frames. Times are seconds throughout: frame rates vary between videos
//! and within them.

use std::sync::Arc;

use dora_store::{FrameStore, StoreError};
use serde::{Deserialize, Serialize};

use crate::permutation::Permutation;
use crate::rng;

/// Time stamps of a sequence of frames, rising from frame to frame.
pub trait Timeline {
    /// What messages call it.
    fn name(&self) -> String;

    /// How many frames there are.
    fn frames(&self) -> usize;

    /// The time stamp of frame `index`, in microseconds.
    ///
    /// # Errors
    /// If there is no such frame or its stamp is damaged.
    fn pts_us(&self, index: usize) -> Result<i64, StoreError>;

    /// The frame whose time stamp is nearest to `time_us`.
    ///
    /// # Errors
    /// If there are no frames or a stamp is damaged.
    fn frame_at_us(&self, time_us: i64) -> Result<usize, StoreError>;
}

impl Timeline for FrameStore {
    fn name(&self) -> String {
        self.folder().display().to_string()
    }

    fn frames(&self) -> usize {
        self.len()
    }

    fn pts_us(&self, index: usize) -> Result<i64, StoreError> {
        self.pts_us(index)
    }

    fn frame_at_us(&self, time_us: i64) -> Result<usize, StoreError> {
        self.frame_at_us(time_us)
    }
}

/// The shape of a clip in time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipSpec {
    /// Frames in a clip, at least 1.
    pub frames_per_clip: usize,
    /// Seconds from one frame of a clip to the next, above 0.
    pub clip_stride_s: f64,
}

impl Default for ClipSpec {
    fn default() -> Self {
        Self { frames_per_clip: 8, clip_stride_s: 1.0 }
    }
}

impl ClipSpec {
    /// Everything wrong with it, one sentence each.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.frames_per_clip == 0 {
            problems.push("`frames_per_clip` is 0, but a clip has at least one frame".into());
        }
        if !(self.clip_stride_s > 0.0 && self.clip_stride_s.is_finite()) {
            problems
                .push(format!("`clip_stride_s` is {}, but must be above 0", self.clip_stride_s));
        }
        problems
    }

    fn offset_us(&self, frame: usize) -> i64 {
        (frame as f64 * self.clip_stride_s * 1e6).round() as i64
    }

    fn span_us(&self) -> i64 {
        self.offset_us(self.frames_per_clip - 1)
    }
}

/// Which share of the clips belongs to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This process, below `world_size`.
    pub rank: u64,
    /// How many processes train together, at least 1.
    pub world_size: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self { rank: 0, world_size: 1 }
    }
}

/// One clip: which frames of which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipRef {
    /// Index of the store.
    pub store: usize,
    /// Indices of the frames in the store, one for each frame of the clip, ascending.
    pub frames: Vec<usize>,
    /// The start's number among the starts of all stores: names the clip in every epoch and rank.
    pub sample_id: u64,
}

/// Why no clips can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// The clip specification is impossible; one sentence for each problem.
    #[error("{}", .0.join("; "))]
    Spec(Vec<String>),
    /// There is nothing to draw from.
    #[error("no frame store is given: name at least one video")]
    NoStores,
    /// The rank is not one of the processes.
    #[error("rank {rank} of {world_size} processes does not exist: ranks start at 0")]
    Rank {
        /// The rank asked for.
        rank: u64,
        /// The number of processes.
        world_size: u64,
    },
    /// A store ends before its first clip does.
    #[error(
        "`{name}` is too short for one clip: it holds {frames} frame(s) over {duration_s:.2} s, and {frames_per_clip} frames {clip_stride_s} s apart need {needed_s:.2} s; give a longer video, or lower `frames_per_clip` or `clip_stride_s`"
    )]
    TooShort {
        /// The store.
        name: String,
        /// Its number of frames.
        frames: usize,
        /// Seconds from its first frame to its last.
        duration_s: f64,
        /// Frames in a clip.
        frames_per_clip: usize,
        /// Seconds between them.
        clip_stride_s: f64,
        /// Seconds from the first frame of a clip to its last.
        needed_s: f64,
    },
    /// The frames of a clip would be copies of one another.
    #[error(
        "the frames of `{name}` lie {interval_s:.3} s apart, so clips with `clip_stride_s` = {clip_stride_s} would repeat them: raise `clip_stride_s` to {interval_s:.3} or more"
    )]
    TooSparse {
        /// The store.
        name: String,
        /// Mean seconds between its frames.
        interval_s: f64,
        /// Seconds between the frames of a clip.
        clip_stride_s: f64,
    },
    /// A time stamp cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some process would get no clip.
    #[error("{clips} clip(s) cannot be shared by {world_size} processes: give a longer video")]
    TooFew {
        /// Clips in an epoch.
        clips: u64,
        /// The number of processes.
        world_size: u64,
    },
}

/// Draws clips from stores.
#[derive(Debug)]
pub struct Sampler<S> {
    stores: Vec<Arc<S>>,
    /// Starts in all stores up to and including each.
    ends: Vec<u64>,
    spec: ClipSpec,
    share: Share,
    seed: u64,
}

impl<S: Timeline> Sampler<S> {
    /// Prepares clips of `spec` from `stores` for one process, in an order that `seed` decides.
    ///
    /// # Errors
    /// Says what to change if the specification is impossible, or names the store that has no
    /// room for a clip.
    pub fn new(
        stores: Vec<Arc<S>>,
        spec: ClipSpec,
        share: Share,
        seed: u64,
    ) -> Result<Self, SamplerError> {
        let problems = spec.validate();
        if !problems.is_empty() {
            return Err(SamplerError::Spec(problems));
        }
        let Share { rank, world_size } = share;
        if rank >= world_size {
            return Err(SamplerError::Rank { rank, world_size });
        }
        if stores.is_empty() {
            return Err(SamplerError::NoStores);
        }
        let mut clips = 0;
        let mut ends = Vec::with_capacity(stores.len());
        for store in &stores {
            clips += starts(store.as_ref(), spec)? as u64;
            ends.push(clips);
        }
        if clips < world_size {
            return Err(SamplerError::TooFew { clips, world_size });
        }
        Ok(Self { stores, ends, spec, share, seed })
    }

    /// Clips in an epoch of this process. It is the same for every process: where the number of
    /// all clips is no multiple of `world_size`, the last few of an epoch's order are left out,
    /// other ones in each epoch.
    pub fn clips_per_epoch(&self) -> u64 {
        self.all_clips() / self.share.world_size
    }

    /// Clips in an epoch of all processes: the number of frames that can start a clip.
    pub fn all_clips(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The clip at `position` in the order of `epoch`; rank r of W takes the positions r, r + W,
    /// ... of the order that all processes share. Its frames are those nearest in time.
    ///
    /// # Errors
    /// If the time stamps of the store are damaged.
    ///
    /// # Panics
    /// If `position` is not below [`Self::clips_per_epoch`].
    pub fn clip(&self, epoch: u64, position: u64) -> Result<ClipRef, StoreError> {
        assert!(position < self.clips_per_epoch(), "clip {position} of {}", self.clips_per_epoch());
        let order =
            Permutation::new(self.all_clips(), &mut rng::stream(self.seed, "clips", &[epoch]));
        let sample_id = order.get(position * self.share.world_size + self.share.rank);

        let index = self.ends.partition_point(|&end| end <= sample_id);
        let before = if index == 0 { 0 } else { self.ends[index - 1] };
        let store = &self.stores[index];
        let start = (sample_id - before) as usize;
        let start_us = store.pts_us(start)?;
        let frames = (0..self.spec.frames_per_clip)
            .map(|frame| store.frame_at_us(start_us.saturating_add(self.spec.offset_us(frame))))
            .collect::<Result<_, _>>()?;
        Ok(ClipRef { store: index, frames, sample_id })
    }

    /// The stores, in the order that [`ClipRef::store`] counts.
    pub fn stores(&self) -> &[Arc<S>] {
        &self.stores
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The shape of the clips in time.
    pub fn spec(&self) -> ClipSpec {
        self.spec
    }
}

/// How many frames of `store` leave room for a clip; they are its first ones.
fn starts(store: &impl Timeline, spec: ClipSpec) -> Result<usize, SamplerError> {
    let frames = store.frames();
    let (first_us, last_us) =
        if frames == 0 { (0, 0) } else { (store.pts_us(0)?, store.pts_us(frames - 1)?) };
    let duration_s = last_us.saturating_sub(first_us) as f64 * 1e-6;
    let interval_s = if frames > 1 { duration_s / (frames - 1) as f64 } else { 0.0 };
    // The last frame is shown for a while too: a clip may end up to half a frame after its stamp.
    let end_us = last_us.saturating_add((interval_s * 0.5e6) as i64);
    let latest_us = end_us.saturating_sub(spec.span_us());
    let (mut starts, mut after) = (0, frames);
    while starts < after {
        let middle = starts + (after - starts) / 2;
        if store.pts_us(middle)? <= latest_us { starts = middle + 1 } else { after = middle }
    }
    if starts == 0 {
        return Err(SamplerError::TooShort {
            name: store.name(),
            frames,
            duration_s,
            frames_per_clip: spec.frames_per_clip,
            clip_stride_s: spec.clip_stride_s,
            needed_s: spec.span_us() as f64 * 1e-6,
        });
    }
    // A tenth of tolerance, for rates such as 29.97.
    if spec.frames_per_clip > 1 && spec.clip_stride_s < 0.9 * interval_s {
        let (name, clip_stride_s) = (store.name(), spec.clip_stride_s);
        return Err(SamplerError::TooSparse { name, interval_s, clip_stride_s });
    }
    Ok(starts)
}
