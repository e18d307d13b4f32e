//! LOST (Siméoni et al. 2021, arXiv 2109.14279): one object of an image from the keys of its patches.
//!
//! Patches of an object correlate with one another and with little else, and objects are smaller than
//! what is behind them: the patch that correlates with the fewest others lies on an object.

use tch::{Kind, Tensor};

use super::PxBox;
use crate::images::grid::Grid;

/// Patches of lowest degree that the seed may take along, as published.
pub const K_PATCHES: usize = 100;

/// Rows of the similarity that exist at once; bounds the memory for large images.
const ROWS_AT_ONCE: i64 = 1024;

/// An object that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The patch that it was found from.
    pub seed: usize,
    /// Its patches: all that hang together with the seed.
    pub patches: Vec<bool>,
    /// The box around them in pixels, clipped to the image.
    pub bounds: PxBox,
}

/// The object in an image of `height_px` x `width_px` whose patches have `keys_ND`.
///
/// The seed correlates positively with the fewest other patches (among equals, the first). It takes
/// along those of the `k_patches` patches of lowest degree that correlate with it; the mask is where
/// the sum of all of them correlates. Patches hang together over their sides, not their corners.
///
/// # Panics
/// If there is no patch, or there are not as many keys as patches.
pub fn lost(
    keys_ND: &Tensor,
    grid: Grid,
    (height_px, width_px): (usize, usize),
    k_patches: usize,
) -> Found {
    let keys_ND = keys_ND.to_kind(Kind::Float);
    let degrees = degrees(&keys_ND);
    assert_eq!(degrees.len(), grid.patches(), "a key for each patch");
    let mut order: Vec<usize> = (0..degrees.len()).collect();
    order.sort_by_key(|&patch| (degrees[patch], patch));
    let seed = order[0];

    let nearby: Vec<i64> = order.iter().take(k_patches.max(1)).map(|&patch| patch as i64).collect();
    let nearby_KD =
        keys_ND.index_select(0, &Tensor::from_slice(&nearby).to_device(keys_ND.device()));
    let similar_K1 = nearby_KD.matmul(&keys_ND.get(seed as i64)).greater(0.0).unsqueeze(1);
    // Where similarities are summed, so are the keys: A is linear in them.
    let sum_D = (nearby_KD * similar_K1.to_kind(Kind::Float)).sum_dim_intlist(
        [0].as_slice(),
        false,
        None::<Kind>,
    );
    let correlated = keys_ND.matmul(&sum_D).greater(0.0).to_kind(Kind::Uint8);
    let correlated: Vec<u8> = Vec::try_from(correlated).expect("one number for each patch");

    let patches = component(&correlated, grid, seed);
    let bounds = bounds(&patches, grid);
    let bounds =
        PxBox { x1: bounds.x1.min(width_px as f64), y1: bounds.y1.min(height_px as f64), ..bounds };
    Found { seed, patches, bounds }
}

/// With how many other patches each one correlates positively.
fn degrees(keys_ND: &Tensor) -> Vec<i64> {
    let keys_DN = keys_ND.transpose(0, 1);
    let parts: Vec<Tensor> = keys_ND
        .split(ROWS_AT_ONCE, 0)
        .iter()
        .map(|rows_RD| {
            let positive_RN = rows_RD.matmul(&keys_DN).greater(0.0);
            positive_RN.sum_dim_intlist([1].as_slice(), false, Kind::Int64)
        })
        .collect();
    let length_N = keys_ND.square().sum_dim_intlist([1].as_slice(), false, None::<Kind>);
    let others_N = Tensor::cat(&parts, 0) - length_N.greater(0.0).to_kind(Kind::Int64);
    Vec::try_from(others_N).expect("one degree for each patch")
}

/// The patches that reach the seed over patches that are set.
fn component(is_set: &[u8], grid: Grid, seed: usize) -> Vec<bool> {
    let mut patches = vec![false; is_set.len()];
    patches[seed] = true;
    let mut open = vec![seed];
    while let Some(patch) = open.pop() {
        let (row, column) = (patch / grid.columns, patch % grid.columns);
        let neighbours = [
            (row > 0).then(|| patch - grid.columns),
            (row + 1 < grid.rows).then(|| patch + grid.columns),
            (column > 0).then(|| patch - 1),
            (column + 1 < grid.columns).then(|| patch + 1),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            if is_set[neighbour] != 0 && !patches[neighbour] {
                patches[neighbour] = true;
                open.push(neighbour);
            }
        }
    }
    patches
}

/// The box around patches, of which there is one at least.
fn bounds(patches: &[bool], grid: Grid) -> PxBox {
    let set = || (0..patches.len()).filter(|&patch| patches[patch]);
    let side = |place: fn(usize, usize) -> usize| {
        let first = set().map(|patch| place(patch, grid.columns)).min().unwrap_or(0);
        let last = set().map(|patch| place(patch, grid.columns)).max().unwrap_or(0);
        ((first * grid.patch_px) as f64, ((last + 1) * grid.patch_px) as f64)
    };
    let (x0, x1) = side(|patch, columns| patch % columns);
    let (y0, y1) = side(|patch, columns| patch / columns);
    PxBox { x0, y0, x1, y1 }
}
