//! Looking at images of any size one by one: each is one core's alone, so that results depend neither on
//! the number of cores nor on how many images there are.

use std::collections::BTreeMap;

use dora_model::Vit;
use tch::{Device, no_grad};

use crate::encoder::{Encoder, cores::on_cores};

/// What `look` makes of `images`, in their order: `read` gives what it looks at, `done` hears of each.
///
/// On the CPU both run on all cores; a GPU looks at what cores have read.
///
/// # Errors
/// The first of `read` and `look`.
pub fn look_at_each<I: Send, T: Send, E: Send>(
    encoder: &Encoder,
    images: usize,
    read: impl Fn(usize) -> Result<I, E> + Sync,
    look: impl Fn(&Vit, usize, I) -> Result<T, E> + Sync,
    mut done: impl FnMut(),
) -> Result<Vec<T>, E> {
    let mut seen = Vec::with_capacity(images);
    look_in_order(encoder, images, read, look, |sight| {
        seen.push(sight);
        done();
        Ok(())
    })?;
    Ok(seen)
}

/// The same, handed to `take` one by one.
///
/// # Errors
/// The first of `read`, `look` and `take`.
pub fn look_in_order<I: Send, T: Send, E: Send>(
    encoder: &Encoder,
    images: usize,
    read: impl Fn(usize) -> Result<I, E> + Sync,
    look: impl Fn(&Vit, usize, I) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    // Images that take as long are seen nearly in their order: few wait.
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut keep = |index: usize, sight| {
        early.insert(index, sight);
        while let Some(sight) = early.remove(&next) {
            next += 1;
            take(sight)?;
        }
        Ok(())
    };
    if encoder.device == Device::Cpu {
        let config = encoder.config;
        let own = || Vit::from_state(&config, &encoder.state).expect("the network of this state");
        on_cores(images, own, |vit: &mut Vit, index| look(vit, index, read(index)?), keep)
    } else {
        let take = |index, image| keep(index, no_grad(|| look(&encoder.vit, index, image))?);
        on_cores(images, || (), |(), index| read(index), take)
    }
}
