//! The part of a JPEG that a crop needs, as a smaller JPEG.
//!
//! Restart markers part a JPEG's data into segments that can be decoded alone. Where their interval
//! divides a row of blocks, so that segments are tiles, those under the crop are copied behind the
//! same header with another size: neither the decoder nor its Huffman tables see the rest. Only
//! bytes are moved here; what is odd gives nothing, and the decoder is given the whole JPEG.

use std::ops::{Range, RangeInclusive};

use crate::crop::CropBox;

const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const BASELINE_FRAME: u8 = 0xc0;
const OTHER_FRAMES: RangeInclusive<u8> = 0xc1..=0xcf;
const HUFFMAN_TABLES: u8 = 0xc4;
const RESTART_INTERVAL: u8 = 0xdd;
const START_OF_SCAN: u8 = 0xda;
const RESTARTS: RangeInclusive<u8> = 0xd0..=0xd7;
/// Samples along the side of a block.
const BLOCK: usize = 8;

/// Writes the smallest JPEG that can be cut out of `jpeg` around `crop` into `out`, and gives its
/// place; nothing if `jpeg` cannot be cut, is damaged, or is needed as a whole.
///
/// `crop` is within the picture. Decoded, every plane of the part equals that part of the whole.
/// Memory is bounded by the length of `jpeg`.
pub fn cut(jpeg: &[u8], crop: CropBox, out: &mut Vec<u8>) -> Option<CropBox> {
    let header = Header::read(jpeg)?;
    let (across, down) = header.tiles();
    let columns = covering(crop.left_px, crop.width_px, header.tile_px.0, across)?;
    let rows = covering(crop.top_px, crop.height_px, header.tile_px.1, down)?;
    if (columns.len(), rows.len()) == (across, down) {
        return None;
    }
    let segments = segments(&jpeg[header.data..], across.checked_mul(down)?)?;

    let span = |tiles: &Range<usize>, tile_px: usize, picture_px: usize| {
        let start = tiles.start * tile_px;
        (start, (tiles.end * tile_px).min(picture_px) - start)
    };
    let (left, width) = span(&columns, header.tile_px.0, header.width);
    let (top, height) = span(&rows, header.tile_px.1, header.height);
    out.clear();
    out.extend_from_slice(&jpeg[..header.data]);
    // Both fit: they are at most the picture's own.
    out[header.size_at..][..2].copy_from_slice(&(height as u16).to_be_bytes());
    out[header.size_at + 2..][..2].copy_from_slice(&(width as u16).to_be_bytes());
    let tiles = rows.flat_map(|row| columns.clone().map(move |column| row * across + column));
    for (count, tile) in tiles.enumerate() {
        if count > 0 {
            out.extend([0xff, RESTARTS.start() + (count as u8 - 1) % 8]);
        }
        out.extend_from_slice(&jpeg[header.data..][segments[tile].clone()]);
    }
    out.extend([0xff, END_OF_IMAGE]);
    Some(CropBox {
        left_px: left as u32,
        top_px: top as u32,
        width_px: width as u32,
        height_px: height as u32,
    })
}

/// What stands in front of a JPEG's data.
#[derive(Debug)]
struct Header {
    width: usize,
    height: usize,
    /// Where the height stands, two bytes; the width follows.
    size_at: usize,
    /// Width and height of a segment.
    tile_px: (usize, usize),
    /// Where the data begins.
    data: usize,
}

impl Header {
    /// Reads a baseline JPEG with one scan and restart markers at equal places of every row.
    fn read(jpeg: &[u8]) -> Option<Self> {
        if jpeg.get(..2)? != [0xff, START_OF_IMAGE] {
            return None;
        }
        let (mut at, mut frame, mut interval) = (2, None, 0);
        loop {
            let &[0xff, marker, high, low] = jpeg.get(at..)?.first_chunk()? else { return None };
            let body_at = at + 4;
            at = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let body = jpeg.get(body_at..at)?;
            match marker {
                BASELINE_FRAME if frame.is_none() => frame = Some((body_at, body)),
                RESTART_INTERVAL => interval = usize::from(number(body)?),
                START_OF_SCAN => return Self::new(frame?, interval, body, at),
                HUFFMAN_TABLES => {}
                BASELINE_FRAME => return None,
                marker if OTHER_FRAMES.contains(&marker) => return None,
                _ => {}
            }
        }
    }

    fn new(
        (frame_at, frame): (usize, &[u8]),
        interval: usize,
        scan: &[u8],
        data: usize,
    ) -> Option<Self> {
        let (height, width) = (number(frame.get(1..)?)?, number(frame.get(3..)?)?);
        let components = frame.get(6..)?.chunks_exact(3);
        let in_scan = usize::from(*scan.first()?);
        if components.len() != usize::from(*frame.get(5)?) || components.len() != in_scan {
            return None;
        }
        // Blocks of one component alone are not grouped, whatever its factors say.
        let (mut across, mut down) = (1, 1);
        for component in components.filter(|_| in_scan > 1) {
            across = across.max(usize::from(component[1] >> 4));
            down = down.max(usize::from(component[1] & 15));
        }
        let (width, height) = (usize::from(width), usize::from(height));
        let unit_px = (BLOCK * across, BLOCK * down);
        let units = width.div_ceil(unit_px.0);
        if height == 0 || interval == 0 || units == 0 || !units.is_multiple_of(interval) {
            return None;
        }
        let tile_px = (interval * unit_px.0, unit_px.1);
        Some(Self { width, height, size_at: frame_at + 1, tile_px, data })
    }

    /// Segments in a row, and rows.
    fn tiles(&self) -> (usize, usize) {
        (self.width.div_ceil(self.tile_px.0), self.height.div_ceil(self.tile_px.1))
    }
}

/// The tiles under a stretch of pixels; nothing if it does not lie within `tiles`.
fn covering(start_px: u32, length_px: u32, tile_px: usize, tiles: usize) -> Option<Range<usize>> {
    let end_px = start_px.checked_add(length_px)? as usize;
    let range = start_px as usize / tile_px..end_px.div_ceil(tile_px);
    (!range.is_empty() && range.end <= tiles).then_some(range)
}

/// Where the segments lie in `data`, if there are `count` and their markers stand in turn.
fn segments(data: &[u8], count: usize) -> Option<Vec<Range<usize>>> {
    // Each has a marker or an end, so a forged size cannot ask for more than the data's length.
    if count > data.len() {
        return None;
    }
    let mut segments = Vec::with_capacity(count);
    let mut start = 0;
    for at in memchr::memchr_iter(0xff, data) {
        match *data.get(at + 1)? {
            // A byte of the data itself.
            0 => {}
            marker if marker == RESTARTS.start() + (segments.len() % 8) as u8 => {
                segments.push(start..at);
                start = at + 2;
            }
            END_OF_IMAGE => {
                segments.push(start..at);
                return (segments.len() == count).then_some(segments);
            }
            _ => return None,
        }
    }
    None
}

fn number(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}
