//! The learned position embedding, resampled to other grids by fixed matrices: a product's gradient is
//! deterministic on a GPU too, that of libtorch's bicubic interpolation is not.

use std::{cell::RefCell, collections::BTreeMap};

use tch::{Kind, Tensor};

/// Position embedding of the `[CLS]` token and of a square grid of patches.
#[derive(Debug)]
pub(crate) struct PosEmbed {
    embed_1SD: Tensor,
    /// Patches on a side of the grid that it is learned for.
    side: i64,
    /// What resamples a side of the grid, by the number of cells; on the embedding's device.
    matrices: RefCell<BTreeMap<i64, Tensor>>,
}

impl PosEmbed {
    /// Over an embedding `[1, 1 + side * side, D]`, whose storage it shares.
    pub(crate) fn new(embed_1SD: Tensor, side: i64) -> Self {
        Self { embed_1SD, side, matrices: RefCell::default() }
    }

    /// The embedding for a grid, `[1, 1 + rows * columns, D]`: bicubic with DINO's scale factors
    /// `(cells + 0.1) / side` on half-pixel centres, or as it is for the grid that it is learned for.
    pub(crate) fn for_grid(&self, rows: i64, columns: i64) -> Tensor {
        let side = self.side;
        if (rows, columns) == (side, side) {
            return self.embed_1SD.shallow_clone();
        }
        // In float64, which autocast and TF32 leave alone.
        let patches = self.embed_1SD.narrow(1, 1, side * side).to_kind(Kind::Double);
        let by_rows = self.matrix(rows).matmul(&patches.reshape([side, -1]));
        let by_both = self.matrix(columns).matmul(&by_rows.reshape([rows, side, -1]));
        let patches_1PD = by_both.flatten(0, 1).unsqueeze(0).to_kind(self.embed_1SD.kind());
        Tensor::cat(&[self.embed_1SD.narrow(1, 0, 1), patches_1PD], 1)
    }

    fn matrix(&self, cells: i64) -> Tensor {
        let mut matrices = self.matrices.borrow_mut();
        let make = || bicubic(self.side, cells).to_device(self.embed_1SD.device());
        matrices.entry(cells).or_insert_with(make).shallow_clone()
    }
}

/// Weights `[cells, side]` of bicubic interpolation (Keys 1981, with PyTorch's a = -0.75) from `side`
/// values to `cells` with the scale factor `(cells + 0.1) / side`; beyond the border its value repeats.
fn bicubic(side: i64, cells: i64) -> Tensor {
    const A: f64 = -0.75;
    let weight = |distance: f64| match distance.abs() {
        x if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x => ((x - 5.0) * x + 8.0) * x * A - 4.0 * A,
    };
    let step = side as f64 / (cells as f64 + 0.1);
    let mut weights = vec![0.0; (cells * side) as usize];
    for (cell, row) in weights.chunks_exact_mut(side as usize).enumerate() {
        let center = (cell as f64 + 0.5) * step - 0.5;
        let first = center.floor() as i64 - 1;
        for tap in first..first + 4 {
            row[tap.clamp(0, side - 1) as usize] += weight(center - tap as f64);
        }
    }
    Tensor::from_slice(&weights).reshape([cells, side])
}
