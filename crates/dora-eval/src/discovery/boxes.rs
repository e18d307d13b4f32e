//! Boxes around objects.

use serde::{Deserialize, Serialize};

use crate::images::masks::{Mask, VOID};

/// The label of no object.
pub const BACKGROUND: u8 = 0;

/// A box in pixels: where it begins and, beyond its last pixel, where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 4]", into = "[f64; 4]")]
pub struct PxBox {
    /// Left.
    pub x0: f64,
    /// Top.
    pub y0: f64,
    /// Right.
    pub x1: f64,
    /// Bottom.
    pub y1: f64,
}

impl PxBox {
    /// Whether it is finite and holds something.
    pub fn is_proper(&self) -> bool {
        let Self { x0, y0, x1, y1 } = *self;
        x0 < x1 && y0 < y1 && [x0, y0, x1, y1].iter().all(|side| side.is_finite())
    }

    /// Area of what two boxes share over the area that they cover together; 0 where that is nothing.
    pub fn iou(&self, other: &Self) -> f64 {
        let length = |from: f64, to: f64| (to - from).max(0.0);
        let area = |b: &Self| length(b.x0, b.x1) * length(b.y0, b.y1);
        let shared = length(self.x0.max(other.x0), self.x1.min(other.x1))
            * length(self.y0.max(other.y0), self.y1.min(other.y1));
        let covered = area(self) + area(other) - shared;
        if covered > 0.0 { shared / covered } else { 0.0 }
    }

    /// The box in an image whose sides are `x` and `y` times as long.
    pub fn scaled(&self, x: f64, y: f64) -> Self {
        Self { x0: self.x0 * x, y0: self.y0 * y, x1: self.x1 * x, y1: self.y1 * y }
    }
}

impl From<[f64; 4]> for PxBox {
    fn from([x0, y0, x1, y1]: [f64; 4]) -> Self {
        Self { x0, y0, x1, y1 }
    }
}

impl From<PxBox> for [f64; 4] {
    fn from(PxBox { x0, y0, x1, y1 }: PxBox) -> Self {
        [x0, y0, x1, y1]
    }
}

/// The boxes around the objects of a mask, in the order of their labels.
pub fn boxes_of(mask: &Mask) -> Vec<PxBox> {
    let mut ends: [Option<[usize; 4]>; 256] = [None; 256];
    for (at, &label) in mask.labels.iter().enumerate() {
        let (x, y) = (at % mask.width, at / mask.width);
        let [x0, y0, x1, y1] = ends[usize::from(label)].get_or_insert([x, y, x + 1, y + 1]);
        (*x0, *y0) = ((*x0).min(x), (*y0).min(y));
        (*x1, *y1) = ((*x1).max(x + 1), (*y1).max(y + 1));
    }
    let objects = usize::from(BACKGROUND) + 1..usize::from(VOID);
    ends[objects].iter().flatten().map(|ends| PxBox::from(ends.map(|end| end as f64))).collect()
}
