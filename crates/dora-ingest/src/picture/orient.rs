//! Turning a picture as its file asks: phones store what the sensor saw, and how it was held.

/// What to do with a picture before it is shown: rows and columns change places first, then columns
/// and rows are reversed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orientation {
    swap: bool,
    reverse_columns: bool,
    reverse_rows: bool,
}

impl Orientation {
    /// From a display matrix: 9 numbers, of which `[0, 1, 3, 4]` take a stored point to the shown
    /// one, `x' = m[0] x + m[3] y`, `y' = m[1] x + m[4] y` (ISO 14496-12, 6.2.2). Angles between are
    /// taken for the nearest quarter turn.
    pub(crate) fn from_matrix(m: &[i32; 9]) -> Self {
        let [a, b, c, d] = [m[0], m[1], m[3], m[4]].map(i64::from);
        let swap = b.abs() + c.abs() > a.abs() + d.abs();
        // Where the shown columns, and rows, come from.
        let (columns, rows) = if swap { (c, b) } else { (a, d) };
        Self { swap, reverse_columns: columns < 0, reverse_rows: rows < 0 }
    }

    /// The size of a turned picture.
    pub(crate) fn size<T>(self, (width, height): (T, T)) -> (T, T) {
        if self.swap { (height, width) } else { (width, height) }
    }

    /// Turns a plane of `width` columns.
    pub(crate) fn turn(self, plane: &mut Vec<u8>, width: usize, spare: &mut Vec<u8>) {
        if self == Self::default() || plane.is_empty() || width == 0 {
            return;
        }
        let height = plane.len() / width;
        let (columns, rows) = self.size((width, height));
        spare.clear();
        for row in 0..rows {
            let row = if self.reverse_rows { rows - 1 - row } else { row };
            let at = |column: usize| {
                if self.swap { plane[column * width + row] } else { plane[row * width + column] }
            };
            if self.reverse_columns {
                spare.extend((0..columns).rev().map(at));
            } else {
                spare.extend((0..columns).map(at));
            }
        }
        std::mem::swap(plane, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    fn check(matrix: [i32; 4], expected: &[u8], width: usize) {
        let [a, b, c, d] = matrix;
        let orientation = Orientation::from_matrix(&[a, b, 0, c, d, 0, 0, 0, 1 << 30]);
        // 1 2 3
        // 4 5 6
        let mut plane = vec![1, 2, 3, 4, 5, 6];
        orientation.turn(&mut plane, 3, &mut Vec::new());
        assert_eq!((plane.as_slice(), orientation.size((3, 2)).0), (expected, width), "{matrix:?}");
    }

    #[test]
    fn quarter_turns_and_mirrors() {
        check([ONE, 0, 0, ONE], &[1, 2, 3, 4, 5, 6], 3);
        // A quarter clockwise: the left column becomes the top row.
        check([0, ONE, -ONE, 0], &[4, 1, 5, 2, 6, 3], 2);
        check([-ONE, 0, 0, -ONE], &[6, 5, 4, 3, 2, 1], 3);
        check([0, -ONE, ONE, 0], &[3, 6, 2, 5, 1, 4], 2);
        check([-ONE, 0, 0, ONE], &[3, 2, 1, 6, 5, 4], 3);
        check([ONE, 0, 0, -ONE], &[4, 5, 6, 1, 2, 3], 3);
        check([0, ONE, ONE, 0], &[1, 4, 2, 5, 3, 6], 2);
        // Nonsense from a file.
        check([0; 4], &[1, 2, 3, 4, 5, 6], 3);
        check([i32::MIN; 4], &[6, 5, 4, 3, 2, 1], 3);
    }
}
