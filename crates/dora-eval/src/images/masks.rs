//! Label maps: PNGs whose pixel values are objects or classes.

use std::{fs::File, io::BufReader, path::Path};

use crate::images::{ImageError, MOST_PX};

/// The label of pixels on which nobody decided: they are neither learnt nor judged.
pub const VOID: u8 = 255;

/// Bytes that a PNG's ancillary chunks may take.
const MOST_CHUNK_BYTES: usize = 1 << 26;

/// A label for each pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Labels row by row.
    pub labels: Vec<u8>,
}

/// Reads a palette or grey PNG of up to 8 bits: a label is the pixel's value as stored, no colour.
///
/// # Errors
/// It cannot be read, or its pixels are colours.
pub fn read_mask(path: &Path) -> Result<Mask, ImageError> {
    let failed = |reason: String| ImageError { path: path.into(), reason };
    let mut reader = open(path).map_err(failed)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let bits = reader.info().bit_depth as usize;
    let row_bytes = (width * bits).div_ceil(8);
    let mut packed = vec![0; row_bytes * height];
    reader.next_frame(&mut packed).map_err(|error| failed(error.to_string()))?;
    let labels = if bits == 8 {
        packed
    } else {
        let rows = packed.chunks_exact(row_bytes);
        rows.flat_map(|row| (0..width).map(|column| unpack(row, column, bits))).collect()
    };
    Ok(Mask { width, height, labels })
}

/// Columns and rows of a label map, without its pixels.
///
/// # Errors
/// As [`read_mask`].
pub fn mask_size(path: &Path) -> Result<(usize, usize), ImageError> {
    let reader = open(path).map_err(|reason| ImageError { path: path.into(), reason })?;
    Ok((reader.info().width as usize, reader.info().height as usize))
}

/// The bytes of a palette PNG; `palette` holds red, green and blue of each label.
///
/// # Errors
/// A side is 0.
pub fn to_palette_png(mask: &Mask, palette: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, mask.width as u32, mask.height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    // Rows of a label map resemble the one above.
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&mask.labels)?;
    writer.finish()?;
    Ok(bytes)
}

/// The 256 colours of DAVIS and PASCAL VOC: three bits of the label at a time become the high bits of
/// red, green and blue.
pub fn davis_palette() -> Vec<u8> {
    let channel = |label: usize, c: usize| {
        (0..3).fold(0, |level, k| level | (label >> (3 * k + c) & 1) << (7 - k))
    };
    (0..256).flat_map(|label| [0, 1, 2].map(|c| channel(label, c) as u8)).collect()
}

/// A PNG whose header says that it holds labels, and of a size that fits into memory.
fn open(path: &Path) -> Result<png::Reader<BufReader<File>>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let limits = png::Limits { bytes: MOST_CHUNK_BYTES };
    let decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    let reader = decoder.read_info().map_err(|error| error.to_string())?;
    let info = reader.info();
    if info.width.max(info.height) > MOST_PX {
        let (width, height) = (info.width, info.height);
        return Err(format!("it has {width}x{height} px, and {MOST_PX} on a side are the most"));
    }
    let holds_labels =
        matches!(info.color_type, png::ColorType::Indexed | png::ColorType::Grayscale);
    if !holds_labels || info.bit_depth == png::BitDepth::Sixteen {
        return Err(format!(
            "its pixels are {:?} of {} bits; expected a palette or grey PNG of at most 8 bits, whose \
             pixel values are the labels",
            info.color_type, info.bit_depth as u8
        ));
    }
    Ok(reader)
}

/// The value of a column in a row of less than 8 bits a pixel, the leftmost in the highest bits.
fn unpack(row: &[u8], column: usize, bits: usize) -> u8 {
    let at = column * bits;
    row[at / 8] >> (8 - bits - at % 8) & ((1 << bits) - 1)
}
