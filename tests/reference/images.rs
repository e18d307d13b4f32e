//! What protocols do to images and masks, against Pillow, torchvision and PyTorch.
//!
//! The numbers come from Pillow 13.0.0, torchvision 0.26.0 and PyTorch 2.11.0, from this script:
//!
//! ```python
//! y, x = numpy.mgrid[:11, :17]
//! gray = ((y * 37 + x * 61 + y * x * 11) % 101 * 255 // 100).astype("u1")
//! rgb = numpy.stack([gray, gray // 2, 255 - gray], -1)
//! CenterCrop(7)(Resize(8, BICUBIC)(Image.fromarray(rgb)))                          # CENTRE, red
//! Image.fromarray(rgb).crop((2, 1, 13, 10)).resize((6, 6), Image.BILINEAR)         # BOX, red
//! t = F.interpolate(rgb as [1, 3, 11, 17] / 255, size=(4, 8), mode="bilinear", align_corners=False)
//! (t - (.485, .456, .406)) / (.228, .224, .225)                                    # ROW, row 1
//! Image.fromarray((y // 3 + x // 4) % 3).resize((4, 3), Image.NEAREST)             # SMALL
//! i = torch.arange(12).float()
//! soft = torch.stack([i * 5 % 7 / 20 + .5, i * 3 % 11 / 40, 0 * i, i * 7 % 5 / 90])
//! large = F.interpolate(soft.view(1, 4, 3, 4), scale_factor=4, mode="bilinear", align_corners=False)
//! # each label less its lowest, over its range if there is one; argmax; resize((17, 11), NEAREST)
//! ```

use dora_data::crop::CropBox;
use dora_eval::{
    images::{crop_and_resize, masks::Mask, resize_and_crop},
    video_segmentation::follow::{labels_of, mask_of, prepare},
};
use tch::{Device, Kind, Tensor};

const CENTRE: [u8; 49] = [
    164, 80, 127, 102, 150, 65, 122, 70, 122, 193, 80, 85, 174, 167, 195, 182, 180, 154, 126, 145,
    116, 115, 156, 185, 184, 137, 169, 209, 150, 96, 173, 64, 74, 119, 67, 142, 69, 158, 64, 168,
    108, 165, 97, 136, 150, 144, 142, 100, 114,
];
const BOX: [u8; 36] = [
    126, 114, 164, 79, 146, 161, 170, 162, 173, 128, 139, 130, 126, 152, 183, 151, 158, 185, 143,
    111, 147, 73, 116, 97, 139, 102, 133, 117, 125, 149, 111, 120, 142, 163, 106, 117,
];
const ROW: [f32; 24] = [
    -0.6855, 0.96502, 0.94675, 0.94527, 0.9274, 0.91987, 0.04469, -1.14492, -1.30767, -0.46528,
    -0.47458, -0.47773, -0.48662, -0.48498, -0.93537, -1.54456, 1.17908, -0.49344, -0.47492,
    -0.47343, -0.45532, -0.44769, 0.43916, 1.64463,
];
const SMALL: [i64; 12] = [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0];
/// Rows of 17 labels.
const MASK: [&str; 11] = [
    "00000003333331111",
    "00000003333331111",
    "00000000333331111",
    "00000000333311111",
    "00000000113311111",
    "00000000111111111",
    "00000001111111333",
    "00000001111113333",
    "00000331111110000",
    "00000331111110000",
    "00000331111110000",
];

/// The pattern as uint8 `[3, 11, 17]`.
fn pattern_CHW() -> Tensor {
    let grey = |at: u32| {
        let (y, x) = (at / 17, at % 17);
        ((y * 37 + x * 61 + y * x * 11) % 101 * 255 / 100) as u8
    };
    let red: Vec<u8> = (0..11 * 17).map(grey).collect();
    let green: Vec<u8> = red.iter().map(|level| level / 2).collect();
    let blue: Vec<u8> = red.iter().map(|level| 255 - level).collect();
    Tensor::from_slice(&[red, green, blue].concat()).reshape([3, 11, 17])
}

/// Pillow rounds to levels after each direction, so that some may be the next ones.
fn check_levels(image_CHW: &Tensor, red: &[u8]) {
    let found = image_CHW.get(0).flatten(0, 1).to_kind(Kind::Int64);
    let difference = found - Tensor::from_slice(red).to_kind(Kind::Int64);
    assert!(difference.abs().max().int64_value(&[]) <= 1, "{}", difference.abs().max());
    let differing = difference.ne(0).sum(Kind::Int64).int64_value(&[]);
    assert!(differing <= red.len() as i64 / 8, "{differing} of {} levels differ", red.len());
}

#[test]
fn what_classifiers_see_is_torchvision_s() {
    check_levels(&resize_and_crop(&pattern_CHW(), 8, 7), &CENTRE);
    let area = CropBox { left_px: 2, top_px: 1, width_px: 11, height_px: 9 };
    let view = crop_and_resize(&pattern_CHW(), area, 6, false);
    check_levels(&view, &BOX);
    assert_eq!(crop_and_resize(&pattern_CHW(), area, 6, true).flip([2]), view);
}

#[test]
fn what_labels_are_carried_through_is_pytorch_s() {
    let row_CW = prepare(&pattern_CHW(), (4, 8)).get(0).select(1, 1);
    let worst = (row_CW.flatten(0, 1) - Tensor::from_slice(&ROW)).abs().max().double_value(&[]);
    assert!(worst < 1e-5, "{worst}");

    let labels = (0..11 * 17).map(|at: u8| (at / 17 / 3 + at % 17 / 4) % 3).collect();
    let mask = Mask { width: 17, height: 11, labels };
    let labels_PC = labels_of(&mask, 2, (3, 4));
    assert_eq!(labels_PC.argmax(1, false), Tensor::from_slice(&SMALL));
    assert_eq!(
        labels_PC.sum_dim_intlist([1].as_slice(), false, Kind::Float).min().double_value(&[]),
        1.0
    );
}

#[test]
fn labels_are_stretched_before_the_highest_is_taken() {
    let i = Tensor::arange(12, (Kind::Float, Device::Cpu));
    let part = |factor: i64, modulus: i64, divisor: f64| (&i * factor).remainder(modulus) / divisor;
    // The background's share is always the highest; an object has nothing left, another one little.
    let soft_CP = [part(5, 7, 20.0) + 0.5, part(3, 11, 40.0), i.zeros_like(), part(7, 5, 90.0)];
    let labels_PC = Tensor::stack(&soft_CP, 1);
    let mask = mask_of(&labels_PC, (3, 4), 4, (17, 11));
    let rows: Vec<String> =
        mask.labels.chunks(17).map(|row| row.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(rows, MASK);
}
