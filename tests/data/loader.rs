//! Batches from stores on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dora_data::augment::{self, Together, ViewKeys, ViewSpec};
use dora_data::crop::{CropSpec, random_resized_crop};
use dora_data::decode::Decoder;
use dora_data::loader::{ClipBatch, Loader, LoaderSpec};
use dora_data::rng::stream;
use dora_data::sampler::{ClipSpec, Sampler, Share};
use dora_store::FrameStore;
use tch::{Device, Kind, Tensor};

use super::{store, store_with, textured_jpeg};

const SPEC: LoaderSpec = LoaderSpec {
    views: None,
    clips_per_batch: 3,
    crop: CropSpec { px: 40, area: [0.2, 1.0], ratio: [0.75, 4.0 / 3.0] },
    threads: 2,
    prefetch_batches: 2,
};

fn sampler(stores: &[Arc<FrameStore>]) -> Sampler<FrameStore> {
    let spec = ClipSpec { frames_per_clip: 3, clip_stride_s: 0.2 };
    Sampler::new(stores.to_vec(), spec, Share::default(), 11).unwrap()
}

/// Two short videos of different sizes: 18 and 9 clips, so 9 batches in an epoch.
fn videos(folder: &Path) -> Vec<Arc<FrameStore>> {
    vec![store(&folder.join("a"), (96, 64), 24, 15.0), store(&folder.join("b"), (64, 80), 13, 10.0)]
}

fn batches(
    stores: &[Arc<FrameStore>],
    spec: LoaderSpec,
    first: u64,
    count: usize,
) -> Vec<ClipBatch> {
    let mut loader = Loader::new(sampler(stores), spec, first).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

fn assert_same(a: &[ClipBatch], b: &[ClipBatch]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.epoch, &a.clips), (b.epoch, &b.clips));
        assert!(a.frames_BTCHW.equal(&b.frames_BTCHW));
    }
}

#[test]
fn the_loader_plans_the_views_of_its_clips() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    let views = ViewSpec { global_px: 32, local_px: 16, local_crops: 2, ..ViewSpec::default() };
    let batch = batches(&stores, LoaderSpec { views: Some(views), ..SPEC }, 4, 1).remove(0);
    let plan = batch.views.as_ref().unwrap();
    let bytes = Tensor::from_slice(plan.bytes());
    let planned = plan.apply(&batch.frames_BTCHW, &bytes, Together::One);
    let (sample_ids, seed) = (batch.sample_ids(), sampler(&stores).seed());
    let keys = ViewKeys { seed, epoch: batch.epoch, sample_ids: &sample_ids };
    let expected = augment::views(&batch.frames_BTCHW, &views, keys, Device::Cpu);
    assert!(planned.global_VBTCHW.equal(&expected.global_VBTCHW));
    assert!(planned.local_LBTCHW.equal(&expected.local_LBTCHW));
    let error = Loader::new(
        sampler(&stores),
        LoaderSpec { views: Some(ViewSpec { views: 3, ..ViewSpec::default() }), ..SPEC },
        0,
    );
    assert_eq!(error.unwrap_err().to_string(), "`views` is 3, but must be 1 or 2");
}

#[test]
fn threads_and_prefetch_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    let one = batches(&stores, LoaderSpec { threads: 1, prefetch_batches: 1, ..SPEC }, 0, 20);
    for threads in [2, 4, 32] {
        let spec = LoaderSpec { threads, prefetch_batches: threads, ..SPEC };
        assert_same(&one, &batches(&stores, spec, 0, 20));
    }
    assert_eq!(one[0].frames_BTCHW.size(), [3, 3, 3, 40, 40]);
    assert_eq!(one[0].frames_BTCHW.kind(), Kind::Uint8);
}

#[test]
fn a_resumed_loader_goes_on_where_the_other_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    let whole = batches(&stores, SPEC, 0, 25);
    for first in [1, 7, 9, 13] {
        assert_same(&whole[first..], &batches(&stores, SPEC, first as u64, 25 - first));
    }
}

#[test]
fn epochs_follow_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    let mut loader = Loader::new(sampler(&stores), SPEC, 0).unwrap();
    assert_eq!(loader.batches_per_epoch(), 9);
    let mut orders = Vec::new();
    for epoch in 0..3 {
        let mut samples = Vec::new();
        for _ in 0..9 {
            let batch = loader.next().unwrap();
            assert_eq!(batch.epoch, epoch);
            assert!(batch.waited_s >= 0.0);
            samples.extend(batch.sample_ids());
        }
        orders.push(samples.clone());
        samples.sort_unstable();
        assert_eq!(samples, (0..27).collect::<Vec<_>>(), "each clip once in an epoch");
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
}

#[test]
fn clips_are_the_crops_of_the_frames_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    for batch in batches(&stores, SPEC, 4, 12) {
        for (n, clip) in batch.clips.iter().enumerate() {
            let header = stores[clip.store].header();
            let mut rng = stream(11, "crop", &[batch.epoch, clip.sample_id]);
            let (width, height) = (header.width_px, header.height_px);
            let crop =
                random_resized_crop(&mut rng, width, height, SPEC.crop.area, SPEC.crop.ratio);
            for (t, &frame) in clip.frames.iter().enumerate() {
                let (jpeg, mut expected) = (textured_jpeg((width, height), frame), vec![0; 4800]);
                let mut decoder = Decoder::new().unwrap();
                decoder.crop(&jpeg, (width, height), crop, 40, &mut expected).unwrap();
                let got = batch.frames_BTCHW.get(n as i64).get(t as i64);
                assert!(
                    got == Tensor::from_slice(&expected).view([3, 40, 40]),
                    "{clip:?} {crop:?}"
                );
            }
        }
    }
}

#[test]
fn dropping_a_loader_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let stores = vec![store(folder.path(), (640, 360), 20, 15.0)];
    for used in [0, 1, 3] {
        for prefetch_batches in [1, 8] {
            let spec = LoaderSpec { clips_per_batch: 5, prefetch_batches, ..SPEC };
            let mut loader = Loader::new(sampler(&stores), spec, 0).unwrap();
            (0..used).for_each(|_| drop(loader.next().unwrap()));
            let start = Instant::now();
            drop(loader);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
    }
    // Nobody holds the store any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    while Arc::strong_count(&stores[0]) > 1 {
        assert!(Instant::now() < deadline, "a thread still holds the store");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn failure(stores: &[Arc<FrameStore>]) -> String {
    let mut loader = Loader::new(sampler(stores), SPEC, 0).unwrap();
    let error = loop {
        match loader.next() {
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(loader.next().unwrap_err().to_string(), "the loader has stopped after an error");
    error
}

#[test]
fn a_frame_that_cannot_be_decoded_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pts_us: Vec<_> = (0..20).map(|frame| frame * 100_000).collect();
    let make = |name: &str, bad: Vec<u8>| {
        let good = |frame| textured_jpeg((96, 64), frame);
        let jpeg = |frame| if frame == 13 { bad.clone() } else { good(frame) };
        vec![store_with(&folder.path().join(name), (96, 64), &pts_us, jpeg)]
    };
    let cut = textured_jpeg((96, 64), 13);
    let cases = [
        ("text", b"this is no JPEG file".to_vec(), "its JPEG is damaged"),
        ("cut", cut[..cut.len() / 2].to_vec(), "its JPEG is damaged"),
        ("empty", vec![], "its JPEG is damaged"),
        (
            "size",
            textured_jpeg((64, 96), 13),
            "its JPEG is 64x96 px, but frames of the store are 96x64",
        ),
    ];
    for (name, bad, reason) in cases {
        let error = failure(&make(name, bad));
        assert!(error.contains("frame 13 of the frame store"), "{error}");
        assert!(error.contains(&format!("/{name}`")) && error.contains(reason), "{error}");
    }
}

#[test]
fn changed_bytes_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let stores = vec![store(folder.path(), (96, 64), 20, 10.0)];
    let shard = folder.path().join("shard-00000.jpgs");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let error = failure(&stores);
    assert!(error.contains("frame 9 ") || error.contains("frame 10 "), "{error}");
    assert!(error.contains("does not match its checksum"), "{error}");
}

#[test]
fn impossible_loaders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stores = videos(folder.path());
    let refusal = |spec| Loader::new(sampler(&stores), spec, 0).unwrap_err().to_string();
    assert_eq!(
        refusal(LoaderSpec { clips_per_batch: 28, ..SPEC }),
        "a batch of 28 clips is more than the 27 that an epoch has for each process: lower the batch size or give a longer video"
    );
    assert_eq!(
        refusal(LoaderSpec { clips_per_batch: 0, threads: 0, ..SPEC }),
        "`clips_per_batch` is 0, but must lie between 1 and 4096; `threads` is 0, but must lie between 1 and 4096"
    );
}

/// Forged sizes must not make the decoder ask for memory.
#[test]
fn a_frame_of_absurd_size_is_refused() {
    let mut decoder = Decoder::new().unwrap();
    let crop = dora_data::crop::CropBox { left_px: 0, top_px: 0, width_px: 4, height_px: 4 };
    let error = decoder
        .crop(&textured_jpeg((16, 16), 0), (60_000, 60_000), crop, 4, &mut [0; 48])
        .unwrap_err();
    assert_eq!(error.to_string(), "its 60000x60000 px are more than a video frame has");
}
