//! Label propagation through a video, and the measures of its masks.

use dora_data::rng::{Draw, stream};
use dora_eval::{
    classification::knn::TEMPERATURE,
    discovery::{attention::MASS, lost::K_PATCHES},
    video_segmentation::{
        boundary::boundary_f,
        follow::{LabelTracker, Protocol},
        metrics::{Statistics, jaccard},
        propagation::{LabelledPatches, Propagation, unit_features},
    },
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

use super::{FORWARD, Golden, check};

type Form = fn(&Propagation, &[&LabelledPatches], &Tensor, (i64, i64)) -> Tensor;

#[test]
fn propagated_labels_match() {
    let golden = Golden::read("propagation");
    let (features_TND, segs_TCHW) = (golden.get("features_TND"), golden.get("segs_TCHW"));
    let propagation = Propagation {
        window: golden.integer("window"),
        topk: golden.integer("topk") as usize,
        temperature: golden.number("temperature"),
    };
    let last_frames = golden.integer("last_frames") as usize;
    let (frames, classes, rows, columns) = segs_TCHW.size4().unwrap();
    let forms: [(&str, Form); 3] = [
        ("windowed", Propagation::propagate),
        ("windowed as tensors", Propagation::propagate_on_device),
        ("dense", Propagation::propagate_densely),
    ];
    for (name, form) in forms {
        let features = |t: i64| unit_features(&features_TND.get(t));
        let first = segs_TCHW.get(0).flatten(1, 2).transpose(0, 1).contiguous();
        let mut seen = vec![LabelledPatches { features_PD: features(0), labels_PC: first }];
        for t in 1..frames {
            let last = seen.len().saturating_sub(last_frames).max(1);
            let sources: Vec<&LabelledPatches> = seen[..1].iter().chain(&seen[last..]).collect();
            let labels_PC = no_grad(|| form(&propagation, &sources, &features(t), (rows, columns)));
            let labels_CHW = labels_PC.transpose(0, 1).reshape([classes, rows, columns]);
            check(&format!("{name}, frame {t}"), &labels_CHW, &segs_TCHW.get(t), FORWARD);
            seen.push(LabelledPatches { features_PD: features(t), labels_PC });
        }
    }
    // What follows objects keeps as many frames itself.
    let mut tracker = LabelTracker::new(
        Protocol { last_frames, propagation, ..Protocol::default() },
        (rows, columns),
    );
    let features = |t: i64| unit_features(&features_TND.get(t));
    tracker.start(features(0), segs_TCHW.get(0).flatten(1, 2).transpose(0, 1).contiguous());
    for t in 1..frames {
        let labels_PC = no_grad(|| tracker.label(features(t)));
        let labels_CHW = labels_PC.transpose(0, 1).reshape([classes, rows, columns]);
        check(&format!("tracker, frame {t}"), &labels_CHW, &segs_TCHW.get(t), FORWARD);
    }
}

#[test]
fn protocols_state_their_numbers() {
    let protocol = Protocol::default();
    assert_eq!((protocol.short_side_px, protocol.last_frames), (480, 7));
    assert_eq!(protocol.propagation, Propagation { window: 12, topk: 5, temperature: 0.1 });
    assert_eq!((TEMPERATURE, K_PATCHES, MASS), (0.07, 100, 0.6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Tiles end inside of the grid and at its rim, windows reach over it, and neighbours are few.
    #[test]
    fn every_form_gives_the_same_labels(
        (rows, columns) in (1_i64..14, 1_i64..70),
        (window, topk, frames) in (0_i64..16, 1_usize..9, 1_usize..4),
        seed in 0..1000_u64,
    ) {
        let propagation = Propagation { window, topk, temperature: 0.1 };
        let (patches, width, classes) = (rows * columns, 16, 3);
        let numbers = |name: &str, frame: usize, columns: i64| {
            let mut draws = stream(seed, name, &[frame as u64]);
            let numbers: Vec<f32> =
                (0..patches * columns).map(|_| draws.uniform(-1.0, 1.0) as f32).collect();
            Tensor::from_slice(&numbers).reshape([patches, columns])
        };
        let features = |frame: usize| unit_features(&numbers("features", frame, width));
        let sources: Vec<LabelledPatches> = (0..frames)
            .map(|frame| {
                let labels_PC = numbers("labels", frame, classes).softmax(1, None::<Kind>);
                LabelledPatches { features_PD: features(frame), labels_PC }
            })
            .collect();
        let sources: Vec<&LabelledPatches> = sources.iter().collect();
        let target = features(frames);
        let dense_PC = propagation.propagate_densely(&sources, &target, (rows, columns));
        let forms: [Form; 2] = [Propagation::propagate, Propagation::propagate_on_device];
        for form in forms {
            let labels_PC = form(&propagation, &sources, &target, (rows, columns));
            check("labels", &labels_PC, &dense_PC, FORWARD);
        }
    }
}

/// Where all neighbours are alike, all of them count: none is the fifth alone.
#[test]
fn neighbours_as_similar_as_the_last_count_too() {
    let propagation = Propagation { window: 1, topk: 2, temperature: 0.1 };
    let features_PD = unit_features(&Tensor::ones([15, 4], (Kind::Float, Device::Cpu)));
    let labels_PC = Tensor::arange(15, (Kind::Float, Device::Cpu)).unsqueeze(1);
    let source = LabelledPatches { features_PD: features_PD.shallow_clone(), labels_PC };
    let forms: [Form; 3] =
        [Propagation::propagate, Propagation::propagate_on_device, Propagation::propagate_densely];
    for form in forms {
        let mean_PC = form(&propagation, &[&source], &features_PD, (3, 5));
        // The corner has four neighbours, itself included; the middle nine.
        assert!((mean_PC.double_value(&[0, 0]) - 3.0).abs() < 1e-5, "{mean_PC}");
        assert!((mean_PC.double_value(&[7, 0]) - 7.0).abs() < 1e-5, "{mean_PC}");
    }
}

proptest! {
    #[test]
    fn j_and_f_are_symmetric_and_perfect_for_the_same_mask(
        (width, height) in (1_usize..40, 1_usize..40),
        bits in proptest::collection::vec(proptest::bool::weighted(0.3), 2 * 1600),
    ) {
        let (a, b) = (&bits[..width * height], &bits[1600..][..width * height]);
        prop_assert_eq!(jaccard(a, a), 1.0);
        prop_assert_eq!(boundary_f(a, a, width), 1.0);
        prop_assert_eq!(jaccard(a, b), jaccard(b, a));
        prop_assert_eq!(boundary_f(a, b, width), boundary_f(b, a, width));
        prop_assert!((0.0..=1.0).contains(&boundary_f(a, b, width)));
    }
}

/// Squares of 20 px whose sides are a given number of pixels apart, in pictures whose tolerance is 4 px.
#[test]
fn boundaries_match_within_the_tolerance() {
    let (width, height) = (400, 300);
    let square = |left: usize| -> Vec<bool> {
        let is_inside = |at: usize| {
            (left..left + 20).contains(&(at % width)) && (100..120).contains(&(at / width))
        };
        (0..width * height).map(is_inside).collect()
    };
    assert_eq!(boundary_f(&square(100), &square(104), width), 1.0);
    let f = boundary_f(&square(100), &square(105), width);
    assert!((0.3..0.9).contains(&f), "{f}");
    assert_eq!(boundary_f(&square(100), &square(200), width), 0.0);
    assert_eq!(boundary_f(&square(100), &vec![false; width * height], width), 0.0);
    assert_eq!(jaccard(&square(100), &square(110)), 1.0 / 3.0);
    let values: Vec<f64> = (0..7).map(f64::from).collect();
    // Quarters of seven frames end at 1.5 and 4.5, where a half goes up: frames 0 to 2 and 5 to 6.
    assert_eq!(Statistics::of(&values).decay, 1.0 - 5.5);
}
