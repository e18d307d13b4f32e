//! Which frames form which clip.

use std::collections::BTreeSet;
use std::sync::Arc;

use dora_data::sampler::{ClipSpec, Sampler, SamplerError, Share, Timeline};
use dora_store::StoreError;
use proptest::prelude::*;

/// Stamps without frames.
struct Stamps(Vec<i64>);

impl Timeline for Stamps {
    fn name(&self) -> String {
        "stamps".into()
    }

    fn frames(&self) -> usize {
        self.0.len()
    }

    fn pts_us(&self, index: usize) -> Result<i64, StoreError> {
        Ok(self.0[index])
    }

    /// By looking at every frame.
    fn frame_at_us(&self, time_us: i64) -> Result<usize, StoreError> {
        Ok((0..self.0.len()).min_by_key(|&frame| self.0[frame].abs_diff(time_us)).unwrap())
    }
}

/// A constant 60 frames/s, computed.
struct Sparse(usize);

impl Timeline for Sparse {
    fn name(&self) -> String {
        "sparse".into()
    }

    fn frames(&self) -> usize {
        self.0
    }

    fn pts_us(&self, index: usize) -> Result<i64, StoreError> {
        Ok(index as i64 * 1_000_000 / 60)
    }

    fn frame_at_us(&self, time_us: i64) -> Result<usize, StoreError> {
        Ok(((time_us as f64 * 60e-6).round() as usize).min(self.0 - 1))
    }
}

fn sampler<S: Timeline>(stores: Vec<S>, frames: usize, stride_s: f64) -> Sampler<S> {
    let spec = ClipSpec { frames_per_clip: frames, clip_stride_s: stride_s };
    Sampler::new(stores.into_iter().map(Arc::new).collect(), spec, Share::default(), 5).unwrap()
}

fn refusal<S: Timeline>(stores: Vec<S>, spec: ClipSpec, share: Share) -> String {
    let stores = stores.into_iter().map(Arc::new).collect();
    Sampler::new(stores, spec, share, 0).err().unwrap().to_string()
}

fn stamps() -> impl Strategy<Value = Vec<i64>> {
    let start = -1_000_000..1_000_000i64;
    (start, prop::collection::vec(10_000..60_000i64, 30..200)).prop_map(|(start, steps)| {
        let rise = |at: &mut i64, step| {
            *at += step;
            Some(*at)
        };
        steps.into_iter().scan(start, rise).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_frame_that_leaves_room_starts_one_clip(
        videos in prop::collection::vec(stamps(), 1..4),
        frames in 1..5usize,
        epoch: u64,
    ) {
        let (stride_us, last) = (60_000, |stamps: &[i64]| *stamps.last().unwrap());
        let mut expected = BTreeSet::new();
        for (store, stamps) in videos.iter().enumerate() {
            let half = (last(stamps) - stamps[0]) as f64 / (stamps.len() - 1) as f64 / 2.0;
            let span = (frames - 1) as i64 * stride_us;
            let room = |start: &&usize| (stamps[**start] + span - last(stamps)) as f64 <= half;
            let indices: Vec<_> = (0..stamps.len()).collect();
            expected.extend(indices.iter().filter(room).map(|&start| (store, start)));
        }
        let sampler = sampler(videos.iter().cloned().map(Stamps).collect(), frames, 0.06);
        prop_assert_eq!(sampler.clips_per_epoch(), expected.len() as u64);
        let mut ids = BTreeSet::new();
        for position in 0..sampler.clips_per_epoch() {
            let clip = sampler.clip(epoch, position).unwrap();
            let stamps = &videos[clip.store];
            prop_assert!(expected.remove(&(clip.store, clip.frames[0])));
            prop_assert!(ids.insert(clip.sample_id));
            prop_assert_eq!(clip.frames.len(), frames);
            for (j, &frame) in clip.frames.iter().enumerate() {
                let target = stamps[clip.frames[0]] + j as i64 * stride_us;
                let distance = stamps[frame].abs_diff(target);
                prop_assert!(stamps.iter().all(|stamp| stamp.abs_diff(target) >= distance));
            }
        }
        prop_assert!(expected.is_empty());
    }

    #[test]
    fn ranks_share_the_epoch(frames in 20..400usize, world_size in 1..9u64, epoch: u64) {
        let spec = ClipSpec { frames_per_clip: 2, clip_stride_s: 0.1 };
        let make = |share| Sampler::new(vec![Arc::new(Sparse(frames))], spec, share, 9).unwrap();
        let whole = make(Share::default());
        let mut seen = BTreeSet::new();
        for rank in 0..world_size {
            let sampler = make(Share { rank, world_size });
            prop_assert_eq!(sampler.clips_per_epoch(), whole.clips_per_epoch() / world_size);
            for position in 0..sampler.clips_per_epoch() {
                let clip = sampler.clip(epoch, position).unwrap();
                let same = whole.clip(epoch, position * world_size + rank).unwrap();
                prop_assert_eq!(&clip, &same);
                prop_assert!(seen.insert(clip.sample_id), "two ranks have {}", clip.sample_id);
            }
        }
        let left_out = whole.clips_per_epoch() - seen.len() as u64;
        prop_assert!(left_out < world_size);
    }
}

#[test]
fn stores_choose_the_nearest_stamps() {
    let folder = tempfile::tempdir().unwrap();
    let pts_us = [0, 30_000, 75_000, 100_000, 140_000, 141_000, 200_000, 230_000];
    let store = super::store_with(folder.path(), (16, 16), &pts_us, |_| b"not looked at".to_vec());
    let spec = ClipSpec { frames_per_clip: 3, clip_stride_s: 0.07 };
    let sampler = Sampler::new(vec![store], spec, Share::default(), 1).unwrap();
    // The last stamp and half a mean frame leave room up to 106 ms.
    let mut clips: Vec<_> = (0..4).map(|i| sampler.clip(0, i).unwrap().frames).collect();
    clips.sort_unstable();
    assert_eq!(clips, [[0, 2, 4], [1, 3, 5], [2, 5, 6], [3, 5, 7]]);
    assert_eq!(sampler.clips_per_epoch(), 4);
}

#[test]
fn epochs_have_orders_of_their_own() {
    let sampler = sampler(vec![Sparse(4000)], 8, 1.0);
    let order = |epoch| -> Vec<_> {
        (0..sampler.clips_per_epoch()).map(|i| sampler.clip(epoch, i).unwrap().sample_id).collect()
    };
    let (first, second) = (order(0), order(1));
    assert_ne!(first, second);
    assert_eq!(first, order(0));
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(same < 20, "{same} clips stand at the same place");
}

#[test]
fn ten_walks_of_hours_need_no_time() {
    let start = std::time::Instant::now();
    let sampler = sampler((0..10).map(|_| Sparse(350_000)).collect(), 8, 1.0);
    assert_eq!(sampler.clips_per_epoch(), 10 * (350_000 - 420));
    for position in 0..1000 {
        let clip = sampler.clip(99, position * 3000).unwrap();
        let first = clip.frames[0];
        assert_eq!(clip.frames, (0..8).map(|j| first + 60 * j).collect::<Vec<_>>());
    }
    assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());
}

#[test]
fn impossible_clips_are_refused_in_one_sentence() {
    let spec = ClipSpec { frames_per_clip: 8, clip_stride_s: 1.0 };
    let share = Share::default();
    assert_eq!(
        refusal(vec![Sparse(1000), Sparse(300)], spec, share),
        "`sparse` is too short for one clip: it holds 300 frame(s) over 4.98 s, and 8 frames 1 s apart need 7.00 s; give a longer video, or lower `frames_per_clip` or `clip_stride_s`"
    );
    let empty = refusal(vec![Stamps(vec![])], spec, share);
    assert!(empty.contains("it holds 0 frame(s)"), "{empty}");
    assert_eq!(
        refusal(
            vec![Stamps((0..20).map(|i| i * 1_000_000).collect())],
            ClipSpec { clip_stride_s: 0.5, ..spec },
            share
        ),
        "the frames of `stamps` lie 1.000 s apart, so clips with `clip_stride_s` = 0.5 would repeat them: raise `clip_stride_s` to 1.000 or more"
    );
    assert_eq!(
        refusal(
            vec![Sparse(1000)],
            ClipSpec { frames_per_clip: 0, clip_stride_s: f64::NAN },
            share
        ),
        "`frames_per_clip` is 0, but a clip has at least one frame; `clip_stride_s` is NaN, but must be above 0"
    );
    let none = Sampler::<Sparse>::new(vec![], spec, share, 0);
    assert!(matches!(none, Err(SamplerError::NoStores)));
    assert_eq!(
        refusal(vec![Sparse(430)], spec, Share { rank: 3, world_size: 64 }),
        "10 clip(s) cannot be shared by 64 processes: give a longer video"
    );
    assert_eq!(
        refusal(vec![Sparse(430)], spec, Share { rank: 2, world_size: 2 }),
        "rank 2 of 2 processes does not exist: ranks start at 0"
    );
}

#[test]
fn a_whole_video_can_be_one_clip() {
    // 8 frames at one a second, and a rate of 29.97 with a stride of a thirtieth.
    let seconds = Stamps((0..8).map(|i| i * 1_000_000).collect());
    let sampler_of_seconds = sampler(vec![seconds], 8, 1.0);
    assert_eq!(sampler_of_seconds.clips_per_epoch(), 1);
    assert_eq!(sampler_of_seconds.clip(3, 0).unwrap().frames, [0, 1, 2, 3, 4, 5, 6, 7]);
    let ntsc = Stamps((0..30).map(|i| i * 1_001_000 / 30).collect());
    assert_eq!(sampler(vec![ntsc], 8, 1.0 / 30.0).clips_per_epoch(), 23);
}
