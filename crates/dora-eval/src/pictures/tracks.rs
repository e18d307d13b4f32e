//! The tracked objects of a clip as one strip.

use image::RgbImage;
use tch::{Kind, Tensor};

use super::{
    Row, lay_out, object_colour,
    overlay::{objects_over, one_object},
    to_images,
};
use crate::images::grid::Grid;

const SMALLEST_CELL_PX: i64 = 256;

/// Draws a clip and its objects: a row with the frames, one with all objects in colour over them,
/// and one for each object with everything else dimmed.
///
/// Takes `frames_TCHW` uint8 and `masks_TKN` of zeros and ones on a patch grid that divides the
/// frames evenly; a bar at the left of each row shows the object's colour.
pub fn track_strip(frames_TCHW: &Tensor, masks_TKN: &Tensor, patch_px: i64) -> RgbImage {
    // Small views are enlarged by a whole factor, masks and all, so that a person can see them.
    let size = frames_TCHW.size();
    let zoom = (SMALLEST_CELL_PX / size[3]).max(1);
    let grid = Grid {
        rows: (size[2] / patch_px) as usize,
        columns: (size[3] / patch_px) as usize,
        patch_px: (patch_px * zoom) as usize,
    };
    let frames = to_images(&enlarge(frames_TCHW, zoom));
    lay_out(&[], &rows(&frames, &masks(masks_TKN), grid))
}

fn rows(frames: &[RgbImage], masks_TKN: &[Vec<Vec<bool>>], grid: Grid) -> Vec<Row> {
    let each = |paint: &dyn Fn(&RgbImage, &[Vec<bool>]) -> RgbImage| -> Vec<RgbImage> {
        frames.iter().zip(masks_TKN).map(|(frame, masks_KN)| paint(frame, masks_KN)).collect()
    };
    let mut rows = vec![
        Row::plain(frames.to_vec()),
        Row::plain(each(&|frame, masks_KN| objects_over(frame, masks_KN, grid))),
    ];
    for object in 0..masks_TKN.first().map_or(0, Vec::len) {
        let cells = each(&|frame, masks_KN| one_object(frame, &masks_KN[object], grid));
        rows.push(Row { colour: object_colour(object), label: String::new(), cells });
    }
    rows
}

/// Masks of zeros and ones as lists of patches.
pub fn masks(masks_TKN: &Tensor) -> Vec<Vec<Vec<bool>>> {
    let masks: Vec<Vec<Vec<u8>>> =
        Vec::try_from(masks_TKN.to_kind(Kind::Uint8)).expect("masks have three dimensions");
    let is_set = |patches: Vec<u8>| patches.into_iter().map(|patch| patch != 0).collect();
    masks.into_iter().map(|masks_KN| masks_KN.into_iter().map(is_set).collect()).collect()
}

fn enlarge(frames_TCHW: &Tensor, factor: i64) -> Tensor {
    let rows = frames_TCHW.repeat_interleave_self_int(factor, 2, None);
    rows.repeat_interleave_self_int(factor, 3, None)
}
