//! Masks from the attention of single heads, and how far they are those of the objects
//! (Caron et al. 2021, section 4.2.2).

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::BACKGROUND;
use crate::images::{
    grid::Grid,
    masks::{Mask, VOID},
};

/// Share of a head's attention that its mask holds, as published.
pub const MASS: f64 = 0.6;

/// For each head, the fewest patches that together hold at least the share `mass` of its attention.
///
/// Takes `attn_HN` of numbers from 0 on; among equals, later patches are taken first.
pub fn attention_masks(attn_HN: &Tensor, mass: f64) -> Vec<Vec<bool>> {
    let heads: Vec<Vec<f64>> =
        Vec::try_from(attn_HN.to_kind(Kind::Double)).expect("attention is [H, N]");
    heads.iter().map(|attn| top_mass(attn, mass)).collect()
}

/// Leaves the lowest out, as long as they hold no more than what may be missing.
fn top_mass(attn: &[f64], mass: f64) -> Vec<bool> {
    let total: f64 = attn.iter().sum();
    let mut order: Vec<usize> = (0..attn.len()).collect();
    order.sort_by(|&a, &b| attn[a].total_cmp(&attn[b]).then(a.cmp(&b)));
    let mut kept = vec![true; attn.len()];
    let mut left_out = 0.0;
    for patch in order {
        left_out += attn[patch];
        if left_out > (1.0 - mass) * total {
            break;
        }
        kept[patch] = false;
    }
    kept
}

/// How many pixels of each label lie under each patch: all that the Jaccard index of patches asks.
#[derive(Debug)]
pub struct LabelCounts {
    /// Pixels of each label under each patch.
    objects: BTreeMap<u8, Vec<u64>>,
    /// Pixels under each patch that are not void.
    pixels: Vec<u64>,
}

impl LabelCounts {
    /// Of a mask, whatever its size: the grid lies over an image of `image_px` (height, width) that
    /// shows the same. Void pixels are left out.
    pub fn new(mask: &Mask, grid: Grid, image_px: (usize, usize)) -> Self {
        let cells = |length: usize, image_px: usize, cells: usize| -> Vec<usize> {
            // The patch under the middle of each pixel.
            let scale = image_px as f64 / length as f64;
            let place = |at: usize| ((at as f64 + 0.5) * scale) as usize / grid.patch_px;
            (0..length).map(|at| place(at).min(cells - 1)).collect()
        };
        let rows = cells(mask.height, image_px.0, grid.rows);
        let columns = cells(mask.width, image_px.1, grid.columns);
        let mut counts = Self { objects: BTreeMap::new(), pixels: vec![0; grid.patches()] };
        for (line, row) in mask.labels.chunks(mask.width).zip(rows) {
            for (&label, column) in line.iter().zip(&columns) {
                if label == VOID {
                    continue;
                }
                let patch = row * grid.columns + column;
                counts.pixels[patch] += 1;
                if label != BACKGROUND {
                    let of_label =
                        counts.objects.entry(label).or_insert_with(|| vec![0; grid.patches()]);
                    of_label[patch] += 1;
                }
            }
        }
        counts
    }

    /// The labels, and the Jaccard index of each with the pixels under `patches`.
    pub fn jaccard(&self, patches: &[bool]) -> Vec<(u8, f64)> {
        let under = |pixels: &[u64]| -> u64 {
            pixels.iter().zip(patches).filter(|(_, is_set)| **is_set).map(|(n, _)| n).sum()
        };
        let covered = under(&self.pixels);
        let of_label = |(label, pixels): (&u8, &Vec<u64>)| {
            let (shared, all): (u64, u64) = (under(pixels), pixels.iter().sum());
            (*label, shared as f64 / (all + covered - shared) as f64)
        };
        self.objects.iter().map(of_label).collect()
    }
}
