//! The views of clips.

use dora_data::augment::{
    Together, ViewKeys, ViewSpec, ViewsPlan, denormalise, plain_global_views, views,
};
use dora_data::rng::{Draw, stream};
use rayon::ThreadPoolBuilder;
use tch::{Device, Kind, Tensor};

const SPEC: ViewSpec = ViewSpec {
    views: 2,
    global_px: 32,
    global_area: [0.4, 1.0],
    local_crops: 3,
    local_px: 16,
    local_area: [0.05, 0.4],
    ratio: [0.75, 4.0 / 3.0],
    flip_p: 0.5,
    jitter_p: 0.8,
    brightness: 0.4,
    contrast: 0.4,
    saturation: 0.2,
    hue: 0.1,
    grey_p: 0.2,
    global_blur_p: 0.1,
    local_blur_p: 0.5,
    blur_radius_px: [0.1, 2.0],
    solarize_p: 0.2,
};

/// The same without any photometric change.
fn plain() -> ViewSpec {
    ViewSpec {
        jitter_p: 0.0,
        grey_p: 0.0,
        global_blur_p: 0.0,
        local_blur_p: 0.0,
        solarize_p: 0.0,
        ..SPEC
    }
}

/// Clips of random frames, uint8 `[B, T, 3, h, w]`.
fn frames_BTCHW(clips: u64, frames: u64, [h, w]: [u64; 2]) -> Tensor {
    let mut rng = stream(1, "frames", &[clips, frames]);
    let bytes: Vec<u8> = (0..clips * frames * 3 * h * w).map(|_| rng.below(256) as u8).collect();
    Tensor::from_slice(&bytes).view([clips, frames, 3, h, w].map(|size| size as i64))
}

fn keys(sample_ids: &[u64]) -> ViewKeys<'_> {
    ViewKeys { seed: 3, epoch: 1, sample_ids }
}

#[test]
fn a_clip_does_not_depend_on_its_batch() {
    let frames = frames_BTCHW(3, 4, [40, 48]);
    let batch = views(&frames, &SPEC, keys(&[7, 900, 31]), Device::Cpu);
    assert_eq!(batch.global_VBTCHW.size(), [2, 3, 4, 3, 32, 32]);
    assert_eq!(batch.local_LBTCHW.size(), [3, 3, 4, 3, 16, 16]);
    for (clip, sample) in [7, 900, 31].into_iter().enumerate() {
        let alone = frames.narrow(0, clip as i64, 1);
        let alone = views(&alone, &SPEC, keys(&[sample]), Device::Cpu);
        let narrow = |views: &Tensor| views.narrow(1, clip as i64, 1);
        assert!(alone.global_VBTCHW.allclose(&narrow(&batch.global_VBTCHW), 0.0, 1e-5, false));
        assert!(alone.local_LBTCHW.allclose(&narrow(&batch.local_LBTCHW), 0.0, 1e-5, false));
    }
}

/// Clips of random frames at the paper's sizes, and a spec that draws every change often.
fn full_size() -> (Tensor, ViewSpec) {
    let mut rng = stream(9, "frames", &[]);
    let bytes: Vec<u8> = (0..2 * 4 * 3 * 300 * 300).map(|_| rng.below(256) as u8).collect();
    let spec = ViewSpec { views: 2, global_blur_p: 0.5, solarize_p: 0.5, ..ViewSpec::default() };
    (Tensor::from_slice(&bytes).view([2, 4, 3, 300, 300]), spec)
}

#[test]
fn a_seeded_batch_has_the_views_it_has_always_had() {
    let (frames, spec) = full_size();
    let views = views(&frames, &spec, keys(&[7, 900]), Device::Cpu);
    for (tensor, step, expected) in [
        (views.global_VBTCHW, 120_459, &PINNED_GLOBAL),
        (views.local_LBTCHW, 90_353, &PINNED_LOCAL),
    ] {
        let flat = tensor.flatten(0, -1);
        for (index, expected) in expected.iter().enumerate() {
            let value = flat.double_value(&[step * index as i64]);
            assert!((value - expected).abs() < 2e-5, "{index}: {value}, not {expected}");
        }
    }
}

#[test]
fn images_may_pass_one_by_one_or_all_together() {
    let (frames, spec) = full_size();
    let plan = ViewsPlan::new(&spec, keys(&[7, 900]), [2, 4, 300, 300]);
    let bytes = Tensor::from_slice(plan.bytes());
    let [one, all] = [Together::One, Together::All].map(|by| plan.apply(&frames, &bytes, by));
    assert!(one.global_VBTCHW.allclose(&all.global_VBTCHW, 0.0, 2e-5, false));
    assert!(one.local_LBTCHW.allclose(&all.local_LBTCHW, 0.0, 2e-5, false));
}

#[test]
fn threads_do_not_change_views() {
    let (frames, spec) = full_size();
    let on = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| ViewsPlan::new(&spec, keys(&[7, 900]), [2, 4, 300, 300]))
    };
    let (one, three) = (on(1), on(3));
    assert!(one.bytes() == three.bytes());
    let [one, three] = [(one, 1), (three, 3)].map(|(plan, threads)| {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let views = plan.apply(&frames, &Tensor::from_slice(plan.bytes()), Together::One);
        assert_eq!(tch::get_num_threads(), threads, "threads are as they were");
        tch::set_num_threads(before);
        views
    });
    assert!(one.global_VBTCHW.equal(&three.global_VBTCHW));
    assert!(one.local_LBTCHW.equal(&three.local_LBTCHW));
}

#[test]
fn seed_epoch_and_sample_change_the_views() {
    let frames = frames_BTCHW(1, 2, [40, 40]);
    let view = |keys| views(&frames, &SPEC, keys, Device::Cpu);
    let first = view(ViewKeys { seed: 3, epoch: 1, sample_ids: &[5] });
    let again = view(ViewKeys { seed: 3, epoch: 1, sample_ids: &[5] });
    assert!(first.global_VBTCHW.equal(&again.global_VBTCHW));
    assert!(first.local_LBTCHW.equal(&again.local_LBTCHW));
    for other in [
        ViewKeys { seed: 4, epoch: 1, sample_ids: &[5] },
        ViewKeys { seed: 3, epoch: 2, sample_ids: &[5] },
        ViewKeys { seed: 3, epoch: 1, sample_ids: &[6] },
    ] {
        let other = view(other);
        assert!(!first.global_VBTCHW.equal(&other.global_VBTCHW));
        assert!(!first.local_LBTCHW.equal(&other.local_LBTCHW));
    }
}

#[test]
fn views_are_finite_contiguous_and_in_range() {
    let frames = frames_BTCHW(2, 3, [50, 70]);
    let views = views(&frames, &SPEC, keys(&[0, 1]), Device::Cpu);
    for tensor in [&views.global_VBTCHW, &views.local_LBTCHW] {
        assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && !tensor.requires_grad());
        for (channel, (mean, std)) in
            [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate()
        {
            let values = tensor.select(3, channel as i64);
            let (low, high) = (values.min().double_value(&[]), values.max().double_value(&[]));
            assert!(low >= -mean / std - 1e-5 && high <= (1.0 - mean) / std + 1e-5, "{low} {high}");
        }
    }
}

#[test]
fn one_box_for_the_clip_and_a_new_one_for_each_local_crop() {
    // The same frame all along: what differs is the box.
    let frames = frames_BTCHW(1, 1, [40, 40]).repeat([1, 5, 1, 1, 1]);
    let views = views(&frames, &plain(), keys(&[2]), Device::Cpu);
    let [first, second] = [0, 1].map(|view| views.global_VBTCHW.get(view).get(0));
    for frame in 1..5 {
        assert!(first.get(frame).allclose(&first.get(0), 0.0, 1e-5, false));
        assert!(second.get(frame).allclose(&second.get(0), 0.0, 1e-5, false));
    }
    assert!(!first.allclose(&second, 0.0, 0.1, false), "the second view has a box of its own");
    let crops = views.local_LBTCHW.view([15, 3, 16, 16]);
    for a in 0..15 {
        for b in 0..a {
            assert!(!crops.get(a).allclose(&crops.get(b), 0.0, 0.1, false), "crops {a} and {b}");
        }
    }
}

#[test]
fn colours_are_drawn_anew_for_every_frame() {
    let frames = frames_BTCHW(1, 1, [40, 40]).repeat([1, 6, 1, 1, 1]);
    let always = ViewSpec { jitter_p: 1.0, ..plain() };
    let views = views(&frames, &always, keys(&[2]), Device::Cpu);
    for view in 0..2 {
        let clip = views.global_VBTCHW.get(view).get(0);
        for frame in 1..6 {
            assert!(!clip.get(frame).allclose(&clip.get(0), 0.0, 0.01, false));
        }
    }
}

#[test]
fn only_the_second_view_is_solarised() {
    let frames = frames_BTCHW(1, 2, [40, 40]);
    let always = ViewSpec { solarize_p: 1.0, ..plain() };
    let before = views(&frames, &plain(), keys(&[2]), Device::Cpu);
    let after = views(&frames, &always, keys(&[2]), Device::Cpu);
    assert!(after.global_VBTCHW.get(0).equal(&before.global_VBTCHW.get(0)));
    assert!(after.local_LBTCHW.equal(&before.local_LBTCHW));
    let second = denormalise(&after.global_VBTCHW.get(1));
    assert!(second.max().int64_value(&[]) <= 128, "nothing bright is left");
    assert!(!after.global_VBTCHW.get(1).equal(&before.global_VBTCHW.get(1)));
}

#[test]
fn pictures_show_what_the_networks_see() {
    let frames = frames_BTCHW(2, 3, [40, 48]);
    let seen = views(&frames, &plain(), keys(&[4, 5]), Device::Cpu);
    let pictures = plain_global_views(&frames, &SPEC, keys(&[4, 5]), Device::Cpu);
    assert_eq!(pictures.kind(), Kind::Uint8);
    let back = denormalise(&seen.global_VBTCHW);
    assert_eq!(back.size(), pictures.size());
    let worst = (back.to_kind(Kind::Int) - pictures.to_kind(Kind::Int)).abs().max();
    assert!(worst.int64_value(&[]) <= 1, "rounding apart they are equal");
}

#[test]
fn a_view_of_everything_is_the_frame() {
    let frames = frames_BTCHW(1, 2, [32, 32]);
    let whole =
        ViewSpec { views: 1, global_area: [1.0, 1.0], ratio: [1.0, 1.0], flip_p: 0.0, ..SPEC };
    let picture = plain_global_views(&frames, &whole, keys(&[1]), Device::Cpu);
    assert!(picture.get(0).equal(&frames));
    let mirrored = ViewSpec { flip_p: 1.0, ..whole };
    let picture = plain_global_views(&frames, &mirrored, keys(&[1]), Device::Cpu);
    assert!(picture.get(0).equal(&frames.flip([4])));
}

#[test]
fn half_of_the_clips_are_mirrored() {
    // Bright on the left: the sum over the left half tells.
    let ramp = Tensor::arange(32, (Kind::Float, Device::Cpu)).flip([0]) * 8.0;
    let frames = ramp.to_kind(Kind::Uint8).view([1, 1, 1, 1, 32]).repeat([600, 1, 3, 32, 1]);
    let ids: Vec<u64> = (0..600).collect();
    let spec = ViewSpec { views: 1, ..SPEC };
    let pictures = plain_global_views(&frames, &spec, keys(&ids), Device::Cpu).get(0);
    let halves =
        pictures.to_kind(Kind::Float).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
    let left = halves.narrow(1, 0, 16).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    let right = halves.narrow(1, 16, 16).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    let mirrored = left.lt_tensor(&right).sum(Kind::Int64).int64_value(&[]);
    assert!((250..350).contains(&mirrored), "{mirrored} of 600");
}

#[test]
fn greys_come_as_often_as_asked() {
    let frames = frames_BTCHW(300, 2, [8, 8]);
    let ids: Vec<u64> = (0..300).collect();
    let spec = ViewSpec { views: 1, global_px: 8, local_crops: 0, ..SPEC };
    let seen = views(&frames, &spec, keys(&ids), Device::Cpu);
    assert_eq!(seen.local_LBTCHW.size(), [0, 300, 2, 3, 16, 16]);
    let colours = denormalise(&seen.global_VBTCHW).view([600, 3, 8, 8]).to_kind(Kind::Int);
    let span = colours.amax([1i64].as_slice(), false) - colours.amin([1i64].as_slice(), false);
    let grey = span.amax([1i64, 2].as_slice(), false).le(1).sum(Kind::Int64).int64_value(&[]);
    assert!((85..160).contains(&grey), "{grey} of 600");
}

#[test]
fn a_recipe_may_leave_out_keys_but_not_invent_them() {
    let spec: ViewSpec =
        serde_json::from_str(r#"{"views": 2, "global_px": 32, "local_px": 16, "local_crops": 3}"#)
            .unwrap();
    assert_eq!(spec, SPEC);
    let paper = ViewSpec::default();
    assert_eq!((paper.views, paper.global_px, paper.local_px, paper.local_crops), (1, 224, 112, 6));
    assert!(paper.validate().is_empty());
    let error = serde_json::from_str::<ViewSpec>(r#"{"gray_p": 0.2}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `gray_p`"), "{error}");
}

#[test]
fn all_problems_are_named_at_once() {
    let spec = ViewSpec {
        views: 3,
        global_px: 0,
        local_crops: 65,
        local_area: [0.4, 0.05],
        hue: 0.6,
        grey_p: f64::NAN,
        ..SPEC
    };
    assert_eq!(
        spec.validate(),
        [
            "`views` is 3, but must be 1 or 2",
            "`global_px` is 0, but must lie between 1 and 4096",
            "`local_crops` is 65, but 64 are the most",
            "`local_area` is [0.4, 0.05], but must be two rising numbers above 0 and up to 1",
            "`hue` is 0.6, but must lie between 0 and 0.5",
            "`grey_p` is NaN, but must lie between 0 and 1",
        ]
    );
}

/// Every 120,459th number of the global views and every 90,353rd of the local crops, from dense products
/// and photometric changes of the whole batch at once.
#[rustfmt::skip]
const PINNED_GLOBAL: [f64; 20] = [
    0.122513, 0.644098, 0.597529, 0.709156, -0.617875, -0.343028, 0.048016, -0.204735, -0.102450,
    0.178548, 1.258599, 1.203502, -0.195972, -0.536299, -0.041795, -1.185132, 0.671280, -0.274401,
    2.239233, -1.021386,
];
#[rustfmt::skip]
const PINNED_LOCAL: [f64; 20] = [
    -0.032105, -0.552548, 0.394532, -1.244486, 0.982457, -0.526560, -0.085708, 0.843050, -0.319732,
    0.331351, -0.578604, 1.726239, 2.015181, 0.850531, -0.159187, -1.009302, 1.308513, 1.251812,
    -0.393450, 0.169867,
];
