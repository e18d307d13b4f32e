//! F: how well the boundaries of two masks match (Perazzi et al. 2016), as davis2017-evaluation
//! computes it.

/// Tolerance of a match, as a share of the picture's diagonal.
const TOLERANCE: f64 = 0.008;

/// F-measure of two masks' boundaries, from 0 to 1: harmonic mean of the shares of each boundary that
/// lie within the tolerance, a disk of `ceil(0.008 * diagonal)` pixels, of the other. 1 where neither
/// mask has a boundary, 0 where one has.
///
/// Takes masks row by row, of `width` columns and the same length.
pub fn boundary_f(a: &[bool], b: &[bool], width: usize) -> f64 {
    let height = a.len() / width;
    let (a, b) = (boundary(a, width), boundary(b, width));
    let (count_a, count_b) = (count(&a), count(&b));
    if count_a == 0 || count_b == 0 {
        return if count_a == count_b { 1.0 } else { 0.0 };
    }
    let diagonal_px = (width as f64).hypot(height as f64);
    let disk = Disk::new((TOLERANCE * diagonal_px).ceil() as usize);
    let share_a = disk.count_near(&a, &b, width) as f64 / count_a as f64;
    let share_b = disk.count_near(&b, &a, width) as f64 / count_b as f64;
    match share_a + share_b {
        0.0 => 0.0,
        sum => 2.0 * share_a * share_b / sum,
    }
}

/// Pixels that differ from the one to the right, below, or below to the right. The last row and column
/// look along themselves only, and the last corner is none.
fn boundary(mask: &[bool], width: usize) -> Vec<bool> {
    let height = mask.len() / width;
    let mut edges = vec![false; mask.len()];
    for y in 0..height {
        // Beyond the last row and column lies the pixel itself.
        let below = if y + 1 < height { width } else { 0 };
        for x in 0..width {
            let at = y * width + x;
            let right = usize::from(x + 1 < width);
            let here = mask[at];
            edges[at] = here != mask[at + right]
                || here != mask[at + below]
                || here != mask[at + below + right];
        }
    }
    edges
}

fn count(edges: &[bool]) -> usize {
    edges.iter().filter(|is_edge| **is_edge).count()
}

/// The pixels whose distance from the centre is at most a radius.
struct Disk {
    /// Columns to either side that the disk covers, so many rows from its centre.
    half_widths: Vec<usize>,
}

impl Disk {
    fn new(radius: usize) -> Self {
        let half_width = |dy: usize| (radius * radius - dy * dy).isqrt();
        Self { half_widths: (0..=radius).map(half_width).collect() }
    }

    /// How many pixels of `edges` have one of `others` in the disk around them.
    fn count_near(&self, edges: &[bool], others: &[bool], width: usize) -> usize {
        let height = edges.len() / width;
        let radius = self.half_widths.len() - 1;
        let distances = distances_in_row(others, width, radius);
        let is_near = |at: usize| {
            let (y, x) = (at / width, at % width);
            let rows = y.saturating_sub(radius)..(y + radius + 1).min(height);
            rows.into_iter().any(|row| {
                usize::from(distances[row * width + x]) <= self.half_widths[row.abs_diff(y)]
            })
        };
        (0..edges.len()).filter(|&at| edges[at] && is_near(at)).count()
    }
}

/// Columns to the nearest edge in the same row; `radius + 1` where it is farther.
fn distances_in_row(edges: &[bool], width: usize, radius: usize) -> Vec<u16> {
    let far = (radius + 1).min(u16::MAX.into()) as u16;
    let mut distances = vec![far; edges.len()];
    for (distances, edges) in distances.chunks_exact_mut(width).zip(edges.chunks_exact(width)) {
        let mut spread = |columns: &mut dyn Iterator<Item = usize>| {
            let mut distance = far;
            for x in columns {
                distance = if edges[x] { 0 } else { (distance + 1).min(far) };
                distances[x] = distances[x].min(distance);
            }
        };
        spread(&mut (0..width));
        spread(&mut (0..width).rev());
    }
    distances
}
