//! Batches of varied training images, made ahead of the steps that take them.
//!
//! A batch is a function of the recipe's seed and the step's number: not of threads, nor of what came
//! before.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use dora_data::{permutation::Permutation, rng::stream};
use rayon::{ThreadPoolBuilder, prelude::*};
use tch::Tensor;

use super::{
    augment::training_crop,
    dataset::{Dataset, DatasetError},
    recipe::Recipe,
};

/// Batches that wait.
const AHEAD: usize = 2;

/// Images and labels of a step.
#[derive(Debug)]
pub struct Batch {
    /// Normalised, float32 `[N, 3, crop, crop]`.
    pub images_NCHW: Tensor,
    /// Classes and void, int64 `[N, crop, crop]`.
    pub labels_NHW: Tensor,
}

/// Calls `body` with the batches of steps `from` on, to the last one, in order.
pub fn with_batches<R>(
    dataset: &Arc<Dataset>,
    recipe: &Recipe,
    from: u64,
    body: impl FnOnce(Receiver<Result<Batch, DatasetError>>) -> R,
) -> R {
    let (sender, receiver) = sync_channel(AHEAD);
    let (dataset, recipe) = (Arc::clone(dataset), recipe.clone());
    // Not joined: it ends when nobody takes its batches any more.
    thread::spawn(move || {
        // The work is spread over images, not within them.
        let pool = ThreadPoolBuilder::new().start_handler(|_| tch::set_num_threads(1)).build().ok();
        for iteration in from..recipe.train.iterations {
            let batch = match &pool {
                Some(pool) => pool.install(|| make_batch(&dataset, &recipe, iteration)),
                None => make_batch(&dataset, &recipe, iteration),
            };
            if sender.send(batch).is_err() {
                break;
            }
        }
    });
    body(receiver)
}

/// The batch of a step.
pub fn make_batch(
    dataset: &Dataset,
    recipe: &Recipe,
    iteration: u64,
) -> Result<Batch, DatasetError> {
    let (seed, batch) = (recipe.train.seed, recipe.train.batch as u64);
    let positions: Vec<u64> = (iteration * batch..(iteration + 1) * batch).collect();
    let indices = order(seed, &positions, dataset.train.len() as u64);
    let crops: Vec<(Tensor, Tensor)> = positions
        .par_iter()
        .zip(indices)
        .map(|(&position, index)| {
            let (image_CHW, labels) = dataset.train[index as usize].read(&dataset.classes)?;
            let mut rng = stream(seed, "semantic augment", &[position]);
            Ok(training_crop(&image_CHW, &labels, &recipe.data, &recipe.augment, &mut rng))
        })
        .collect::<Result<_, DatasetError>>()?;
    let (images, labels): (Vec<Tensor>, Vec<Tensor>) = crops.into_iter().unzip();
    Ok(Batch { images_NCHW: Tensor::stack(&images, 0), labels_NHW: Tensor::stack(&labels, 0) })
}

/// Which of `count` things stand at positions of an endless walk that sees all of them, in a new order,
/// before any again. Positions rise.
pub fn order(seed: u64, positions: &[u64], count: u64) -> Vec<u64> {
    let mut current: Option<(u64, Permutation)> = None;
    positions
        .iter()
        .map(|position| {
            let (epoch, index) = (position / count, position % count);
            let permutation = match &mut current {
                Some((of, permutation)) if *of == epoch => permutation,
                other => {
                    let mut rng = stream(seed, "semantic order", &[epoch]);
                    &mut other.insert((epoch, Permutation::new(count, &mut rng))).1
                }
            };
            permutation.get(index)
        })
        .collect()
}
