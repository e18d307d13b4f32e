//! Masks, heat and boxes over frames.

use image::{Rgb, RgbImage};

use super::colour::{BACKGROUND, blend, grey, heat, mean_colour, object_colour};
use crate::{discovery::PxBox, grid::Grid};

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
