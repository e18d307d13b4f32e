//! Properties of object discovery.

use dora_eval::{
    discovery::{
        PxBox, Tally,
        attention::{LabelCounts, MASS, attention_masks},
        boxes_of,
        data::Object,
        lost::lost,
    },
    images::{
        grid::Grid,
        masks::{Mask, VOID},
    },
    visualize::pca::Pca,
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

fn grid(rows: usize, columns: usize) -> Grid {
    Grid { rows, columns, patch_px: 16 }
}

/// Keys of a background and of a rectangle (rows, columns) that correlates with nothing else.
fn scene(grid: Grid, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Tensor {
    let keys: Vec<f32> = (0..grid.patches())
        .flat_map(|patch| {
            let (row, column) = (patch / grid.columns, patch % grid.columns);
            let on_object = rows.contains(&row) && columns.contains(&column);
            if on_object { [-1.0, 0.5] } else { [1.0, 0.0] }
        })
        .collect();
    Tensor::from_slice(&keys).reshape([-1, 2])
}

#[test]
fn lost_finds_what_correlates_with_nothing_else() {
    let found = lost(&scene(grid(9, 12), 2..5, 3..7), grid(9, 12), (144, 192), 100);
    assert_eq!(found.bounds, PxBox { x0: 48.0, y0: 32.0, x1: 112.0, y1: 80.0 });
    // All of the object's patches have the same degree: the first one is the seed.
    assert_eq!(found.seed, 2 * 12 + 3);
    assert_eq!(found.patches.iter().filter(|patch| **patch).count(), 12);
    // The box ends where the image does.
    let found = lost(&scene(grid(9, 12), 6..9, 9..12), grid(9, 12), (139, 180), 100);
    assert_eq!(found.bounds, PxBox { x0: 144.0, y0: 96.0, x1: 180.0, y1: 139.0 });
}

#[test]
fn patches_hang_together_over_sides_only() {
    let keys: Vec<f32> = [-1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0].to_vec();
    let keys = Tensor::from_slice(&keys).reshape([9, 1]);
    let found = lost(&keys, grid(3, 3), (48, 48), 100);
    assert_eq!((found.seed, found.bounds), (0, PxBox { x0: 0.0, y0: 0.0, x1: 16.0, y1: 16.0 }));
}

#[test]
fn degenerate_keys_give_the_seed_s_patch() {
    for value in [0.0, f64::NAN] {
        let keys = Tensor::full([12, 4], value, (Kind::Float, Device::Cpu));
        let found = lost(&keys, grid(3, 4), (40, 60), 100);
        assert_eq!((found.seed, found.bounds), (0, PxBox { x0: 0.0, y0: 0.0, x1: 16.0, y1: 16.0 }));
    }
}

fn object(class: &str, sides: [f64; 4]) -> Object {
    Object { class: Some(class.to_owned()), is_hard: false, bounds: sides.into() }
}

#[test]
fn half_of_the_union_is_just_enough() {
    let mut tally = Tally::new(1);
    let square = PxBox::from([0.0, 0.0, 10.0, 10.0]);
    assert!(tally.add_box(&square, &[object("a", [0.0, 0.0, 10.0, 5.0])]));
    assert!(!tally.add_box(&square, &[object("a", [0.0, 0.0, 10.0, 4.9])]));
    assert!(!tally.add_box(&square, &[object("b", [20.0, 0.0, 30.0, 10.0])]));
    let both = [object("a", [0.0, 0.0, 10.0, 10.0]), object("b", [9.0, 9.0, 30.0, 30.0])];
    assert!(tally.add_box(&square, &both));
    let scores = tally.scores();
    assert_eq!((scores.images, scores.corloc, scores.jaccard), (4, 0.5, None));
    let class = |name: &str| (scores.per_class[name].images, scores.per_class[name].corloc);
    assert_eq!((class("a"), class("b")), ((3, Some(2.0 / 3.0)), (2, Some(0.0))));
}

#[test]
fn the_best_head_counts_for_each_label() {
    let mut tally = Tally::new(2);
    tally.add_masks(&[vec![(1, 0.2), (7, 0.8)], vec![(1, 0.4), (7, 0.0)]], |label| {
        (label == 7).then_some("g")
    });
    tally.add_masks(&[vec![(1, 0.1)], vec![(1, 0.3)]], |_| None);
    tally.add_masks(&[vec![], vec![]], |_| None);
    let scores = tally.scores();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    near(scores.jaccard.unwrap(), (0.6 + 0.3) / 2.0);
    near(scores.per_head[0], (0.2 + 0.8 + 0.1) / 3.0);
    near(scores.per_head[1], (0.4 + 0.3) / 3.0);
    assert_eq!(scores.masked_images, 2);
    assert_eq!(scores.per_class["g"].jaccard, Some(0.8));
}

#[test]
fn jaccard_counts_pixels_without_void() {
    // Two patches side by side over an image of 20 x 16 px; object 3 covers columns 8 to 11.
    let column = |x: usize| match x {
        8..12 => 3,
        12..14 => VOID,
        _ => 0,
    };
    let labels = (0..16).flat_map(|_| (0..20).map(column)).collect();
    let mask = Mask { width: 20, height: 16, labels };
    let counts = LabelCounts::new(&mask, grid(1, 2), (16, 20));
    assert_eq!(counts.jaccard(&[true, false]), [(3, 4.0 / 14.0)]);
    assert_eq!(counts.jaccard(&[true, true]), [(3, 4.0 / 18.0)]);
    assert_eq!(counts.jaccard(&[false, true]), [(3, 0.0)]);
    // The same picture at half the size gives the encoder one patch.
    let counts = LabelCounts::new(&mask, grid(1, 1), (8, 10));
    assert_eq!(counts.jaccard(&[true]), [(3, 4.0 / 18.0)]);
    assert_eq!(boxes_of(&mask), [PxBox { x0: 8.0, y0: 0.0, x1: 12.0, y1: 16.0 }]);
}

#[test]
fn components_are_the_same_for_features_in_another_order_or_turned() {
    let options = (Kind::Double, Device::Cpu);
    // Variances 9, 4 and 1 along three directions, none elsewhere.
    let along = Tensor::from_slice(&[3.0, -3.0, 0.0, 0.0, 0.0, 0.0]);
    let parts = [0, 2, 4].map(|turn| along.roll([turn], [0]) / (1.0 + turn as f64 / 2.0));
    let features_MD = Tensor::cat(&[Tensor::stack(&parts, 1), Tensor::zeros([6, 2], options)], 1);
    let colours = Pca::fit(&features_MD).colours(&features_MD);
    let turned = -features_MD.flip([0]);
    let same = Pca::fit(&turned).colours(&turned);
    // The sign is fixed by the components, not by the features, so turned features turn colours.
    assert!((colours.flip([0]) + same - 1.0).abs().max().double_value(&[]) < 1e-6);
    // The first component is the one with the most variance.
    assert_eq!(colours.select(1, 0).argmax(0, false).int64_value(&[]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn boxes_lie_in_the_image_and_hold_the_seed(
        rows in 1..7usize, columns in 1..7usize, cut in (0..16usize, 0..16usize),
        values in prop::collection::vec(-2..3i8, 7 * 7 * 3), k_patches in 0..60usize,
    ) {
        let values: Vec<f32> = values.into_iter().take(rows * columns * 3).map(f32::from).collect();
        let keys = Tensor::from_slice(&values).reshape([-1, 3]);
        let image = (rows * 16 - cut.0, columns * 16 - cut.1);
        let found = lost(&keys, grid(rows, columns), image, k_patches);
        prop_assert!(found.bounds.is_proper());
        prop_assert!(found.bounds.x0 >= 0.0 && found.bounds.x1 <= image.1 as f64);
        prop_assert!(found.bounds.y0 >= 0.0 && found.bounds.y1 <= image.0 as f64);
        prop_assert!(found.patches[found.seed]);
        let again = lost(&keys, grid(rows, columns), image, k_patches);
        prop_assert_eq!(found, again);
    }

    #[test]
    fn masks_hold_enough_attention_and_no_patch_too_many(
        attn in prop::collection::vec(0.0..1.0f64, 1..40), mass in 0.05..0.95f64,
    ) {
        let mask = attention_masks(&Tensor::from_slice(&attn).unsqueeze(0), mass).remove(0);
        let total: f64 = attn.iter().sum();
        let kept: Vec<f64> =
            attn.iter().zip(&mask).filter(|(_, is_kept)| **is_kept).map(|(a, _)| *a).collect();
        let held: f64 = kept.iter().sum();
        prop_assert!(held >= mass * total - 1e-9, "{held} of {total}");
        let least = kept.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert!(held - least <= mass * total + 1e-9, "{held} without {least} of {total}");
        let highest_left_out =
            attn.iter().zip(&mask).filter(|(_, is_kept)| !**is_kept).map(|(a, _)| *a).fold(0.0, f64::max);
        prop_assert!(highest_left_out <= least);
    }
}

#[test]
fn even_attention_is_cut_at_the_mass() {
    let mask = attention_masks(&Tensor::ones([1, 10], (Kind::Double, Device::Cpu)), MASS).remove(0);
    assert_eq!(mask.iter().filter(|is_kept| **is_kept).count(), 6);
}
