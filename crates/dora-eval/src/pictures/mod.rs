//! Pictures for people: what an encoder attends to, finds and follows.

mod colour;
mod found;
pub mod gif;
pub mod movie;
mod overlay;
mod sheet;
mod tracks;

pub use colour::object_colour;
pub use found::discovery_picture;
pub use overlay::{heat_over, mask_overlay, objects_over, one_object};
pub use sheet::{Row, beside, lay_out, shrink};
pub use tracks::{masks, track_strip};

use std::{
    io::{self, Cursor},
    path::Path,
};

use dora_store::atomic;
use image::{ImageFormat, RgbImage};
use tch::Tensor;

/// Writes a picture as PNG, whole or not at all.
pub fn write_png(path: &Path, picture: &RgbImage) -> io::Result<()> {
    let mut png = Vec::new();
    picture.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).map_err(io::Error::other)?;
    atomic::write_file(path, &png)
}

/// uint8 `[3, H, W]` as an image.
pub fn to_image(frame_CHW: &Tensor) -> RgbImage {
    let size = frame_CHW.size();
    let pixels = Vec::try_from(frame_CHW.permute([1, 2, 0]).contiguous().flatten(0, -1));
    RgbImage::from_raw(size[2] as u32, size[1] as u32, pixels.unwrap_or_default())
        .expect("three bytes for each pixel")
}

/// uint8 `[T, 3, H, W]` as images.
pub fn to_images(frames_TCHW: &Tensor) -> Vec<RgbImage> {
    (0..frames_TCHW.size()[0]).map(|frame| to_image(&frames_TCHW.get(frame))).collect()
}

/// At most `most` of `of` numbers, the first and the last among them.
pub fn spread(of: usize, most: usize) -> Vec<usize> {
    let count = of.min(most);
    (0..count).map(|index| index * (of - 1) / (count - 1).max(1)).collect()
}
