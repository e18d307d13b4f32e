//! The random resized crop.

use dora_data::crop::{CropBox, CropSpec, random_resized_crop};
use dora_data::rng::stream;
use proptest::prelude::*;

proptest! {
    #[test]
    fn boxes_lie_inside(
        seed: u64,
        width in 1..3000u32,
        height in 1..3000u32,
        low in 0.01..1.0f64,
        wide in 1.0..3.0f64,
    ) {
        let crop =
            random_resized_crop(&mut stream(seed, "t", &[]), width, height, [low, 1.0], [1.0 / wide, wide]);
        prop_assert!(crop.width_px >= 1 && crop.left_px + crop.width_px <= width);
        prop_assert!(crop.height_px >= 1 && crop.top_px + crop.height_px <= height);
    }

    #[test]
    fn shares_and_ratios_stay_in_their_ranges(seed: u64) {
        let crop = random_resized_crop(&mut stream(seed, "t", &[]), 640, 480, [0.05, 0.4], [0.75, 4.0 / 3.0]);
        let (w, h) = (f64::from(crop.width_px), f64::from(crop.height_px));
        let share = w * h / (640.0 * 480.0);
        prop_assert!((0.0485..0.404).contains(&share), "{share}");
        prop_assert!((0.74..1.35).contains(&(w / h)), "{}", w / h);
    }
}

#[test]
fn shares_are_spread_evenly() {
    let mut shares = 0.0;
    let mut left = 0.0;
    for seed in 0..4000 {
        let crop = random_resized_crop(
            &mut stream(seed, "t", &[]),
            1000,
            1000,
            [0.05, 0.4],
            [0.75, 4.0 / 3.0],
        );
        shares += f64::from(crop.width_px * crop.height_px) / 1e6 / 4000.0;
        left += f64::from(crop.left_px) / f64::from(1000 - crop.width_px) / 4000.0;
    }
    assert!((shares - 0.225).abs() < 0.01, "mean share {shares}");
    assert!((left - 0.5).abs() < 0.02, "mean place {left}");
}

#[test]
fn a_box_that_never_fits_becomes_the_largest_central_one() {
    let check = |width, height, expected| {
        let crop = random_resized_crop(
            &mut stream(1, "t", &[]),
            width,
            height,
            [0.9, 1.0],
            [0.75, 4.0 / 3.0],
        );
        let [left_px, top_px, width_px, height_px] = expected;
        assert_eq!(crop, CropBox { left_px, top_px, width_px, height_px });
    };
    check(1000, 100, [433, 0, 133, 100]);
    check(100, 1000, [0, 433, 100, 133]);
}

#[test]
fn a_recipe_names_all_its_problems() {
    let spec: CropSpec = serde_json::from_str(r#"{"px": 64}"#).unwrap();
    assert_eq!(spec, CropSpec { px: 64, area: [0.2, 1.0], ratio: [0.75, 4.0 / 3.0] });
    assert!(spec.validate().is_empty());
    let error = serde_json::from_str::<CropSpec>(r#"{"size": 64}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `size`"), "{error}");
    let spec = CropSpec { px: 0, area: [0.5, 0.2], ratio: [f64::NAN, 1.0] };
    assert_eq!(
        spec.validate(),
        [
            "`px` is 0, but must lie between 1 and 4096",
            "`area` is [0.5, 0.2], but must be two rising numbers above 0 and up to 1",
            "`ratio` is [NaN, 1], but must be two rising numbers above 0 and up to 100",
        ]
    );
}
