//! Times and numbers in letters of pixels: a font for twelve characters needs no font.

use image::{Rgb, RgbImage};

/// Height of a label.
pub const HEIGHT_PX: u32 = 5 * ZOOM;
const ZOOM: u32 = 3;
const INK: Rgb<u8> = Rgb([230, 230, 230]);

/// Width of a label.
pub fn width_px(text: &str) -> u32 {
    (text.chars().count() as u32 * 4).saturating_sub(1) * ZOOM
}

/// Draws `text` with its upper left corner at `(x, y)`; what has no glyph is a space.
pub fn draw(image: &mut RgbImage, text: &str, (x, y): (u32, u32)) {
    for (place, character) in (0..).zip(text.chars()) {
        for (row, bits) in (0..).zip(glyph(character)) {
            for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                let left = x + (place * 4 + column) * ZOOM;
                for (dx, dy) in (0..ZOOM * ZOOM).map(|pixel| (pixel % ZOOM, pixel / ZOOM)) {
                    if let Some(pixel) = image.get_pixel_mut_checked(left + dx, y + row * ZOOM + dy)
                    {
                        *pixel = INK;
                    }
                }
            }
        }
    }
}

/// Five rows of three bits.
fn glyph(character: char) -> [u8; 5] {
    match character {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b111, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b010, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        ':' => [0b000, 0b010, 0b000, 0b010, 0b000],
        '.' => [0b000, 0b000, 0b000, 0b000, 0b010],
        '-' => [0b000, 0b000, 0b111, 0b000, 0b000],
        _ => [0; 5],
    }
}
