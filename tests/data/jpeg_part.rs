//! Parts cut out of JPEGs.

use dora_data::crop::CropBox;
use dora_data::jpeg_part::cut;
use jpeg_encoder::SamplingFactor;
use proptest::prelude::*;
use proptest::sample::Index;
use turbojpeg::YuvImage;

use super::{marked_jpeg, textured_jpeg};

/// Factors, and the width and height of a group of blocks.
const SAMPLINGS: [(SamplingFactor, usize, usize); 4] = [
    (SamplingFactor::R_4_2_0, 16, 16),
    (SamplingFactor::R_4_4_4, 8, 8),
    (SamplingFactor::R_4_2_2, 16, 8),
    (SamplingFactor::R_4_4_0, 8, 16),
];

fn planes(jpeg: &[u8]) -> YuvImage<Vec<u8>> {
    turbojpeg::decompress_to_yuv(jpeg).unwrap()
}

/// Each plane's samples under a box whose corners lie between samples.
fn under(image: &YuvImage<Vec<u8>>, part: CropBox) -> Vec<Vec<u8>> {
    let (across, down) = image.subsamp.size();
    let sizes = [(image.y_size(), (1, 1)), (image.uv_size(), (across, down))];
    let mut rest = image.pixels.as_slice();
    let mut planes = Vec::new();
    for ((width, height), (across, down)) in [sizes[0], sizes[1], sizes[1]] {
        let (plane, others) = rest.split_at(width * height);
        rest = others;
        let (left, top) = (part.left_px as usize / across, part.top_px as usize / down);
        let wide = (part.width_px as usize).div_ceil(across);
        let high = (part.height_px as usize).div_ceil(down);
        let rows = plane.chunks_exact(width).skip(top).take(high);
        planes.push(rows.flat_map(|row| row[left..left + wide].to_vec()).collect());
    }
    planes
}

fn whole(image: &YuvImage<Vec<u8>>) -> CropBox {
    let (width_px, height_px) = (image.width as u32, image.height as u32);
    CropBox { left_px: 0, top_px: 0, width_px, height_px }
}

/// A box in a picture, wherever the draws fall.
fn a_box(width: usize, height: usize, [x, y, w, h]: [Index; 4]) -> CropBox {
    let (left, top) = (x.index(width), y.index(height));
    CropBox {
        left_px: left as u32,
        top_px: top as u32,
        width_px: 1 + w.index(width - left) as u32,
        height_px: 1 + h.index(height - top) as u32,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_part_decodes_as_in_the_whole(
        sampling in 0..SAMPLINGS.len(),
        tiles in 1..5usize,
        interval in 1..4usize,
        short_px in 0..8usize,
        height in 1..150usize,
        corners: [Index; 4],
    ) {
        let (sampling, unit_width, unit_height) = SAMPLINGS[sampling];
        let tile_px = interval * unit_width;
        let width = tiles * tile_px - short_px;
        let jpeg = marked_jpeg((width, height), 3, sampling, interval as u16);
        let crop = a_box(width, height, corners);
        let mut part = Vec::new();
        let place = cut(&jpeg, crop, &mut part);

        // The tiles that touch the crop, no more.
        let span = |start: u32, length: u32, tile: usize, most: usize| {
            let (start, end) = (start as usize, (start + length) as usize);
            (start / tile * tile, (end.div_ceil(tile) * tile).min(most))
        };
        let (left, right) = span(crop.left_px, crop.width_px, tile_px, width);
        let (top, bottom) = span(crop.top_px, crop.height_px, unit_height, height);
        if (right - left, bottom - top) == (width, height) {
            prop_assert_eq!(place, None);
            return Ok(());
        }
        let expected = CropBox {
            left_px: left as u32,
            top_px: top as u32,
            width_px: (right - left) as u32,
            height_px: (bottom - top) as u32,
        };
        prop_assert_eq!(place, Some(expected));
        prop_assert!(part.len() < jpeg.len());
        let (image, small) = (planes(&jpeg), planes(&part));
        prop_assert_eq!((small.width, small.height), (right - left, bottom - top));
        prop_assert!(under(&image, expected) == under(&small, whole(&small)));
    }

    /// Whatever the bytes are: an answer, no larger than what was given, and no panic.
    #[test]
    fn damaged_bytes_are_survived(
        interval in 0..4u16,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..8),
        length: Index,
        is_whole: bool,
        corners: [Index; 4],
    ) {
        let (width, height) = (96, 64);
        let mut jpeg = marked_jpeg((width, height), 5, SamplingFactor::R_4_2_0, interval);
        for (place, byte) in changes {
            // Most of the bytes are data; headers deserve as many changes.
            let among = if byte % 2 == 0 { jpeg.len() } else { 700.min(jpeg.len()) };
            jpeg[place.index(among)] = byte;
        }
        if !is_whole {
            jpeg.truncate(length.index(jpeg.len()));
        }
        let crop = a_box(width, height, corners);
        let mut part = Vec::new();
        if cut(&jpeg, crop, &mut part).is_some() {
            prop_assert!(part.len() <= jpeg.len());
            // The decoder may refuse it, and says so.
            let _ = turbojpeg::decompress_to_yuv(&part);
        }
    }

    #[test]
    fn noise_is_no_jpeg(bytes in prop::collection::vec(any::<u8>(), 0..200), corners: [Index; 4]) {
        prop_assert_eq!(cut(&bytes, a_box(64, 64, corners), &mut Vec::new()), None);
    }
}

#[test]
fn what_cannot_be_cut_is_left_whole() {
    let corner = CropBox { left_px: 0, top_px: 0, width_px: 9, height_px: 9 };
    let cut = |jpeg: &[u8], crop| cut(jpeg, crop, &mut Vec::new());
    assert_eq!(cut(&textured_jpeg((96, 64), 0), corner), None, "no markers");
    let sampling = SamplingFactor::R_4_2_0;
    assert_eq!(cut(&marked_jpeg((96, 64), 0, sampling, 4), corner), None, "4 of 6 in a row");
    let jpeg = marked_jpeg((96, 64), 0, sampling, 2);
    assert!(cut(&jpeg, corner).is_some());
    let outside = CropBox { left_px: 90, width_px: 7, ..corner };
    assert_eq!(cut(&jpeg, outside), None, "beyond the right edge");
    assert_eq!(cut(&jpeg, CropBox { width_px: 0, ..corner }), None, "empty");
    assert_eq!(cut(&jpeg, CropBox { left_px: u32::MAX, ..corner }), None, "overflow");
}
