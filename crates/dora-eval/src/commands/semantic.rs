//! `semantic`: a segmentation head on an encoder, trained and judged.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;
use dora_data::{
    output::{check_writable, tell},
    say,
};
use dora_eval::{
    encoder::{Encoder, EncoderArgs, cores::on_cores, rate::matrix_flops_per_s},
    images::masks::{Mask, to_palette_png},
    interrupt::Interrupt,
    progress::Progress,
    semantic::{
        batches::with_batches,
        checkpoint::{self, Identity},
        dataset::Dataset,
        metrics::{Confusion, Scores},
        patches::{PatchBank, PatchError},
        recipe::{HeadKind, Recipe},
        train::Trainer,
    },
};
use dora_store::atomic;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use super::features::CacheArgs;

/// Losses that are written down over a training.
const LOGGED: u64 = 500;

#[derive(Args)]
pub(crate) struct SemanticArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// ADE20K's folder, or one with train, trainannot, val and valannot
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// TOML file: head, training and test
    #[arg(long, value_name = "FILE")]
    recipe: PathBuf,
    /// `section.key=value` to lay over the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder for head, log and predictions; an interrupted training there goes on [default:
    /// RECIPE-ENCODER in the folder of --out-root]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where that folder lies if it is not named
    #[arg(long, value_name = "DIR", default_value = "data/eval/semantic")]
    out_root: PathBuf,
    /// Put aside what is in that folder and train anew
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// Look through the data, and stop
    #[arg(long)]
    check: bool,
    /// File to write the figures to
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How fast everything went; `None` where nothing was done.
#[derive(Default)]
struct Speed {
    features_images_per_s: Option<f64>,
    train_s: f64,
    train_images_per_s: Option<f64>,
    test_images_per_s: f64,
}

pub(crate) fn run(args: &SemanticArgs) -> anyhow::Result<()> {
    if let Some(json) = &args.json {
        check_writable("--json", json)?;
    }
    let recipe = Recipe::read(&args.recipe, &args.overrides)?;
    let dataset = Arc::new(Dataset::open(&args.data, &recipe.data)?);
    if args.check {
        return Ok(());
    }
    let encoder = Encoder::load(&args.encoder)?;
    let cache = args.cache.open()?;
    let interrupt = Interrupt::listen(&[]).context("cannot listen for signals")?;
    let identity = Identity {
        recipe: recipe.to_toml(),
        encoder: encoder.name.clone(),
        encoder_width: encoder.config.width,
        encoder_digest: encoder.digest.clone(),
        data_digest: dataset.digest.clone(),
    };
    let mut trainer = Trainer::new(&encoder, &recipe, dataset.classes.len())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.out_root.join(default_name(&args.recipe, &encoder)));
    if args.fresh {
        put_aside(&out)?;
    }
    let _lock = lock(&out)?;
    resume(&out, &identity, &mut trainer)?;
    write(&out.join("recipe.toml"), recipe.to_toml().as_bytes())?;

    let mut training =
        Training { out: &out, dataset: &dataset, recipe: &recipe, identity: &identity, interrupt };
    let mut speed = Speed::default();
    let cache = cache.as_ref().map(|cache| cache.folder());
    training.run(&mut trainer, &encoder, cache, &mut speed)?;
    let matrix_flops_per_s = matrix_flops_per_s(encoder.device, Kind::Float);
    let (confusion, test_images_per_s) = training.test(&trainer)?;
    speed.test_images_per_s = test_images_per_s;

    let scores = confusion.scores();
    let percent = |share: Option<f64>| {
        share.map_or("     -".to_owned(), |share| format!("{:6.2}", 100.0 * share))
    };
    let (train, val) = (dataset.train.len(), dataset.val.len());
    let kind = match recipe.head.kind {
        HeadKind::Linear => "linear",
        HeadKind::Upernet => "UperNet",
    };
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        ("head", format!("{kind}, {} iterations", recipe.train.iterations)),
        (
            "data",
            format!("{}, {train} images to learn from, {val} to judge by", args.data.display()),
        ),
    ];
    let per_class = || dataset.classes.names().zip(&scores.per_class);
    for (name, class) in per_class() {
        table.push((name, format!("IoU {}   Acc {}", percent(class.iou), percent(class.acc))));
    }
    table.push(("mIoU", format!("{} %", percent(Some(scores.miou)))));
    table.push(("aAcc", format!("{} %", percent(Some(scores.aacc)))));
    table.push(("mAcc", format!("{} %", percent(Some(scores.macc)))));
    table.push(("speed", speed.words(matrix_flops_per_s)));
    table.push(("written", out.display().to_string()));
    let figures = json!({
        "encoder": encoder.name,
        "head": kind,
        "recipe": args.recipe.display().to_string(),
        "iterations": recipe.train.iterations,
        "seed": recipe.train.seed,
        "data": args.data.display().to_string(),
        "images": { "train": train, "val": val },
        "mIoU": scores.miou,
        "aAcc": scores.aacc,
        "mAcc": scores.macc,
        "per_class": per_class_figures(&dataset, &scores),
        // Rows are annotated classes, columns predicted ones, in the order of `classes`.
        "classes": dataset.classes.names().collect::<Vec<_>>(),
        "confusion_matrix": confusion.rows().collect::<Vec<_>>(),
        "features_images_per_s": speed.features_images_per_s,
        "train_images_per_s": speed.train_images_per_s,
        "train_s": speed.train_s,
        "test_images_per_s": speed.test_images_per_s,
        "matrix_flops_per_s": matrix_flops_per_s,
    });
    tell(&table, &figures, args.json.as_deref())
}

/// A training and its folder.
struct Training<'a> {
    out: &'a Path,
    dataset: &'a Arc<Dataset>,
    recipe: &'a Recipe,
    identity: &'a Identity,
    interrupt: Interrupt,
}

impl Training<'_> {
    /// Takes the steps that are left.
    fn run(
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
    fn test(&self, trainer: &Trainer) -> anyhow::Result<(Confusion, f64)> {
        let folder = self.out.join("predictions");
        let (dataset, interrupt) = (&**self.dataset, &self.interrupt);
        let mut confusion = Confusion::new(dataset.classes.len());
        let images = dataset.val.len();
        let mut progress = Progress::new("predicting val", images as u64);
        on_cores(
            images,
            || trainer.segmenter(),
            |segmenter, piece| {
                if let Some(signal) = interrupt.caught() {
                    std::process::exit(128 + signal);
                }
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
        )?;
        let images_per_s = images as f64 / progress.elapsed_s();
        Ok((confusion, images_per_s))
    }
}

impl Speed {
    fn words(&self, matrix_flops_per_s: f64) -> String {
        let rate = |what: &str, rate: Option<f64>| {
            rate.map_or(String::new(), |rate| format!("{what} {rate:.1} images/s, "))
        };
        format!(
            "{}{}trained for {:.0} s, test {:.1} images/s; matrices {:.2} TFLOP/s",
            rate("features", self.features_images_per_s),
            rate("training", self.train_images_per_s),
            self.train_s,
            self.test_images_per_s,
            matrix_flops_per_s / 1e12
        )
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

/// IoU and accuracy of each class by name.
fn per_class_figures(dataset: &Dataset, scores: &Scores) -> Map<String, Value> {
    let figures = dataset.classes.names().zip(&scores.per_class);
    figures
        .map(|(name, class)| (name.to_owned(), json!({ "IoU": class.iou, "Acc": class.acc })))
        .collect()
}

/// A folder's name, by the recipe and the encoder.
fn default_name(recipe: &Path, encoder: &Encoder) -> String {
    let name = recipe.file_stem().unwrap_or_default().to_string_lossy();
    format!("{name}-{}", &encoder.digest[..8])
}

/// Makes the folder and keeps other processes out of it.
fn lock(out: &Path) -> anyhow::Result<File> {
    let shown = out.display();
    let file = fs::create_dir_all(out.join("predictions"))
        .and_then(|()| File::create(out.join(".lock")))
        .with_context(|| format!("cannot write to {shown}; choose another folder with --out"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another training writes to {shown}: wait for it, or choose another folder with --out"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {shown}"))
        }
    }
}

/// Goes on from the newest checkpoint, if there is one, of the same training.
fn resume(out: &Path, identity: &Identity, trainer: &mut Trainer) -> anyhow::Result<()> {
    let Some((folder, state)) = checkpoint::newest(out)? else { return Ok(()) };
    let differences = identity.differences(&state.identity);
    if !differences.is_empty() {
        bail!(
            "{} holds another training: {}; choose another folder with --out, or put that one aside \
             with --fresh",
            out.display(),
            differences.join(", ")
        );
    }
    checkpoint::load(&folder, &state, trainer)?;
    say!("going on from {} after {} iterations", folder.display(), state.iteration);
    Ok(())
}

/// Renames what is in a folder, if anything, to the first free name with a number.
fn put_aside(out: &Path) -> anyhow::Result<()> {
    if !out.exists() {
        return Ok(());
    }
    // Under the lock, so that no running training loses its folder.
    let _lock = lock(out)?;
    let name = out.file_name().context("--out must name a folder")?.to_string_lossy();
    let mut names = (1..).map(|number| out.with_file_name(format!("{name}.old-{number}")));
    let aside = names.find(|path| !path.exists()).context("no free name for the old training")?;
    fs::rename(out, &aside).with_context(|| format!("cannot put {} aside", out.display()))?;
    say!("what was in {} lies in {} now", out.display(), aside.display());
    Ok(())
}

fn write_prediction(path: &Path, mask: &Mask, palette: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let png = to_palette_png(mask, palette)
        .with_context(|| format!("cannot write {}", path.display()))?;
    fs::write(path, png).with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    atomic::write_file(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
