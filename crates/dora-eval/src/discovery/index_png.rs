//! Masks as PNG files: each pixel is the number of its object or class.

use std::{fs::File, io::BufReader, path::Path};

use png::{BitDepth, ColorType, Limits, Transformations};

use super::PxBox;
use crate::images::ImageError;

const MOST_PX: u32 = 1 << 14;

/// The number of the object or class at each pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMask {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Numbers, row by row.
    pub indices: Vec<u8>,
}

impl IndexMask {
    /// No object.
    pub const BACKGROUND: u8 = 0;
    /// Nobody says what is there.
    pub const VOID: u8 = 255;

    /// Reads a palette or grey PNG, whose colours do not matter.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or has colours instead of numbers.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError { path: path.into(), reason };
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        decode(BufReader::new(file)).map_err(failed)
    }

    /// Its objects and the boxes around them, in their order.
    pub fn boxes(&self) -> Vec<(u8, PxBox)> {
        let mut ends: [Option<[usize; 4]>; 256] = [None; 256];
        for (at, &label) in self.indices.iter().enumerate() {
            let (x, y) = (at % self.width, at / self.width);
            let [x0, y0, x1, y1] = ends[usize::from(label)].get_or_insert([x, y, x + 1, y + 1]);
            (*x0, *y0) = ((*x0).min(x), (*y0).min(y));
            (*x1, *y1) = ((*x1).max(x + 1), (*y1).max(y + 1));
        }
        let objects = (Self::BACKGROUND + 1)..Self::VOID;
        objects
            .filter_map(|label| Some((label, ends[usize::from(label)]?)))
            .map(|(label, ends)| (label, PxBox::from(ends.map(|end| end as f64))))
            .collect()
    }
}

fn decode(file: impl std::io::BufRead + std::io::Seek) -> Result<IndexMask, String> {
    let damaged = |error: png::DecodingError| error.to_string();
    let mut decoder = png::Decoder::new_with_limits(file, Limits::default());
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width, reader.info().height);
    let bits = match (reader.output_color_type(), width.max(height) <= MOST_PX) {
        ((ColorType::Indexed | ColorType::Grayscale, depth), true)
            if depth != BitDepth::Sixteen =>
        {
            depth as usize
        }
        (_, false) => {
            return Err(format!(
                "it has {width}x{height} px, and {MOST_PX} on a side are the most"
            ));
        }
        ((colours, depth), _) => {
            return Err(format!(
                "a mask is a palette or grey PNG of at most 8 bits, and this one is {colours:?} of {} bits",
                depth as u8
            ));
        }
    };
    let size = reader.output_buffer_size().ok_or("it is too large")?;
    let mut bytes = vec![0; size];
    let info = reader.next_frame(&mut bytes).map_err(damaged)?;
    let (width, height) = (width as usize, height as usize);
    let index = |row: usize, column: usize| {
        let bit = column * bits;
        let byte = bytes[row * info.line_size + bit / 8];
        byte >> (8 - bits - bit % 8) & (u16::MAX >> (16 - bits)) as u8
    };
    let indices = (0..height)
        .flat_map(|row| (0..width).map(move |column| (row, column)))
        .map(|(r, c)| index(r, c));
    Ok(IndexMask { width, height, indices: indices.collect() })
}
