//! Masks, heat and boxes over frames.

use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};
use tch::Tensor;

use super::{
    colour::{BACKGROUND, blend, grey, heat, mean_colour, object_colour},
    to_image,
};
use crate::{
    discovery::PxBox,
    images::{grid::Grid, masks::Mask},
};

/// How much of an object's colour covers it, and its edge.
const TINT: f32 = 0.45;
const EDGE_TINT: f32 = 0.8;
/// Width of the line around an object.
const OUTLINE_PX: u32 = 2;

/// A frame with its objects in colour and outlined: `masks_KN` has for each object its patches.
pub fn objects_over(frame: &RgbImage, masks_KN: &[Vec<bool>], grid: Grid) -> RgbImage {
    let colours: Vec<Option<Rgb<u8>>> = (0..grid.patches())
        .map(|patch| {
            let on = (0..masks_KN.len()).filter(|&object| masks_KN[object][patch]);
            let on: Vec<Rgb<u8>> = on.map(object_colour).collect();
            (!on.is_empty()).then(|| mean_colour(&on))
        })
        .collect();
    repaint(frame, |x, y, pixel| {
        let patch = grid.patch_at(x, y);
        let Some(colour) = colours[patch] else { return pixel };
        let is_edge =
            edges(x, y, grid).into_iter().flatten().any(|next| colours[next] != colours[patch]);
        blend(pixel, colour, if is_edge { EDGE_TINT } else { TINT })
    })
}

/// A frame with everything but an object dimmed.
pub fn one_object(frame: &RgbImage, patches: &[bool], grid: Grid) -> RgbImage {
    repaint(
        frame,
        |x, y, pixel| {
            if patches[grid.patch_at(x, y)] { pixel } else { blend(pixel, BACKGROUND, 0.8) }
        },
    )
}

/// Draws a frame, uint8 `[3, H, W]`, with each object of its mask in a colour and outlined, scaled down to at
/// most `most_px` columns and rows.
pub fn mask_overlay(image_CHW: &Tensor, mask: &Mask, most_px: u32) -> RgbImage {
    let frame = to_image(image_CHW);
    let (width, height) = frame.dimensions();
    let scale = (f64::from(most_px) / f64::from(width.max(height))).min(1.0);
    let scaled = |px: u32| ((f64::from(px) * scale).round() as u32).max(1);
    let small = imageops::resize(&frame, scaled(width), scaled(height), FilterType::Triangle);
    let label = |x: u32, y: u32| {
        let source = |at: u32, small: u32, large: u32| {
            (2 * u64::from(at) + 1) * u64::from(large) / (2 * u64::from(small))
        };
        let (column, row) = (source(x, small.width(), width), source(y, small.height(), height));
        mask.labels[row as usize * mask.width + column as usize]
    };
    RgbImage::from_fn(small.width(), small.height(), |x, y| {
        let (pixel, here) = (*small.get_pixel(x, y), label(x, y));
        let differs =
            |x: u32, y: u32| x < small.width() && y < small.height() && label(x, y) != here;
        match here {
            0 => pixel,
            object => {
                let is_outline = differs(x + 1, y) || differs(x, y + 1);
                let share = if is_outline { 1.0 } else { 0.5 };
                blend(pixel, object_colour(usize::from(object) - 1), share)
            }
        }
    })
}

/// A frame, grey and dimmed, under heat: a value from 0 to 1 for each pixel, row by row.
pub fn heat_over(frame: &RgbImage, values_HW: &[f32]) -> RgbImage {
    let width = frame.width();
    repaint(frame, |x, y, pixel| {
        let value = values_HW[(y * width + x) as usize].clamp(0.0, 1.0);
        let dimmed = blend(grey(pixel), BACKGROUND, 0.45);
        blend(dimmed, heat(value), 0.15 + 0.75 * value)
    })
}

/// Draws the sides of a box inwards, `line_px` wide; what lies outside of the image is left out.
pub(super) fn draw_box(image: &mut RgbImage, bounds: PxBox, colour: Rgb<u8>, line_px: u32) {
    // Casts saturate.
    let end = |side: f64, most: u32| (side.round() as u32).min(most);
    let (x0, x1) = (end(bounds.x0, image.width()), end(bounds.x1, image.width()));
    let (y0, y1) = (end(bounds.y0, image.height()), end(bounds.y1, image.height()));
    for y in y0..y1 {
        for x in x0..x1 {
            let depth = (x - x0).min(x1 - 1 - x).min(y - y0).min(y1 - 1 - y);
            if depth < line_px {
                image.put_pixel(x, y, colour);
            }
        }
    }
}

pub(super) fn repaint(frame: &RgbImage, paint: impl Fn(u32, u32, Rgb<u8>) -> Rgb<u8>) -> RgbImage {
    let mut painted = frame.clone();
    for (x, y, pixel) in painted.enumerate_pixels_mut() {
        *pixel = paint(x, y, *pixel);
    }
    painted
}

/// The patches beyond the sides that a pixel is close to.
fn edges(x: u32, y: u32, grid: Grid) -> [Option<usize>; 4] {
    let (patch, side) = (grid.patch_at(x, y), grid.patch_px as u32);
    let (row, column) = (patch / grid.columns, patch % grid.columns);
    let (left, top) = (x % side, y % side);
    [
        (left < OUTLINE_PX && column > 0).then(|| patch - 1),
        (left + OUTLINE_PX >= side && column + 1 < grid.columns).then(|| patch + 1),
        (top < OUTLINE_PX && row > 0).then(|| patch - grid.columns),
        (top + OUTLINE_PX >= side && row + 1 < grid.rows).then(|| patch + grid.columns),
    ]
}
