//! What LOST has found in an image.

use image::{Rgb, RgbImage};
use tch::Tensor;

use super::{
    beside, object_colour,
    overlay::{draw_box, one_object},
    to_image,
};
use crate::{
    discovery::{PxBox, lost::Found},
    images::grid::Grid,
};

const TRUTH: Rgb<u8> = Rgb([255, 255, 255]);

/// The image with the boxes of the data set in white and the one that was found in orange; beside it
/// the patches of the object, and in orange the one that it was found from.
///
/// Takes the image uint8 `[3, H, W]` as the encoder saw it, and boxes in its pixels.
pub fn discovery_picture(
    image_CHW: &Tensor,
    objects: &[PxBox],
    found: &Found,
    grid: Grid,
) -> RgbImage {
    let image = to_image(image_CHW);
    let line_px = (image.width().min(image.height()) / 160).max(2);
    let mut patches = one_object(&image, &found.patches, grid);
    let mut boxes = image;
    for bounds in objects {
        draw_box(&mut boxes, *bounds, TRUTH, line_px);
    }
    draw_box(&mut boxes, found.bounds, object_colour(0), line_px);
    let (row, column) = (found.seed / grid.columns, found.seed % grid.columns);
    let [x0, x1, y0, y1] =
        [column, column + 1, row, row + 1].map(|cells| (cells * grid.patch_px) as f64);
    draw_box(&mut patches, PxBox { x0, y0, x1, y1 }, object_colour(0), 2);
    beside(&boxes, &patches)
}
