//! Resizing and blurring against Pillow.
//!
//! The numbers come from Pillow 13.0.0, from this script:
//!
//! ```python
//! y, x = numpy.mgrid[:12, :13]
//! image = ((y * 37 + x * 61 + y * x * 11) % 101 / 100).astype("f")
//! Image.fromarray(image, "F").crop(box).resize((o, o), Image.BICUBIC or Image.BILINEAR)
//!
//! y, x = numpy.mgrid[:9, :9]  # the same pattern, times 255, rounded to "u1"
//! Image.fromarray(image, "L").filter(ImageFilter.GaussianBlur(radius))
//! ```

use dora_data::arena::Arena;
use dora_data::augment::resample::{Kernel, Resize, blur};
use dora_data::crop::CropBox;
use tch::{Device, Kind, Tensor};

/// The pattern as one image with three channels: itself, its half and its complement.
fn pattern_NHCW(height: i64, width: i64) -> Tensor {
    let at = |i: i64| {
        let (y, x) = (i / width, i % width);
        ((y * 37 + x * 61 + y * x * 11) % 101) as f32 / 100.0
    };
    let values: Vec<_> = (0..height * width).map(at).collect();
    let image = Tensor::from_slice(&values).view([1, height, 1, width]);
    Tensor::cat(&[&image, &(&image / 2.0), &(1.0 - &image)], 2)
}

fn resize(images_NHCW: &Tensor, kernel: Kernel, boxes: &[([u32; 4], bool)], out_px: u32) -> Tensor {
    let crop = |[left_px, top_px, width_px, height_px]: [u32; 4]| CropBox {
        left_px,
        top_px,
        width_px,
        height_px,
    };
    let boxes: Vec<_> = boxes.iter().map(|&(area, flip)| (crop(area), flip)).collect();
    let mut arena = Arena::default();
    let resize = Resize::new(kernel, &boxes, out_px, &mut arena);
    let images_NCHW = images_NHCW.permute([0, 2, 1, 3]);
    resize.apply(&images_NCHW, boxes.len(), &Tensor::from_slice(arena.bytes()))
}

fn check(kernel: Kernel, area: [u32; 4], out_px: u32, expected: &[f32]) {
    let image = pattern_NHCW(12, 13);
    let resized = resize(&image, kernel, &[(area, false)], out_px);
    let own = Tensor::from_slice(expected).view([1, 1, i64::from(out_px), i64::from(out_px)]);
    let expected = Tensor::cat(&[&own, &(&own / 2.0), &(1.0 - &own)], 0);
    let worst = (&resized - expected).abs().max().double_value(&[]);
    assert!(worst < 2e-6, "{kernel:?} {area:?}: {worst}");

    let flipped = resize(&image, kernel, &[(area, true)], out_px);
    assert!(flipped.allclose(&resized.flip([3]), 1e-6, 1e-6, false));
}

#[test]
fn resizing_matches_pillow() {
    check(Kernel::Bicubic, [1, 2, 11, 9], 4, &DOWN_BICUBIC);
    check(Kernel::Bicubic, [4, 3, 3, 3], 5, &UP_BICUBIC);
    check(Kernel::Bilinear, [0, 0, 13, 12], 4, &DOWN_BILINEAR);
    check(Kernel::Bilinear, [9, 8, 4, 4], 6, &UP_BILINEAR);
}

#[test]
fn a_box_of_the_same_size_is_copied() {
    let image = pattern_NHCW(12, 13);
    let expected = image.narrow(1, 1, 10).narrow(3, 2, 10).permute([2, 0, 1, 3]);
    let resized = resize(&image, Kernel::Bicubic, &[([2, 1, 10, 10], false)], 10);
    assert!(resized.allclose(&expected, 0.0, 1e-7, false));
}

#[test]
fn boxes_of_several_images_keep_their_order() {
    let images = Tensor::cat(&[pattern_NHCW(12, 13), pattern_NHCW(12, 13) * 0.7], 0);
    let boxes = [
        ([1, 2, 11, 9], false),
        ([4, 3, 3, 3], true),
        ([0, 0, 13, 12], true),
        ([9, 8, 4, 4], false),
    ];
    let alone = |i: usize| {
        let image = images.narrow(0, i as i64 / 2, 1);
        resize(&image, Kernel::Bicubic, &boxes[i..=i], 7)
    };
    let expected = Tensor::cat(&[alone(0), alone(1), alone(2), alone(3)], 1);
    assert!(resize(&images, Kernel::Bicubic, &boxes, 7).allclose(&expected, 1e-6, 1e-6, false));
}

#[test]
fn blurring_matches_pillow() {
    let image = (pattern_NHCW(9, 9).select(2, 0) * 255.0).round();
    let blurred = blur(&image.repeat([1, 3, 1, 1]), &[0.6, 1.2, 1.9]);
    // Pillow rounds to whole numbers after each of its six passes.
    for (n, expected) in [&BLUR_0_6, &BLUR_1_2, &BLUR_1_9].into_iter().enumerate() {
        let expected = Tensor::from_slice(expected).view([9, 9]);
        let difference = (blurred.get(0).get(n as i64) - expected).abs();
        let (worst, mean) = (difference.max(), difference.mean(Kind::Float));
        let (worst, mean) = (worst.double_value(&[]), mean.double_value(&[]));
        assert!(worst < 2.0 && mean < 0.5, "{n}: {worst}, mean {mean}");
    }
}

#[test]
fn a_blur_has_the_variance_it_is_asked_for() {
    for radius_px in [0.1, 0.5, 1.0, 1.3, 2.0] {
        let image = Tensor::zeros([1, 1, 31, 31], (Kind::Float, Device::Cpu));
        let _ = image.get(0).get(0).get(15).get(15).fill_(1.0);
        let blurred = blur(&image, &[radius_px]);
        let rows = blurred.sum_dim_intlist([3i64].as_slice(), false, Kind::Double).view([31]);
        let offset = Tensor::arange(31, (Kind::Double, Device::Cpu)) - 15.0;
        let variance = (rows * offset.square()).sum(Kind::Double).double_value(&[]);
        assert!((variance - radius_px * radius_px).abs() < 1e-5, "{radius_px}: {variance}");
    }
}

#[rustfmt::skip]
const DOWN_BICUBIC: [f32; 16] = [
    0.513197, 0.655287, 0.573623, 0.593436, 0.5421, 0.583872, 0.535447, 0.502452, 0.607962,
    0.460935, 0.449539, 0.45344, 0.451819, 0.460573, 0.597955, 0.495836,
];
#[rustfmt::skip]
const UP_BICUBIC: [f32; 25] = [
    0.851004, 0.821136, 0.766792, 0.712449, 0.682581, 0.771549, 0.757686, 0.732463, 0.707239,
    0.693376, 0.626981, 0.642239, 0.67, 0.697761, 0.713019, 0.482413, 0.526792, 0.607537,
    0.688283, 0.732661, 0.402958, 0.463341, 0.573208, 0.683074, 0.743457,
];
#[rustfmt::skip]
const DOWN_BILINEAR: [f32; 16] = [
    0.42285, 0.519271, 0.473601, 0.506717, 0.523111, 0.608307, 0.575225, 0.584163, 0.597052,
    0.477288, 0.473545, 0.482089, 0.497183, 0.44308, 0.535089, 0.5283,
];
#[rustfmt::skip]
const UP_BILINEAR: [f32; 36] = [
    0.21, 0.45, 0.601667, 0.248333, 0.4, 0.64, 0.385, 0.4, 0.42,
    0.44, 0.46, 0.475, 0.618333, 0.4175, 0.29, 0.583333, 0.54, 0.423333,
    0.851667, 0.6875, 0.496667, 0.39, 0.62, 0.876667, 0.58, 0.4525, 0.366667,
    0.533333, 0.7, 0.825, 0.25, 0.15, 0.185, 0.725, 0.76, 0.66,
];
#[rustfmt::skip]
const BLUR_0_6: [f32; 81] = [
    35.0, 110.0, 102.0, 165.0, 104.0, 68.0, 131.0, 96.0, 165.0,
    89.0, 79.0, 145.0, 127.0, 90.0, 174.0, 158.0, 98.0, 63.0,
    144.0, 118.0, 122.0, 91.0, 77.0, 182.0, 168.0, 125.0, 89.0,
    63.0, 73.0, 182.0, 190.0, 179.0, 188.0, 176.0, 158.0, 141.0,
    122.0, 130.0, 140.0, 150.0, 159.0, 171.0, 181.0, 183.0, 166.0,
    180.0, 187.0, 98.0, 107.0, 116.0, 148.0, 178.0, 163.0, 66.0,
    99.0, 142.0, 156.0, 181.0, 94.0, 125.0, 158.0, 65.0, 65.0,
    154.0, 181.0, 134.0, 144.0, 74.0, 108.0, 158.0, 72.0, 115.0,
    208.0, 151.0, 179.0, 130.0, 157.0, 113.0, 165.0, 97.0, 162.0,
];
#[rustfmt::skip]
const BLUR_1_2: [f32; 81] = [
    76.0, 95.0, 114.0, 121.0, 117.0, 117.0, 120.0, 120.0, 120.0,
    90.0, 103.0, 117.0, 122.0, 124.0, 131.0, 133.0, 122.0, 112.0,
    102.0, 112.0, 124.0, 131.0, 139.0, 150.0, 150.0, 134.0, 118.0,
    110.0, 120.0, 133.0, 143.0, 153.0, 163.0, 163.0, 150.0, 136.0,
    125.0, 131.0, 138.0, 144.0, 152.0, 161.0, 163.0, 152.0, 138.0,
    140.0, 141.0, 140.0, 137.0, 139.0, 146.0, 149.0, 135.0, 117.0,
    149.0, 149.0, 144.0, 134.0, 128.0, 131.0, 131.0, 116.0, 101.0,
    161.0, 158.0, 151.0, 137.0, 127.0, 126.0, 124.0, 115.0, 108.0,
    175.0, 167.0, 155.0, 141.0, 131.0, 128.0, 126.0, 123.0, 124.0,
];
#[rustfmt::skip]
const BLUR_1_9: [f32; 81] = [
    94.0, 101.0, 110.0, 118.0, 123.0, 125.0, 125.0, 124.0, 124.0,
    100.0, 107.0, 115.0, 123.0, 128.0, 131.0, 131.0, 129.0, 127.0,
    109.0, 114.0, 122.0, 130.0, 136.0, 138.0, 137.0, 134.0, 131.0,
    119.0, 123.0, 129.0, 136.0, 141.0, 144.0, 142.0, 138.0, 133.0,
    129.0, 131.0, 135.0, 139.0, 143.0, 144.0, 142.0, 137.0, 132.0,
    138.0, 139.0, 140.0, 140.0, 141.0, 141.0, 137.0, 133.0, 128.0,
    148.0, 146.0, 144.0, 141.0, 139.0, 136.0, 132.0, 128.0, 125.0,
    157.0, 153.0, 148.0, 142.0, 137.0, 132.0, 129.0, 125.0, 123.0,
    163.0, 158.0, 151.0, 143.0, 136.0, 131.0, 128.0, 125.0, 124.0,
];
