//! `[monitor]`: the teacher judged by evaluation protocols while it trains. Nothing of the training is
//! changed by it: the encoder is a copy, and no generator of random numbers is touched.

mod davis;
mod knn;

use std::{collections::BTreeMap, fs, io, path::Path, time::Instant};

use anyhow::Context;
use dora_eval::encoder::Encoder;
use serde::{Deserialize, Serialize};

use crate::{progress::Progress, recipe::Recipe, step_lines::StepLines, tensorboard::TensorBoard};

/// Hears how many of how many things are done, and tells whether to go on.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// A way to judge an encoder in minutes, without training.
pub(crate) trait Protocol: std::fmt::Debug {
    /// Its name in the recipe.
    fn name(&self) -> &'static str;

    /// The figures of an encoder, by name, in [0, 1]; `None` if `watch` said to stop.
    fn judge(
        &self,
        encoder: &Encoder,
        watch: Watch<'_>,
    ) -> anyhow::Result<Option<Vec<(&'static str, f64)>>>;
}

/// What a protocol said of the teacher: a line of `monitor.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Steps taken.
    pub step: u64,
    /// Name of the protocol in the recipe.
    pub name: String,
    /// Its figures, in [0, 1].
    pub figures: BTreeMap<String, f64>,
    /// Seconds that it took, in which training waited.
    pub seconds: f64,
}

/// The protocols of a run and the file of what they say.
#[derive(Debug)]
pub(crate) struct Monitor {
    protocols: Vec<Box<dyn Protocol>>,
    lines: StepLines,
    /// Step at which the run goes on, and the protocols that have judged it there.
    resumed: (u64, Vec<String>),
}

/// The protocols that a recipe asks for, with their data looked through.
///
/// # Errors
/// If data is not laid out as a protocol expects it, or does not suffice.
pub(crate) fn protocols(recipe: &Recipe) -> anyhow::Result<Vec<Box<dyn Protocol>>> {
    let mut protocols: Vec<Box<dyn Protocol>> = Vec::new();
    if !recipe.monitor.knn.is_empty() {
        protocols.push(Box::new(knn::Knn::open(recipe)?));
    }
    if !recipe.monitor.davis.is_empty() {
        protocols.push(Box::new(davis::Davis::open(recipe)?));
    }
    Ok(protocols)
}

/// Whether the data of a recipe's protocols can be used.
pub fn check(recipe: &Recipe) -> anyhow::Result<()> {
    protocols(recipe).map(drop)
}

impl Monitor {
    /// Goes on with the file of a run after `step` steps.
    pub(crate) fn resume(
        protocols: Vec<Box<dyn Protocol>>,
        run_dir: &Path,
        step: u64,
    ) -> io::Result<Self> {
        let lines = StepLines::resume(run_dir.join("monitor.jsonl"), step)?;
        let text = fs::read_to_string(lines.path())?;
        let judgements = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let names = judgements.filter(|line: &Judgement| line.step == step).map(|line| line.name);
        let resumed = (step, names.collect());
        Ok(Self { protocols, lines, resumed })
    }

    /// Judges the encoder after `step` steps by every protocol that has not done so. `goes_on` is asked now
    /// and then. What one cannot do is told, and no reason to end a run.
    pub(crate) fn judge(
        &mut self,
        encoder: &Encoder,
        step: u64,
        progress: &mut Progress,
        board: &mut TensorBoard,
        goes_on: &mut dyn FnMut() -> bool,
    ) {
        for protocol in &self.protocols {
            let name = protocol.name();
            if self.resumed.0 == step && self.resumed.1.iter().any(|judged| judged == name) {
                continue;
            }
            let started = Instant::now();
            let judged = protocol.judge(encoder, &mut |done, total| {
                progress.judging(name, done, total);
                goes_on()
            });
            let kept = judged.and_then(|figures| {
                let figures = figures.context("it was broken off")?;
                let figures = figures.into_iter().map(|(n, value)| (n.to_owned(), value)).collect();
                let seconds = started.elapsed().as_secs_f64();
                let judgement = Judgement { step, name: name.to_owned(), figures, seconds };
                let written = self.lines.write(&judgement);
                written.with_context(|| format!("cannot write {}", self.lines.path().display()))?;
                Ok(judgement)
            });
            match kept {
                Ok(judgement) => {
                    progress.judged(&judgement);
                    if let Err(error) = board.scalars(step, &judgement.scalars()) {
                        let path = board.path().display();
                        progress.say(&format!("warning: cannot write {path}: {error}"));
                    }
                }
                Err(error) => {
                    progress
                        .say(&format!("warning: step {step} is not judged by {name}: {error:#}"));
                }
            }
        }
    }
}

impl Judgement {
    /// The figures under TensorBoard's tags: `monitor/knn/top1`.
    fn scalars(&self) -> Vec<(String, f64)> {
        let tag = |figure: &str| format!("monitor/{}/{figure}", self.name);
        self.figures.iter().map(|(figure, value)| (tag(figure), *value)).collect()
    }

    /// In a line: "knn top1 31.20 %, top5 78.10 %".
    pub fn text(&self) -> String {
        let figures: Vec<String> = self
            .figures
            .iter()
            .map(|(name, value)| format!("{name} {:.2} %", 100.0 * value))
            .collect();
        format!("{} {}", self.name, figures.join(", "))
    }
}
