//! Pictures in rows and columns.

use dora_data::inspect::label;
use image::{Rgb, RgbImage, imageops};

use super::colour::BACKGROUND;

const GAP_PX: u32 = 4;
const BAR_PX: u32 = 6;
/// Around a label that lies on a picture.
const MARGIN_PX: u32 = 3;

/// A row of pictures of one size.
#[derive(Debug)]
pub struct Row {
    /// The colour of the bar at its left.
    pub colour: Rgb<u8>,
    /// Digits in the corner of its first picture; empty for none.
    pub label: String,
    /// The pictures.
    pub cells: Vec<RgbImage>,
}

impl Row {
    /// A row without colour and label.
    pub fn plain(cells: Vec<RgbImage>) -> Self {
        Self { colour: BACKGROUND, label: String::new(), cells }
    }
}

/// Lays rows of as many pictures of one size below one another; over the columns stand `headings`
/// (digits, points and colons), if there are any.
pub fn lay_out(headings: &[String], rows: &[Row]) -> RgbImage {
    let first = rows.iter().find_map(|row| Some((row.cells.len() as u32, row.cells.first()?)));
    let (columns, (width, height)) =
        first.map_or((0, (0, 0)), |(columns, cell)| (columns, cell.dimensions()));
    let top = if headings.is_empty() { GAP_PX } else { label::HEIGHT_PX + 2 * GAP_PX };
    let left = |column: u32| 2 * GAP_PX + BAR_PX + column * (width + GAP_PX);
    let size = (left(columns), top + rows.len() as u32 * (height + GAP_PX));
    let mut sheet = RgbImage::from_pixel(size.0, size.1, BACKGROUND);
    for (column, heading) in (0..columns).zip(headings) {
        label::draw(&mut sheet, heading, (left(column), GAP_PX));
    }
    for (index, row) in (0..).zip(rows) {
        let y = top + index * (height + GAP_PX);
        let bar = RgbImage::from_pixel(BAR_PX, height, row.colour);
        imageops::replace(&mut sheet, &bar, i64::from(GAP_PX), i64::from(y));
        for (column, cell) in (0..).zip(&row.cells) {
            imageops::replace(&mut sheet, cell, i64::from(left(column)), i64::from(y));
        }
        if !row.label.is_empty() {
            write_on(&mut sheet, &row.label, (left(0), y));
        }
    }
    sheet
}

/// Two pictures of one height side by side.
pub fn beside(left: &RgbImage, right: &RgbImage) -> RgbImage {
    let size = (left.width() + GAP_PX + right.width(), left.height().max(right.height()));
    let mut both = RgbImage::from_pixel(size.0, size.1, BACKGROUND);
    imageops::replace(&mut both, left, 0, 0);
    imageops::replace(&mut both, right, i64::from(left.width() + GAP_PX), 0);
    both
}

/// A picture of at most `most_px` columns.
pub fn shrink(image: RgbImage, most_px: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    if width <= most_px {
        return image;
    }
    let height = (u64::from(height) * u64::from(most_px) / u64::from(width)).max(1);
    imageops::thumbnail(&image, most_px, height as u32)
}

/// Writes on a dark ground, so that it can be read on any picture.
fn write_on(sheet: &mut RgbImage, text: &str, (x, y): (u32, u32)) {
    let size = (label::width_px(text) + 2 * MARGIN_PX, label::HEIGHT_PX + 2 * MARGIN_PX);
    let ground = RgbImage::from_pixel(size.0, size.1, BACKGROUND);
    imageops::replace(sheet, &ground, i64::from(x), i64::from(y));
    label::draw(sheet, text, (x + MARGIN_PX, y + MARGIN_PX));
}
