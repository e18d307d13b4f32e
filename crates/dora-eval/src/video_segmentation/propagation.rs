//! Labels of patches from similar patches nearby, in frames whose labels are known.
//!
//! A target patch is compared with the patches of its window alone: targets are taken a tile at a time,
//! and a tile meets the rows and columns that its windows reach. What is held at once depends on the
//! tile, not on the size of the frame.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use tch::{Device, Kind, Tensor, no_grad};

/// Rows and columns of a tile. Larger ones multiply matrices faster, but reach patches that lie in few
/// of their windows.
const TILE: (i64, i64) = (8, 32);

/// How labels are propagated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Propagation {
    /// Farthest row and column of a neighbour from a target's, in patches.
    pub window: i64,
    /// Neighbours of all frames together that give their label, and those as similar as the last.
    pub topk: usize,
    /// What cosines are divided by before the exponential.
    pub temperature: f64,
}

/// Patches of a frame whose labels are known, `P` = rows times columns.
#[derive(Debug)]
pub struct LabelledPatches {
    /// Features of length 1, float32 `[P, D]`.
    pub features_PD: Tensor,
    /// Share of each label, float32 `[P, C]`.
    pub labels_PC: Tensor,
}

/// A rectangle of patches.
#[derive(Clone, Copy, Debug)]
struct Tile {
    row: i64,
    rows: i64,
    column: i64,
    columns: i64,
}

/// Features `[P, D]` of length 1.
pub fn unit_features(features_PD: &Tensor) -> Tensor {
    let norm_P1 = features_PD.norm_scalaropt_dim(2, [1].as_slice(), true);
    (features_PD / norm_P1.clamp_min(1e-12)).to_kind(Kind::Float)
}

impl Default for Propagation {
    /// DINO's on DAVIS.
    fn default() -> Self {
        Self { window: 12, topk: 5, temperature: 0.1 }
    }
}

impl Propagation {
    /// Labels `[P, C]` of a frame whose features of length 1 are `target_PD`, on a grid of (rows,
    /// columns), from frames of the same grid: the mean of the labels of its `topk` most similar
    /// neighbours, weighted with exp(cosine / temperature).
    pub fn propagate(
        &self,
        sources: &[&LabelledPatches],
        target_PD: &Tensor,
        grid: (i64, i64),
    ) -> Tensor {
        match target_PD.device() {
            Device::Cpu => self.propagate_on_cpu(sources, target_PD, grid),
            _ => self.propagate_on_device(sources, target_PD, grid),
        }
    }

    /// [`Propagation::propagate`] as operations on tensors only: what a GPU does.
    pub fn propagate_on_device(
        &self,
        sources: &[&LabelledPatches],
        target_PD: &Tensor,
        grid: (i64, i64),
    ) -> Tensor {
        let (rows, columns) = grid;
        let classes = sources[0].labels_PC.size()[1];
        let device = target_PD.device();
        let output_HWC = Tensor::zeros([rows, columns, classes], (Kind::Float, device));
        for tile in tiles(grid) {
            let reach = tile.reach(self.window, grid);
            let cut = |of: fn(&LabelledPatches) -> &Tensor| {
                let parts: Vec<Tensor> =
                    sources.iter().map(|source| reach.patches_of(of(source), grid)).collect();
                Tensor::cat(&parts, 0)
            };
            let features_ND = cut(|source| &source.features_PD);
            let labels_NC = cut(|source| &source.labels_PC);
            let cosine_MN = tile.patches_of(target_PD, grid).matmul(&features_ND.transpose(0, 1));
            let outside_MN = tile.outside_window(&reach, self.window, device);
            let outside_MN = outside_MN.repeat([1, sources.len() as i64]);
            let cosine_MN = cosine_MN.masked_fill(&outside_MN, f64::NEG_INFINITY);
            let weight_MN = self.weights(&cosine_MN);
            let labels_HWC = weight_MN.matmul(&labels_NC).view([tile.rows, tile.columns, classes]);
            tile.cut(&output_HWC).copy_(&labels_HWC);
        }
        output_HWC.view([rows * columns, classes])
    }

    /// [`Propagation::propagate`] with every patch of a frame compared with every one of the others:
    /// the protocol as it is written, to test and to measure against. Takes memory for the square of
    /// the number of patches.
    pub fn propagate_densely(
        &self,
        sources: &[&LabelledPatches],
        target_PD: &Tensor,
        grid: (i64, i64),
    ) -> Tensor {
        let all = |of: fn(&LabelledPatches) -> &Tensor| {
            Tensor::cat(&sources.iter().map(|source| of(source)).collect::<Vec<_>>(), 0)
        };
        let features_ND = all(|source| &source.features_PD);
        let labels_NC = all(|source| &source.labels_PC);
        let whole = Tile { row: 0, rows: grid.0, column: 0, columns: grid.1 };
        let outside_PP = whole.outside_window(&whole, self.window, target_PD.device());
        let inside_PN = outside_PP.logical_not().repeat([1, sources.len() as i64]);
        let affinity_PN = (target_PD.matmul(&features_ND.transpose(0, 1)) / self.temperature).exp();
        let affinity_PN = affinity_PN * inside_PN;
        let topk = (self.topk as i64).min(affinity_PN.size()[1]);
        let (highest_PK, _) = affinity_PN.topk(topk, 1, true, true);
        let is_left_out = affinity_PN.lt_tensor(&highest_PK.narrow(1, topk - 1, 1));
        let affinity_PN = affinity_PN.masked_fill(&is_left_out, 0.0);
        let sum_P1 = affinity_PN.sum_dim_intlist([1].as_slice(), true, None::<Kind>);
        (affinity_PN / sum_P1).matmul(&labels_NC)
    }

    /// Weights of neighbours, whose cosines are minus infinity outside of the window.
    fn weights(&self, cosine_MN: &Tensor) -> Tensor {
        let topk = (self.topk as i64).min(cosine_MN.size()[1]);
        let (highest_MK, _) = cosine_MN.topk(topk, 1, true, true);
        let is_left_out = cosine_MN.lt_tensor(&highest_MK.narrow(1, topk - 1, 1));
        let kept_MN = (cosine_MN / self.temperature).masked_fill(&is_left_out, f64::NEG_INFINITY);
        kept_MN.softmax(1, None::<Kind>)
    }

    /// [`Propagation::propagate`] on all cores, a tile on each.
    fn propagate_on_cpu(
        &self,
        sources: &[&LabelledPatches],
        target_PD: &Tensor,
        grid: (i64, i64),
    ) -> Tensor {
        let (rows, columns) = grid;
        let classes = sources[0].labels_PC.size()[1] as usize;
        let labels: Vec<Vec<f32>> =
            sources.iter().map(|source| numbers(&source.labels_PC)).collect();
        let work: Vec<(Tile, Tensor, Vec<Tensor>)> = tiles(grid)
            .map(|tile| {
                let reach = tile.reach(self.window, grid);
                let map = |features_PD: &Tensor| features_PD.view([rows, columns, -1]);
                let reached = sources.iter().map(|source| reach.cut(&map(&source.features_PD)));
                (tile, tile.cut(&map(target_PD)), reached.collect())
            })
            .collect();
        let of_tile =
            |cosines: &mut Vec<f32>, (tile, target_HWD, sources): (Tile, Tensor, Vec<Tensor>)| {
                let reach = tile.reach(self.window, grid);
                let targets = tile.rows * tile.columns;
                let mut nearest: Vec<Nearest> =
                    (0..targets).map(|_| Nearest::new(self.topk)).collect();
                for (source, reached_HWD) in (0..).zip(&sources) {
                    compare(&target_HWD, reached_HWD, cosines);
                    for (at, nearest) in (0..targets).zip(&mut nearest) {
                        let window = tile.patch(at).reach(self.window, grid);
                        for row in window.row..window.row + window.rows {
                            let line = at * reach.rows + row - reach.row;
                            let start = line * reach.columns + window.column - reach.column;
                            let band = &cosines[start as usize..][..window.columns as usize];
                            nearest.offer(band, source, (row * columns + window.column) as u32);
                        }
                    }
                }
                let mean = |(at, nearest): (i64, Nearest)| {
                    let Tile { row, column, .. } = tile.patch(at);
                    let mean = nearest.weighted_mean(&labels, classes, self.temperature as f32);
                    ((row * columns + column) as usize, mean)
                };
                (0..).zip(nearest).map(mean).collect::<Vec<_>>()
            };
        let tiles = || work.into_par_iter().map_init(Vec::new, of_tile).collect();
        let of_tiles: Vec<Vec<(usize, Vec<f32>)>> = match one_core_each() {
            Some(pool) => pool.install(tiles),
            None => tiles(),
        };
        let mut output = vec![0.0; (rows * columns) as usize * classes];
        for (patch, mean) in of_tiles.into_iter().flatten() {
            output[patch * classes..][..classes].copy_from_slice(&mean);
        }
        Tensor::from_slice(&output).reshape([rows * columns, classes as i64])
    }
}

/// Cosines `[target, reached]` of a tile's features `[H, W, D]` with those that it reaches in a source.
fn compare(target_HWD: &Tensor, reached_HWD: &Tensor, cosines: &mut Vec<f32>) {
    no_grad(|| {
        let [target_MD, reached_ND] = [target_HWD, reached_HWD].map(|part| part.flatten(0, 1));
        let product_MN = target_MD.matmul(&reached_ND.transpose(0, 1));
        cosines.resize(product_MN.numel(), 0.0);
        product_MN.copy_data(cosines, product_MN.numel());
    });
}

/// Threads for which libtorch computes on their own core. Elsewhere it shares each product out to all
/// cores, and small ones then mostly wait for each other. Nothing where the system gives no more threads.
fn one_core_each() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let builder = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads());
        let pool = builder.build().ok()?;
        let everywhere = tch::get_num_threads();
        pool.broadcast(|_| tch::set_num_threads(1));
        // What is set last holds for threads that begin later.
        tch::set_num_threads(everywhere);
        Some(pool)
    });
    pool.as_ref()
}

/// The most similar neighbours among those offered, and those as similar as the last of them.
struct Nearest {
    topk: usize,
    /// The `topk`-th highest cosine so far.
    threshold: f32,
    /// Cosine, source and patch, in the order of the offers.
    found: Vec<(f32, u32, u32)>,
    /// How many may be found before the threshold rises.
    most: usize,
    scratch: Vec<f32>,
}

impl Nearest {
    fn new(topk: usize) -> Self {
        let most = 4 * topk;
        let (found, scratch) = (Vec::with_capacity(most), Vec::with_capacity(most));
        Self { topk, threshold: f32::NEG_INFINITY, found, most, scratch }
    }

    /// Offers neighbours side by side, from `patch` of `source` on.
    fn offer(&mut self, cosines: &[f32], source: u32, patch: u32) {
        // Almost always there is none; the loop without a branch takes several at a time.
        let threshold = self.threshold;
        if !cosines.iter().fold(false, |any, cosine| any | (*cosine >= threshold)) {
            return;
        }
        for (&cosine, patch) in cosines.iter().zip(patch..) {
            if cosine >= self.threshold {
                self.found.push((cosine, source, patch));
                if self.found.len() >= self.most {
                    self.forget_the_rest();
                    // However many are equally similar, each is looked at a few times only.
                    self.most = self.most.max(2 * self.found.len());
                }
            }
        }
    }

    /// Raises the threshold to what is known, and drops what lies below.
    fn forget_the_rest(&mut self) {
        if self.found.len() < self.topk {
            return;
        }
        self.scratch.clear();
        self.scratch.extend(self.found.iter().map(|(cosine, ..)| *cosine));
        let last = self.topk - 1;
        let (_, threshold, _) = self.scratch.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
        self.threshold = *threshold;
        self.found.retain(|(cosine, ..)| *cosine >= self.threshold);
    }

    /// Mean of their labels; zeros where nothing was similar, as with features that are no numbers.
    fn weighted_mean(mut self, labels: &[Vec<f32>], classes: usize, temperature: f32) -> Vec<f32> {
        self.forget_the_rest();
        let highest = self.found.iter().map(|(cosine, ..)| *cosine).fold(f32::MIN, f32::max);
        let mut mean = vec![0.0; classes];
        let mut sum = 0.0;
        for &(cosine, source, patch) in &self.found {
            let weight = ((cosine - highest) / temperature).exp();
            sum += weight;
            let label = &labels[source as usize][patch as usize * classes..][..classes];
            mean.iter_mut().zip(label).for_each(|(mean, share)| *mean += weight * share);
        }
        if sum > 0.0 {
            mean.iter_mut().for_each(|mean| *mean /= sum);
        }
        mean
    }
}

impl Tile {
    /// Its patch `at`, row by row.
    fn patch(&self, at: i64) -> Self {
        let (row, column) = (self.row + at / self.columns, self.column + at % self.columns);
        Self { row, rows: 1, column, columns: 1 }
    }

    /// What the windows of its patches reach.
    fn reach(&self, window: i64, (rows, columns): (i64, i64)) -> Self {
        let reach = |start: i64, count: i64, end: i64| {
            let first = (start - window).max(0);
            (first, (start + count + window).min(end) - first)
        };
        let (row, rows) = reach(self.row, self.rows, rows);
        let (column, columns) = reach(self.column, self.columns, columns);
        Self { row, rows, column, columns }
    }

    /// Its part of a tensor `[rows, columns, ...]`, which shares the storage.
    fn cut(&self, map_HWX: &Tensor) -> Tensor {
        map_HWX.narrow(0, self.row, self.rows).narrow(1, self.column, self.columns)
    }

    /// Its part of a tensor `[P, X]` of a whole grid, as `[patches, X]`.
    fn patches_of(&self, values_PX: &Tensor, (rows, columns): (i64, i64)) -> Tensor {
        self.cut(&values_PX.view([rows, columns, -1])).reshape([self.rows * self.columns, -1])
    }

    /// Whether a patch of `others` (columns) lies outside of the window of one of these (rows).
    fn outside_window(&self, others: &Self, window: i64, device: Device) -> Tensor {
        let far = |start: i64, count: i64, others: i64, other_count: i64| {
            let range = |from: i64, count: i64| {
                Tensor::arange_start(from, from + count, (Kind::Int64, device))
            };
            (range(start, count).unsqueeze(1) - range(others, other_count).unsqueeze(0))
                .abs()
                .gt(window)
        };
        let rows_AB = far(self.row, self.rows, others.row, others.rows);
        let columns_AB = far(self.column, self.columns, others.column, others.columns);
        let outside =
            rows_AB.unsqueeze(1).unsqueeze(3).logical_or(&columns_AB.unsqueeze(0).unsqueeze(2));
        outside.reshape([self.rows * self.columns, others.rows * others.columns])
    }
}

/// A grid in tiles, row by row.
fn tiles((rows, columns): (i64, i64)) -> impl Iterator<Item = Tile> {
    let cut = |end: i64, side: i64| {
        (0..end).step_by(side as usize).map(move |start| (start, side.min(end - start)))
    };
    cut(rows, TILE.0).flat_map(move |(row, rows)| {
        cut(columns, TILE.1).map(move |(column, columns)| Tile { row, rows, column, columns })
    })
}

fn numbers(values: &Tensor) -> Vec<f32> {
    let mut numbers = vec![0.0; values.numel()];
    values.contiguous().copy_data(&mut numbers, values.numel());
    numbers
}
