//! Pictures for people: the tracked objects of a clip as one strip, masks over frames.

use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};
use tch::{Kind, Tensor};

use crate::masks::Mask;

/// Colours of the objects, in their order; told apart by people with colour-blindness too (Okabe and
/// Ito 2008).
const COLOURS: [[u8; 3]; 8] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [255, 255, 255],
];
const BACKGROUND: Rgb<u8> = Rgb([24, 24, 24]);
const SMALLEST_CELL_PX: i64 = 256;
const GAP_PX: u32 = 4;
const LABEL_PX: u32 = 10;

/// Draws a clip and its objects: a row with the frames, one with all objects in colour over them,
/// and one for each object with everything else dimmed.
///
/// Takes `frames_TCHW` uint8 and `masks_TKN` of zeros and ones on a patch grid that divides the
/// frames evenly; a bar at the left of each row shows the object's colour.
pub fn track_strip(frames_TCHW: &Tensor, masks_TKN: &Tensor, patch_px: i64) -> RgbImage {
    // Small views are enlarged by a whole factor, masks and all, so that a person can see them.
    let zoom = (SMALLEST_CELL_PX / frames_TCHW.size()[3]).max(1);
    let frames_TCHW = &enlarge(frames_TCHW, zoom);
    let patch_px = patch_px * zoom;
    let frames = to_images(frames_TCHW);
    let objects = masks_TKN.size()[1] as usize;
    let masks: Vec<Vec<Vec<u8>>> =
        Vec::try_from(masks_TKN.to_kind(Kind::Uint8)).expect("masks have three dimensions");
    let columns = (frames_TCHW.size()[3] / patch_px) as u32;
    let on_object = |frame: usize, object: usize, x: u32, y: u32| {
        let patch = (y / patch_px as u32) * columns + x / patch_px as u32;
        masks[frame][object][patch as usize] != 0
    };

    let mut rows: Vec<(Rgb<u8>, Vec<RgbImage>)> = vec![(BACKGROUND, frames.clone())];
    let overlay = |frame: usize, x: u32, y: u32, pixel: Rgb<u8>| {
        let on: Vec<Rgb<u8>> =
            (0..objects).filter(|&object| on_object(frame, object, x, y)).map(colour).collect();
        if on.is_empty() { pixel } else { blend(pixel, mean_colour(&on), 0.5) }
    };
    rows.push((BACKGROUND, repaint(&frames, overlay)));
    for object in 0..objects {
        let alone = |frame: usize, x: u32, y: u32, pixel: Rgb<u8>| {
            if on_object(frame, object, x, y) { pixel } else { blend(pixel, BACKGROUND, 0.8) }
        };
        rows.push((colour(object), repaint(&frames, alone)));
    }
    lay_out(&rows)
}

/// Draws a frame, uint8 `[3, H, W]`, with each object of its mask in a colour and outlined, scaled down to at
/// most `most_px` columns and rows.
pub fn mask_overlay(image_CHW: &Tensor, mask: &Mask, most_px: u32) -> RgbImage {
    let frame = to_images(&image_CHW.unsqueeze(0)).remove(0);
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
                blend(pixel, colour(usize::from(object) - 1), share)
            }
        }
    })
}

fn enlarge(frames_TCHW: &Tensor, factor: i64) -> Tensor {
    let rows = frames_TCHW.repeat_interleave_self_int(factor, 2, None);
    rows.repeat_interleave_self_int(factor, 3, None)
}

fn lay_out(rows: &[(Rgb<u8>, Vec<RgbImage>)]) -> RgbImage {
    let (cells, (width, height)) =
        match rows.first().and_then(|(_, row)| Some((row.len(), row.first()?))) {
            Some((cells, first)) => (cells as u32, first.dimensions()),
            None => (0, (0, 0)),
        };
    let (cell_width, cell_height) = (width + GAP_PX, height + GAP_PX);
    let size = (LABEL_PX + GAP_PX + cells * cell_width, GAP_PX + rows.len() as u32 * cell_height);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, BACKGROUND);
    for (row, (label, images)) in rows.iter().enumerate() {
        let y = GAP_PX + row as u32 * cell_height;
        let bar = RgbImage::from_pixel(LABEL_PX - GAP_PX, height, *label);
        imageops::replace(&mut sheet, &bar, i64::from(GAP_PX), i64::from(y));
        for (column, image) in images.iter().enumerate() {
            let x = LABEL_PX + GAP_PX + column as u32 * cell_width;
            imageops::replace(&mut sheet, image, i64::from(x), i64::from(y));
        }
    }
    sheet
}

fn repaint(
    frames: &[RgbImage],
    paint: impl Fn(usize, u32, u32, Rgb<u8>) -> Rgb<u8>,
) -> Vec<RgbImage> {
    let repainted = frames.iter().enumerate().map(|(frame, image)| {
        RgbImage::from_fn(image.width(), image.height(), |x, y| {
            paint(frame, x, y, *image.get_pixel(x, y))
        })
    });
    repainted.collect()
}

fn to_images(frames_TCHW: &Tensor) -> Vec<RgbImage> {
    let size = frames_TCHW.size();
    let (height, width) = (size[2] as u32, size[3] as u32);
    let frames_THWC = frames_TCHW.permute([0, 2, 3, 1]).contiguous();
    let images = (0..size[0]).map(|frame| {
        let pixels = Vec::try_from(frames_THWC.get(frame).flatten(0, -1)).unwrap_or_default();
        RgbImage::from_raw(width, height, pixels).expect("three bytes for each pixel")
    });
    images.collect()
}

fn colour(object: usize) -> Rgb<u8> {
    Rgb(COLOURS[object % COLOURS.len()])
}

/// Where objects overlap, none of them hides another.
fn mean_colour(colours: &[Rgb<u8>]) -> Rgb<u8> {
    let channel = |c: usize| {
        let sum: u32 = colours.iter().map(|colour| u32::from(colour.0[c])).sum();
        (sum / colours.len() as u32) as u8
    };
    Rgb([channel(0), channel(1), channel(2)])
}

fn blend(Rgb(from): Rgb<u8>, Rgb(to): Rgb<u8>, share: f32) -> Rgb<u8> {
    let mix = |a: u8, b: u8| (f32::from(a) * (1.0 - share) + f32::from(b) * share).round() as u8;
    Rgb([mix(from[0], to[0]), mix(from[1], to[1]), mix(from[2], to[2])])
}
