//! The patches of an image.

/// The most patches of an image: an encoder's memory grows with them, and a very long image has many.
pub const MOST_PATCHES: i64 = 1 << 16;

/// Patches that are begun along `size_px`.
pub fn cells(size_px: i64, patch_px: i64) -> i64 {
    (size_px + patch_px - 1) / patch_px
}

/// The patches of an image, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
    /// Side of a patch in pixels.
    pub patch_px: usize,
}

impl Grid {
    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.rows * self.columns
    }

    /// The patch that covers a pixel of the image.
    pub fn patch_at(&self, x: u32, y: u32) -> usize {
        y as usize / self.patch_px * self.columns + x as usize / self.patch_px
    }
}
