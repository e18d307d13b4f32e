//! The contact sheet: frames at even distances, each with its time.

use std::path::Path;

use anyhow::Context;
use dora_store::FrameStore;
use image::{ImageFormat, Rgb, RgbImage, imageops};
use turbojpeg::{Decompressor, PixelFormat, ScalingFactor};

use super::clock;
use super::label::{self, HEIGHT_PX};
use crate::output::unwritable;

const COLUMNS: u32 = 5;
const ROWS: u32 = 4;
const CELL_PX: u32 = 256;
const GAP_PX: u32 = 6;
const BACKGROUND: Rgb<u8> = Rgb([24, 24, 24]);

/// Draws the sheet of a store that has frames into the PNG `path`.
pub(super) fn draw(store: &FrameStore, path: &Path) -> anyhow::Result<()> {
    let cells = store.len().min((COLUMNS * ROWS) as usize);
    let (width_px, height_px) = (store.header().width_px, store.header().height_px);
    let cell_height_px =
        (u64::from(height_px) * u64::from(CELL_PX) / u64::from(width_px.max(1))).clamp(1, 4096);
    let cell_height_px = cell_height_px as u32;
    let step = (CELL_PX + GAP_PX, cell_height_px + HEIGHT_PX + 2 * GAP_PX);
    let columns = COLUMNS.min(cells as u32);
    let rows = (cells as u32).div_ceil(COLUMNS);
    let size = (GAP_PX + columns * step.0, GAP_PX + rows * step.1);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, BACKGROUND);
    let mut decompressor = Decompressor::new().context("cannot start libjpeg-turbo")?;
    for cell in 0..cells {
        // The first and the last frame, and evenly between them.
        let frame = cell * (store.len() - 1) / (cells - 1).max(1);
        let left = GAP_PX + (cell as u32 % COLUMNS) * step.0;
        let top = GAP_PX + (cell as u32 / COLUMNS) * step.1;
        let picture = decode(&mut decompressor, store, frame)?;
        let small = imageops::thumbnail(&picture, CELL_PX, cell_height_px);
        imageops::replace(&mut sheet, &small, i64::from(left), i64::from(top));
        let time = clock(store.pts_us(frame)? as f64 * 1e-6);
        label::draw(&mut sheet, &time, (left, top + cell_height_px + GAP_PX));
    }
    sheet
        .save_with_format(path, ImageFormat::Png)
        .map_err(|error| unwritable("--sheet", path, &error))
}

fn decode(
    decompressor: &mut Decompressor,
    store: &FrameStore,
    frame: usize,
) -> anyhow::Result<RgbImage> {
    let jpeg = store.jpeg(frame)?;
    let what = || {
        let store = store.folder().display();
        format!("cannot decode frame {frame} of the frame store `{store}`; ingest it again")
    };
    let header = decompressor.read_header(jpeg).with_context(what)?;
    let scale = match header.width / CELL_PX as usize {
        0 | 1 => ScalingFactor::ONE,
        2 | 3 => ScalingFactor::ONE_HALF,
        4..8 => ScalingFactor::ONE_QUARTER,
        _ => ScalingFactor::ONE_EIGHTH,
    };
    decompressor.set_scaling_factor(scale).with_context(what)?;
    let (width, height) = (scale.scale(header.width), scale.scale(header.height));
    let mut pixels = vec![0; width * height * 3];
    let (format, pitch) = (PixelFormat::RGB, width * 3);
    let image = turbojpeg::Image { pixels: pixels.as_mut_slice(), width, pitch, height, format };
    decompressor.decompress(jpeg, image).with_context(what)?;
    RgbImage::from_raw(width as u32, height as u32, pixels).with_context(what)
}
