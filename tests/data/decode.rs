//! Crops of frames against a plain statement in float64.

use dora_data::arena::Arena;
use dora_data::augment::resample::{Kernel, Resize};
use dora_data::crop::CropBox;
use dora_data::decode::Decoder;
use jpeg_encoder::SamplingFactor;
use proptest::prelude::*;
use tch::{Kind, Tensor};
use turbojpeg::PixelFormat;

use super::{marked_jpeg, textured_jpeg};

fn cropped(jpeg: &[u8], size_px: (u32, u32), crop: CropBox, out_px: u32) -> Vec<u8> {
    let mut out = vec![0; 3 * (out_px * out_px) as usize];
    Decoder::new().unwrap().crop(jpeg, size_px, crop, out_px, &mut out).unwrap();
    out
}

/// Values of `samples` at `out` places of the stretch from `start` on: the triangle filter, as wide
/// as the samples of an output where it shrinks, over the samples that the stretch touches.
fn resampled(samples: &[f64], start: f64, length: f64, out: usize) -> Vec<f64> {
    let scale = length / out as f64;
    let reach = scale.max(1.0);
    let touched = start.floor() as usize..(start + length).ceil() as usize;
    let value = |index: usize| {
        let centre = start + (index as f64 + 0.5) * scale;
        let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / reach).abs()).max(0.0);
        let (mut sum, mut weights) = (0.0, 0.0);
        for at in touched.clone() {
            sum += weight(at) * samples[at];
            weights += weight(at);
        }
        sum / weights
    };
    (0..out).map(value).collect()
}

/// The crop by planes, in float64 to the end: red, green and blue planes.
fn expected(jpeg: &[u8], crop: CropBox, out: usize) -> Vec<f64> {
    let image = turbojpeg::decompress_to_yuv(jpeg).unwrap();
    let (across, down) = image.subsamp.size();
    let mut rest = image.pixels.as_slice();
    let mut planes = Vec::new();
    for ((width, height), across, down) in
        [(image.y_size(), 1, 1), (image.uv_size(), across, down), (image.uv_size(), across, down)]
    {
        let (plane, others) = rest.split_at(width * height);
        rest = others;
        let stretch = |start: u32, length: u32, by: usize| {
            (f64::from(start) / by as f64, f64::from(length) / by as f64)
        };
        let (left, wide) = stretch(crop.left_px, crop.width_px, across);
        let (top, high) = stretch(crop.top_px, crop.height_px, down);
        let rows: Vec<Vec<f64>> = plane
            .chunks_exact(width)
            .map(|row| {
                let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                resampled(&row, left, wide, out)
            })
            .collect();
        let columns: Vec<Vec<f64>> = (0..out)
            .map(|x| {
                let column: Vec<f64> = rows.iter().map(|row| row[x]).collect();
                resampled(&column, top, high, out)
            })
            .collect();
        let at = |index: usize| columns[index % out][index / out];
        planes.push((0..out * out).map(at).collect::<Vec<f64>>());
    }
    let colour = |factors: [f64; 2]| {
        let planes = &planes;
        (0..out * out).map(move |at| {
            let [cb, cr] = [planes[1][at] - 128.0, planes[2][at] - 128.0];
            (planes[0][at] + factors[0] * cb + factors[1] * cr).clamp(0.0, 255.0)
        })
    };
    let factors = [[0.0, 1.402], [-0.344_136, -0.714_136], [1.772, 0.0]];
    factors.into_iter().flat_map(colour).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn crops_are_the_plain_statement(
        sampling in prop::sample::select(vec![
            SamplingFactor::R_4_2_0, SamplingFactor::R_4_4_4, SamplingFactor::R_4_2_2,
        ]),
        interval in 0..3u16,
        (left_px, top_px) in (0..40u32, 0..40u32),
        (width_px, height_px) in (1..57u32, 1..31u32),
        out_px in 1..50u32,
    ) {
        let jpeg = marked_jpeg((96, 70), 2, sampling, interval);
        let crop = CropBox { left_px, top_px, width_px, height_px };
        let got = cropped(&jpeg, (96, 70), crop, out_px);
        let expected = expected(&jpeg, crop, out_px as usize);
        let worst = got.iter().zip(&expected).map(|(got, expected)| (f64::from(*got) - expected).abs());
        let worst = worst.fold(0.0, f64::max);
        // Half of it is rounding to bytes.
        prop_assert!(worst <= 0.8, "{worst}");
    }

    #[test]
    fn parts_and_whole_frames_give_the_same(
        (left_px, top_px) in (0..60u32, 0..40u32),
        (width_px, height_px) in (1..37u32, 1..31u32),
    ) {
        let crop = CropBox { left_px, top_px, width_px, height_px };
        let of = |interval| {
            let jpeg = marked_jpeg((96, 70), 1, SamplingFactor::R_4_2_0, interval);
            cropped(&jpeg, (96, 70), crop, 32)
        };
        prop_assert!(of(0) == of(2));
    }
}

#[test]
fn colours_are_resampled_about_as_pixels_would_be() {
    // A picture without grain in its colours, as photographs are.
    let (width, height) = (480, 320);
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let wave = |phase: f64, across: f64, down: f64| {
                let at = phase + x as f64 * across + y as f64 * down;
                (127.0 + 90.0 * at.sin() + f64::from((x * 7 + y * 13) as u32 % 11)) as u8
            };
            pixels.extend([wave(0.0, 0.05, 0.02), wave(1.0, 0.03, 0.06), wave(2.0, 0.07, 0.01)]);
        }
    }
    let format = PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    let jpeg = turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).unwrap().to_vec();
    let crop = CropBox { left_px: 31, top_px: 15, width_px: 401, height_px: 277 };
    let got = cropped(&jpeg, (width as u32, height as u32), crop, 200);

    let pixels = turbojpeg::decompress(&jpeg, format).unwrap().pixels;
    let image =
        Tensor::from_slice(&pixels).view([1, height as i64, width as i64, 3]).permute([0, 3, 1, 2]);
    let mut arena = Arena::default();
    let resize = Resize::new(Kernel::Bilinear, &[(crop, false)], 200, &mut arena);
    let expected = resize.apply(&image, 1, &Tensor::from_slice(arena.bytes()));
    let expected = expected.squeeze_dim(1) * 255.0;
    let got = Tensor::from_slice(&got).view([3, 200, 200]).to_kind(Kind::Float);
    let error = (got - expected).square().mean(Kind::Float).double_value(&[]);
    let psnr_db = 10.0 * (255.0 * 255.0 / error).log10();
    assert!(psnr_db > 45.0, "{psnr_db:.1} dB");
}

#[test]
fn grey_frames_are_grey() {
    let (width, height) = (33, 21);
    let pixels: Vec<u8> = (0..width * height).map(|at| (at * 7 % 251) as u8).collect();
    let format = PixelFormat::GRAY;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width, height, format };
    let jpeg = turbojpeg::compress(image, 95, turbojpeg::Subsamp::Gray).unwrap().to_vec();
    let crop = CropBox { left_px: 3, top_px: 2, width_px: 20, height_px: 10 };
    let out = cropped(&jpeg, (33, 21), crop, 9);
    let (red, rest) = out.split_at(81);
    let (green, blue) = rest.split_at(81);
    for ((red, green), blue) in red.iter().zip(green).zip(blue) {
        assert!(red.abs_diff(*green) <= 1 && green.abs_diff(*blue) <= 1, "{red} {green} {blue}");
    }
    assert!(out.iter().any(|value| *value != out[0]));
}

#[test]
fn a_crop_outside_of_the_frame_is_refused() {
    let mut decoder = Decoder::new().unwrap();
    let jpeg = textured_jpeg((32, 16), 0);
    for (left_px, width_px) in [(30, 3), (0, 0), (u32::MAX, 2)] {
        let crop = CropBox { left_px, top_px: 0, width_px, height_px: 4 };
        let error = decoder.crop(&jpeg, (32, 16), crop, 4, &mut [0; 48]).unwrap_err();
        assert!(error.to_string().contains("do not hold the crop"), "{error}");
    }
}
