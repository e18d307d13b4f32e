//! Discovery, tracking and masks.

use dora_core::tracker::{
    ClipFeatures, Threshold, TrackerSpec, Tracks, cls_attention, discover_and_track, object_masks,
};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::{cases, largest_difference, order, sizes, uniform};

const WIDTH: i64 = 12;
const FRAMES: i64 = 3;

fn spec(threshold: Threshold) -> TrackerSpec {
    TrackerSpec { eps: 0.05, iterations: 30, sinkhorn: true, threshold }
}

fn features(seed: u64, (b, n, k): (i64, i64, i64)) -> ClipFeatures {
    ClipFeatures {
        cls_attn_BKN: uniform(seed, &[b, k, n], Kind::Double).softmax(-1, None::<Kind>),
        queries_BND: uniform(seed ^ 1, &[b, n, WIDTH], Kind::Double) * 4.0,
        keys_BTND: uniform(seed ^ 2, &[b, FRAMES, n, WIDTH], Kind::Double) * 4.0,
        tokens_BND: uniform(seed ^ 3, &[b, n, WIDTH], Kind::Double),
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_mask_does_not_depend_on_other_clips((b, n, k) in sizes(), seed: u64) {
        let all = features(seed, (b, n, k));
        let together = discover_and_track(&all, &spec(Threshold::Sample)).masks_BTKN;
        for clip in 0..b {
            let only = |t: &Tensor| t.narrow(0, clip, 1);
            let alone = ClipFeatures {
                cls_attn_BKN: only(&all.cls_attn_BKN),
                queries_BND: only(&all.queries_BND),
                keys_BTND: only(&all.keys_BTND),
                tokens_BND: only(&all.tokens_BND),
            };
            let alone = discover_and_track(&alone, &spec(Threshold::Sample)).masks_BTKN;
            prop_assert_eq!(largest_difference(&only(&together), &alone), 0.0);
        }
    }

    #[test]
    fn heads_in_another_order_give_the_objects_in_that_order((b, n, k) in sizes(), seed: u64) {
        let features = features(seed, (b, n, k));
        let objects = order(seed ^ 9, k);
        let Tracks { maps_BTKN, masks_BTKN, .. } =
            discover_and_track(&features, &spec(Threshold::Batch));
        let cls_attn_BKN = features.cls_attn_BKN.index_select(1, &objects);
        let found =
            discover_and_track(&ClipFeatures { cls_attn_BKN, ..features }, &spec(Threshold::Batch));
        let expected = maps_BTKN.index_select(2, &objects);
        prop_assert!(largest_difference(&found.maps_BTKN, &expected) < 1e-9);
        // A patch exactly at the mean may fall to either side.
        let differing = (found.masks_BTKN - masks_BTKN.index_select(2, &objects)).abs();
        prop_assert!(differing.mean(Kind::Double).double_value(&[]) < 0.05);
    }

    #[test]
    fn maps_are_distributions_and_masks_have_some_but_not_all_patches(
        (b, n, k) in sizes(), seed: u64,
    ) {
        let tracks = discover_and_track(&features(seed, (b, n, k)), &spec(Threshold::Sample));
        let sums = tracks.maps_BTKN.sum_dim_intlist([-1].as_slice(), false, Kind::Double);
        prop_assert!((sums - 1.0).abs().max().double_value(&[]) < 1e-12);
        let area = tracks.masks_BTKN.mean_dim([-1].as_slice(), false, Kind::Double);
        prop_assert!(area.min().double_value(&[]) > 0.0);
        prop_assert!(area.max().double_value(&[]) < 1.0);
    }

    #[test]
    fn the_drawn_rows_are_those_of_the_whole_attention((b, n, heads) in sizes(), seed: u64) {
        let shape = [b, heads, n, WIDTH];
        let (queries, keys) = (uniform(seed, &shape, Kind::Double), uniform(seed ^ 1, &shape, Kind::Double));
        let whole = (queries.matmul(&keys.transpose(-2, -1)) / (WIDTH as f64).sqrt())
            .softmax(-1, None::<Kind>);
        let head = heads - 1;
        let expected = whole.narrow(1, head, 1).select(2, 0).narrow(2, 1, n - 1);
        prop_assert!(largest_difference(&cls_attention(&queries, &keys, &[head]), &expected) < 1e-12);
    }
}

#[test]
fn thresholds_take_the_mean_that_they_name() {
    // Two clips, one frame, one object, three patches; both maps have the L2 norm 1 already.
    let maps = Tensor::from_slice(&[1.0, 0.0, 0.0, 0.6, 0.8, 0.0]).reshape([2, 1, 1, 3]);
    let masks =
        |threshold| Vec::<f64>::try_from(object_masks(&maps, threshold).flatten(0, -1)).unwrap();
    // Means: 0.33 and 0.47 of the maps alone, 0.4 together: the same patches are above.
    assert_eq!(masks(Threshold::Sample), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    assert_eq!(masks(Threshold::Batch), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    // A flat map (norm 1, every patch 0.577) is above the joint mean but not above its own.
    let maps = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]).reshape([2, 1, 1, 3]);
    let masks =
        |threshold| Vec::<f64>::try_from(object_masks(&maps, threshold).flatten(0, -1)).unwrap();
    assert_eq!(masks(Threshold::Batch), [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(masks(Threshold::Sample)[..3], [1.0, 0.0, 0.0]);
}
