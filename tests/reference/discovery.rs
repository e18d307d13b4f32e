use dora_eval::{
    discovery::{
        PxBox,
        attention::{MASS, attention_masks},
        lost::lost,
    },
    images::grid::Grid,
};
use tch::Kind;

use super::{Golden, integers};

#[test]
fn the_box_of_lost_is_the_reference_s() {
    let golden = Golden::read("discovery");
    let (grid, image) = (integers(&golden.meta["grid"]), integers(&golden.meta["image"]));
    let grid = Grid {
        rows: grid[0] as usize,
        columns: grid[1] as usize,
        patch_px: golden.integer("patch") as usize,
    };
    let image_px = (image[0] as usize, image[1] as usize);
    let k_patches = golden.integer("k_patches") as usize;
    let found = lost(&golden.get("keys"), grid, image_px, k_patches);
    let sides: Vec<f64> =
        integers(&golden.meta["box"]).into_iter().map(|side| side as f64).collect();
    let expected = PxBox::from(<[f64; 4]>::try_from(sides).unwrap());
    // Which of several seeds of one degree is taken is nobody's rule.
    assert_eq!(found.bounds, expected);
}

#[test]
fn attention_masks_are_the_reference_s() {
    let golden = Golden::read("discovery");
    let masks_HN = attention_masks(&golden.on_cpu("attn"), MASS);
    let expected_HN: Vec<Vec<u8>> =
        Vec::try_from(golden.get("mask_60").to_kind(Kind::Uint8)).unwrap();
    let masks_HN: Vec<Vec<u8>> =
        masks_HN.into_iter().map(|mask| mask.into_iter().map(u8::from).collect()).collect();
    assert_eq!(masks_HN, expected_HN);
}
