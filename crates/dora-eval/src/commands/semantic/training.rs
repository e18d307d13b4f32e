//! A head is trained and predicts, in a folder that keeps checkpoints, losses and predictions.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, ensure};
use dora_data::say;
use dora_eval::{
    encoder::{Encoder, cores::on_cores},
    images::masks::{Mask, to_palette_png},
    interrupt::Interrupt,
    progress::Progress,
    semantic::{
        batches::with_batches,
        checkpoint::{self, Identity},
        dataset::Dataset,
        metrics::Confusion,
        patches::{PatchBank, PatchError},
        recipe::Recipe,
        train::Trainer,
    },
};
use dora_store::atomic;
use serde_json::{Value, json};
use tch::Device;

use super::Speed;

/// Losses that are written down over a training.
const LOGGED: u64 = 500;

/// A training and its folder.
pub(super) struct Training<'a> {
    pub(super) out: &'a Path,
    pub(super) dataset: &'a Arc<Dataset>,
    pub(super) recipe: &'a Recipe,
    pub(super) identity: &'a Identity,
    pub(super) interrupt: Interrupt,
}

impl Training<'_> {
    /// Takes the steps that are left.
    pub(super) fn run(
        &mut self,
        trainer: &mut Trainer,
        encoder: &Encoder,
        cache: Option<&Path>,
        speed: &mut Speed,
    ) -> anyhow::Result<()> {
        let train = &self.recipe.train;
        if trainer.iteration >= train.iterations {
            return Ok(());
        }
        let begun_at = trainer.iteration;
        if train.patches > 0 {
            let interrupt = self.interrupt.clone();
            let is_interrupted = move || interrupt.caught().is_some();
            let opened = PatchBank::open(encoder, self.dataset, self.recipe, cache, is_interrupted);
            let (bank, images_per_s) = match opened {
                Err(PatchError::Interrupted) => return Err(self.end(trainer)),
                opened => opened?,
            };
            speed.features_images_per_s = images_per_s;
            // How a sum rounds depends on how many threads share it; this one is small enough for one.
            let threads = tch::get_num_threads();
            if encoder.device == Device::Cpu {
                tch::set_num_threads(1);
            }
            let started = Instant::now();
            let recipe = self.recipe;
            let taken = self.steps(trainer, |trainer| {
                Ok(trainer.step_on_patches(&bank.batch(
                    recipe,
                    trainer.iteration,
                    encoder.device,
                ))?)
            });
            tch::set_num_threads(threads);
            taken?;
            speed.train_s = started.elapsed().as_secs_f64();
        } else {
            let started = Instant::now();
            let dataset = Arc::clone(self.dataset);
            let recipe = self.recipe;
            with_batches(&dataset, recipe, begun_at, |batches| {
                self.steps(trainer, |trainer| {
                    let batch = batches.recv().context("no batch came")??;
                    Ok(trainer.step_on_images(&batch)?)
                })
            })?;
            speed.train_s = started.elapsed().as_secs_f64();
            let images = (train.iterations - begun_at) * train.batch as u64;
            speed.train_images_per_s = Some(images as f64 / speed.train_s);
        }
        Ok(())
    }

    /// Takes steps to the last, saves now and then and at the end, and writes losses down.
    fn steps(
        &mut self,
        trainer: &mut Trainer,
        mut step: impl FnMut(&mut Trainer) -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        let train = &self.recipe.train;
        let mut log = Log::open(&self.out.join("losses.jsonl"), trainer.iteration)?;
        let log_every = train.iterations.div_ceil(LOGGED);
        let left = train.iterations - trainer.iteration;
        let mut progress = Progress::new("training steps", left);
        while trainer.iteration < train.iterations {
            let iteration = trainer.iteration;
            let loss = step(trainer)?;
            if iteration.is_multiple_of(log_every) || trainer.iteration == train.iterations {
                log.write(
                    &json!({ "iteration": iteration, "loss": loss, "lr": train.lr_at(iteration) }),
                )?;
            }
            progress.advance(1);
            let is_last = trainer.iteration == train.iterations;
            if is_last || trainer.iteration.is_multiple_of(train.checkpoint_every) {
                checkpoint::save(self.out, trainer, self.identity)?;
            }
            if !is_last && self.interrupt.caught().is_some() {
                drop(progress);
                return Err(self.end(trainer));
            }
        }
        Ok(())
    }

    /// Saves where it stands and ends the process, as the signal that came asks; comes back only with
    /// the reason why it cannot be saved.
    fn end(&self, trainer: &Trainer) -> anyhow::Error {
        if let Err(error) = checkpoint::save(self.out, trainer, self.identity) {
            return error.into();
        }
        let (iteration, total) = (trainer.iteration, self.recipe.train.iterations);
        say!(
            "interrupted after {iteration} of {total} iterations, saved in {}; the same command goes on",
            self.out.display()
        );
        std::process::exit(128 + self.interrupt.caught().unwrap_or(2));
    }

    /// Predicts every image of val, writes the predictions, and compares them with the annotations.
    pub(super) fn test(&self, trainer: &Trainer) -> anyhow::Result<(Confusion, f64)> {
        let folder = self.out.join("predictions");
        let (dataset, interrupt) = (&**self.dataset, &self.interrupt);
        let mut confusion = Confusion::new(dataset.classes.len());
        let images = dataset.val.len();
        let mut progress = Progress::new("predicting val", images as u64);
        let done = on_cores(
            images,
            || trainer.segmenter(),
            |segmenter, piece| {
                ensure!(interrupt.caught().is_none(), "interrupted");
                let sample = &dataset.val[piece];
                let (image_CHW, mut mask) = sample.read(&dataset.classes)?;
                let predicted_HW = segmenter.predict(&image_CHW);
                let predicted = Vec::<u8>::try_from(predicted_HW.flatten(0, 1))?;
                let mut confusion = Confusion::new(dataset.classes.len());
                confusion.add(&predicted, &mask.labels);
                mask.labels = predicted.iter().map(|&label| dataset.classes.index(label)).collect();
                let path = folder.join(format!("{}.png", sample.name));
                write_prediction(&path, &mask, dataset.classes.palette())?;
                Ok::<_, anyhow::Error>(confusion)
            },
            |_, counted| {
                confusion.merge(&counted);
                progress.advance(1);
                Ok(())
            },
        );
        if let Some(signal) = interrupt.caught() {
            say!("interrupted; the same command predicts val anew");
            std::process::exit(128 + signal);
        }
        done?;
        let images_per_s = images as f64 / progress.elapsed_s();
        Ok((confusion, images_per_s))
    }
}

/// Losses, a line of JSON for each.
struct Log(File);

impl Log {
    /// Opens a log whose lines from `iteration` on are dropped.
    fn open(path: &Path, iteration: u64) -> anyhow::Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let text = fs::read_to_string(path).unwrap_or_default();
        let is_before = |line: &&str| {
            let line: Option<Value> = serde_json::from_str(line).ok();
            line.and_then(|line| line["iteration"].as_u64()).is_some_and(|at| at < iteration)
        };
        let kept: String = text.lines().filter(is_before).map(|line| format!("{line}\n")).collect();
        atomic::write_file(path, kept.as_bytes()).with_context(failed)?;
        Ok(Self(File::options().append(true).open(path).with_context(failed)?))
    }

    fn write(&mut self, line: &Value) -> anyhow::Result<()> {
        writeln!(self.0, "{line}").context("cannot write the losses")
    }
}

fn write_prediction(path: &Path, mask: &Mask, palette: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let png = to_palette_png(mask, palette)
        .with_context(|| format!("cannot write {}", path.display()))?;
    atomic::write_file(path, &png).with_context(|| format!("cannot write {}", path.display()))
}
