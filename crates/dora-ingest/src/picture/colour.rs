//! From a video's colour matrix to that of JPEG files, on planes of 4:2:0.

/// How red and blue count in luma; green is the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Primaries {
    pub(crate) red: f64,
    pub(crate) blue: f64,
}

/// ITU-R BT.601, which JPEG files are in (JFIF), and videos that name nothing are taken for.
const JPEG: Primaries = Primaries { red: 0.299, blue: 0.114 };

/// Turns full-range luma and chroma of one matrix into that of JPEG.
///
/// Grey stays grey, so luma changes only by a share of chroma, and chroma by chroma alone:
/// everything happens at chroma's resolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ToJpeg {
    /// In 1/16384: what blue and red difference add to luma, ...
    luma: [i32; 2],
    /// ... and what they make of blue ...
    blue: [i32; 2],
    /// ... and red difference.
    red: [i32; 2],
}

const BITS: u32 = 14;

impl ToJpeg {
    /// From a matrix with these shares.
    pub(crate) fn from(primaries: Primaries) -> Self {
        let Primaries { red, blue } = primaries;
        // The colour of a unit of blue difference, and of red difference, at luma 0.
        let columns = [[0.0, 2.0 * (1.0 - blue)], [2.0 * (1.0 - red), 0.0]].map(|[r, b]| {
            let g = -(red * r + blue * b) / (1.0 - red - blue);
            let luma = JPEG.red * r + JPEG.blue * b + (1.0 - JPEG.red - JPEG.blue) * g;
            let blue = (b - luma) / (2.0 * (1.0 - JPEG.blue));
            let red = (r - luma) / (2.0 * (1.0 - JPEG.red));
            [luma, blue, red].map(|value| (value * f64::from(1 << BITS)).round() as i32)
        });
        let row = |at: usize| [columns[0][at], columns[1][at]];
        Self { luma: row(0), blue: row(1), red: row(2) }
    }

    /// Changes the planes: luma of `width` columns, chroma of half as many, rounded up, in both
    /// directions.
    pub(crate) fn apply(&self, y: &mut [u8], width: usize, cb: &mut [u8], cr: &mut [u8]) {
        let chroma_width = width.div_ceil(2);
        let mut add = vec![0i16; chroma_width];
        let chroma = cb.chunks_exact_mut(chroma_width).zip(cr.chunks_exact_mut(chroma_width));
        for (y_rows, (cb, cr)) in y.chunks_mut(2 * width).zip(chroma) {
            for ((add, cb), cr) in add.iter_mut().zip(cb).zip(cr) {
                let (b, r) = (i32::from(*cb) - 128, i32::from(*cr) - 128);
                let of = |[by_b, by_r]: [i32; 2]| (b * by_b + r * by_r + (1 << (BITS - 1))) >> BITS;
                *add = of(self.luma) as i16;
                *cb = (of(self.blue) + 128).clamp(0, 255) as u8;
                *cr = (of(self.red) + 128).clamp(0, 255) as u8;
            }
            for y in y_rows.chunks_mut(width) {
                for (y, &add) in y.chunks_mut(2).zip(&add) {
                    for y in y {
                        *y = (i16::from(*y) + add).clamp(0, 255) as u8;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_rgb([y, cb, cr]: [f64; 3], primaries: Primaries) -> [f64; 3] {
        let Primaries { red, blue } = primaries;
        let r = y + 2.0 * (1.0 - red) * (cr - 128.0);
        let b = y + 2.0 * (1.0 - blue) * (cb - 128.0);
        [r, (y - red * r - blue * b) / (1.0 - red - blue), b]
    }

    #[test]
    fn colours_stay_the_same_colours() {
        let bt709 = Primaries { red: 0.2126, blue: 0.0722 };
        let convert = ToJpeg::from(bt709);
        for yuv in [[120u8, 128, 128], [100, 90, 160], [150, 160, 100], [128, 140, 140]] {
            // Odd sizes: 3x3 luma, 2x2 chroma.
            let (mut y, mut cb, mut cr) = (vec![yuv[0]; 9], vec![yuv[1]; 4], vec![yuv[2]; 4]);
            convert.apply(&mut y, 3, &mut cb, &mut cr);
            let before = to_rgb(yuv.map(f64::from), bt709);
            let after = to_rgb([y[8], cb[3], cr[3]].map(f64::from), JPEG);
            for (before, after) in before.iter().zip(after) {
                assert!((before - after).abs() < 2.0, "{yuv:?}: {before} {after}");
            }
            assert!(y.iter().all(|&other| other == y[0]));
        }
    }

    #[test]
    fn jpegs_own_matrix_changes_nothing() {
        let one = 1 << BITS;
        let same = ToJpeg { luma: [0, 0], blue: [one, 0], red: [0, one] };
        assert_eq!(ToJpeg::from(JPEG), same);
    }
}
