//! `compare`: variants of a recipe, trained with one budget and several seeds, judged beside random
//! initialisation.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::Context;
use serde_json::{Value as Json, json};

use super::{eval::segmentation, ingest, train};
use crate::{
    args::{Args, CommandSpec, Value, option},
    checkout::Checkout,
    jobs::{self, Job},
    process::{self, fixable, say},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "compare",
    about: "Trains variants of a recipe with one budget and judges them beside random weights",
    options: &[
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "what they have in common (default: small_footage)",
        ),
        option(
            "variant",
            Value::Text("NAME:KEY=VALUE,..."),
            "one of them and what differs; may be given several times (default:\ndora, dora-released and dino)",
        ),
        option("seeds", Value::Text("N,..."), "runs of each variant (default: 0,1)"),
        option("video", Value::Text("PATH"), "as for `train`; may be given several times"),
        ingest::FPS,
        option("set", Value::Text("KEY=VALUE"), "as for `train`: for all variants"),
        option("davis", Value::Text("DIR"), "judge by label propagation on this DAVIS folder"),
        option("short-side", Value::Count("PX"), "davis: height of the frames (default: 480)"),
        option("semantic", Value::Text("DIR"), "judge by a linear head on this folder"),
        option(
            "semantic-recipe",
            Value::Text("NAME|PATH"),
            "semantic: how it is trained (default: small_linear)",
        ),
        option("knn", Value::Text("DIR"), "judge by nearest neighbours on this folder"),
        option("image-px", Value::Count("PX"), "knn: side of the images (default: 224)"),
        option(
            "jobs",
            Value::Count("N"),
            "runs that train side by side, the cores divided among them\n(default: 1)",
        ),
        option("out", Value::Text("DIR"), "runs, figures and table (default: data/compare/RECIPE)"),
    ],
    operands: "",
    rest: "",
    notes: "Writes table.md and table.json. The same command goes on where it stopped: runs resume, and what\n\
            was judged is not judged again.\n\n\
            example:\n  \
              cargo xtask compare --video walk.mp4 --davis DAVIS --knn imagenette --jobs 2",
    run,
};

const DEFAULT_RECIPE: &str = "small_footage";

/// The paper's method in both of its forms, and its baseline.
const DEFAULT_VARIANTS: [&str; 3] = [
    "dora:method.loss=mean,tracker.threshold=sample",
    "dora-released:method.loss=released,tracker.threshold=batch",
    "dino:method.name=dino,views.views=2",
];

/// What the rows without training are called.
const RANDOM: &str = "random initialisation";

/// One protocol: what `dora-eval` is told, and which figures of its answer go into the table.
struct Protocol {
    /// The option that gives its data, and its subcommand.
    name: &'static str,
    /// What it is told besides encoder, data and where the answer goes.
    options: fn(&Checkout, &Args) -> anyhow::Result<Vec<OsString>>,
    /// Whether it writes pictures into a folder.
    has_out: bool,
    /// Where the figure stands in the answer, what its column is called, and what it is multiplied by.
    figures: &'static [(&'static str, &'static str, f64)],
    /// Where the speed stands and its unit, and where the rate of matrix products beside it.
    speed: (&'static str, &'static str, &'static str),
}

const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "davis",
        options: |_, args| Ok(args.forward(&["short-side"])),
        has_out: true,
        figures: &[("/J&F-Mean", "DAVIS J&F", 100.0)],
        speed: ("/speed/frames_per_s", "frames/s", "/speed/matrix_flops_per_s"),
    },
    Protocol {
        name: "semantic",
        options: |checkout, args| {
            let recipe = segmentation::resolve_recipe(checkout, args.value("semantic-recipe"))?;
            Ok(vec!["--no-cache".into(), "--recipe".into(), recipe.into()])
        },
        has_out: true,
        figures: &[("/mIoU", "linear mIoU", 100.0)],
        speed: ("/test_images_per_s", "images/s", "/matrix_flops_per_s"),
    },
    Protocol {
        name: "knn",
        options: |_, args| Ok([vec!["--no-cache".into()], args.forward(&["image-px"])].concat()),
        has_out: false,
        figures: &[("/20-NN/top1", "20-NN top-1", 100.0)],
        speed: ("/images_per_s", "images/s", "/matrix_flops_per_s"),
    },
];

/// What differs from the recipe, under a name.
#[derive(Debug, PartialEq, Eq)]
struct Variant {
    name: String,
    overrides: Vec<String>,
}

/// One row's encoder for one seed.
struct Run<'a> {
    variant: &'a str,
    seed: u64,
    dir: PathBuf,
}

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let recipe = args.value("recipe").unwrap_or(OsStr::new(DEFAULT_RECIPE));
    let recipe = train::resolve_recipe(checkout, recipe)?;
    let words: Vec<String> =
        args.values("variant").map(|word| word.to_string_lossy().into_owned()).collect();
    let variants: Vec<Variant> = if words.is_empty() {
        DEFAULT_VARIANTS.iter().map(|word| parse_variant(word)).collect::<anyhow::Result<_>>()?
    } else {
        words.iter().map(|word| parse_variant(word)).collect::<anyhow::Result<_>>()?
    };
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    if let Some(name) = repeated(&names) {
        return Err(fixable(format!(
            "two variants are called `{name}`; give each a name of its own"
        )));
    }
    let seeds = parse_seeds(&args.value("seeds").unwrap_or(OsStr::new("0,1")).to_string_lossy())?;
    let given =
        PROTOCOLS.iter().filter_map(|protocol| Some((protocol, args.value(protocol.name)?)));
    let protocols: Vec<(&Protocol, &OsStr, Vec<OsString>)> = given
        .map(|(protocol, data)| Ok((protocol, data, (protocol.options)(checkout, args)?)))
        .collect::<anyhow::Result<_>>()?;
    if protocols.is_empty() {
        return Err(fixable(
            "`cargo xtask compare` has nothing to judge by: give the folder of at least one of --davis, \
             --semantic and --knn",
        ));
    }
    for (protocol, data, _) in &protocols {
        if !Path::new(data).is_dir() {
            let data = data.to_string_lossy();
            return Err(fixable(format!(
                "`{data}` is no folder; give one for --{}",
                protocol.name
            )));
        }
    }
    let stem = recipe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let out = args
        .value("out")
        .map_or_else(|| checkout.path(Path::new("data/compare").join(&stem)), PathBuf::from);
    let at_once = match args.value("jobs").map(|text| text.to_string_lossy().parse::<usize>()) {
        None => 1,
        Some(Ok(jobs @ 1..)) => jobs,
        Some(_) => return Err(fixable("`--jobs` is the number of runs at a time, at least 1")),
    };

    super::build(checkout)?;
    let stores = train::stores_for(checkout, &recipe, args)?;
    let runs: Vec<Run> = seeds
        .iter()
        .flat_map(|&seed| variants.iter().map(move |variant| (variant, seed)))
        .map(|(variant, seed)| Run {
            variant: &variant.name,
            seed,
            dir: out.join("runs").join(format!("{}-seed-{seed}", variant.name)),
        })
        .collect();

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut training = Vec::new();
    for run in &runs {
        let variant = variants.iter().find(|variant| variant.name == run.variant);
        let mut worker = checkout.program("dora-train")?;
        worker.arg("train").arg("--recipe").arg(&recipe).args(args.forward(&["set"]));
        for value in variant.into_iter().flat_map(|variant| &variant.overrides) {
            worker.arg("--set").arg(value);
        }
        worker.arg("--set").arg(format!("train.seed={}", run.seed));
        worker.arg("--run-dir").arg(&run.dir);
        for store in &stores {
            worker.arg("--store").arg(store);
        }
        share_cores(&mut worker, cores, at_once);
        let log = run.dir.join("output.log");
        training.push(Job { name: run.name(), command: worker, log });
    }
    jobs::run(training, at_once)?;

    let mut judging = Vec::new();
    let mut answers: Vec<(String, u64, &Protocol, PathBuf)> = Vec::new();
    for (protocol, data, words) in &protocols {
        // Sizes are those of the first run; what is random is so with each seed.
        let random = seeds.iter().map(|&seed| (RANDOM, seed, &runs[0].dir));
        let trained = runs.iter().map(|run| (run.variant, run.seed, &run.dir));
        for (row, seed, dir) in random.chain(trained) {
            let file = format!("{}-seed-{seed}-{}", row.replace(' ', "-"), protocol.name);
            let answer = out.join("figures").join(format!("{file}.json"));
            answers.push((row.to_owned(), seed, *protocol, answer.clone()));
            let mut judge = checkout.program("dora-eval")?;
            judge.arg(protocol.name).arg("--checkpoint").arg(dir);
            if row == RANDOM {
                judge.arg("--random-init").arg("--seed").arg(seed.to_string());
            }
            judge.arg("--data").arg(data).args(words);
            let question = question(&judge, words, &newest_checkpoint(dir)?)?;
            let asked = answer.with_extension("question");
            if answer.exists() && fs::read_to_string(&asked).is_ok_and(|text| text == question) {
                continue;
            }
            // What an answer to another question left would be taken up.
            let judged = out.join("judged").join(&file);
            let _ = fs::remove_file(&answer);
            if protocol.has_out {
                let _ = fs::remove_dir_all(&judged);
                judge.arg("--out").arg(judged);
            }
            judge.arg("--json").arg(&answer);
            fs::create_dir_all(out.join("figures"))
                .and_then(|()| fs::write(&asked, question))
                .with_context(|| format!("cannot write `{}`", asked.display()))?;
            let name = format!("{row} seed {seed}, {}", protocol.name);
            let log = out.join("figures").join(format!("{file}.log"));
            judging.push(Job { name, command: judge, log });
        }
    }
    // One after the other: their speeds are part of the table.
    jobs::run(judging, 1)?;
    let rows: Vec<&str> =
        [RANDOM].into_iter().chain(variants.iter().map(|variant| variant.name.as_str())).collect();
    tell(&out, &rows, &answers, &runs)
}

impl Run<'_> {
    fn name(&self) -> String {
        format!("{} seed {}", self.variant, self.seed)
    }
}

/// `NAME` or `NAME:KEY=VALUE,KEY=VALUE`.
fn parse_variant(word: &str) -> anyhow::Result<Variant> {
    let (name, overrides) = word.split_once(':').unwrap_or((word, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let overrides: Vec<String> =
        overrides.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if name.is_empty() || !name.chars().all(is_name) || overrides.iter().any(|o| !o.contains('=')) {
        return Err(fixable(format!(
            "`{word}` is no variant; write NAME:KEY=VALUE,KEY=VALUE, such as dino:method.name=dino,views.views=2"
        )));
    }
    Ok(Variant { name: name.to_owned(), overrides })
}

fn parse_seeds(text: &str) -> anyhow::Result<Vec<u64>> {
    let seeds: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
    let wrong = |_| fixable(format!("`{text}` are no seeds; write whole numbers, such as 0,1"));
    let seeds = seeds.map_err(wrong)?;
    match repeated(&seeds) {
        Some(seed) => Err(fixable(format!("the seed {seed} stands twice in `{text}`"))),
        None => Ok(seeds),
    }
}

/// The first that stands twice.
fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items
        .iter()
        .enumerate()
        .find(|(index, item)| items[..*index].contains(item))
        .map(|(_, item)| item)
}

/// Gives a worker its part of the cores where several train side by side.
fn share_cores(worker: &mut Command, cores: usize, at_once: usize) {
    if at_once > 1 {
        worker.env("OMP_NUM_THREADS", (cores / at_once).max(1).to_string());
    }
}

/// What an answer depends on: the words, the texts of the files of settings among them, the checkpoint.
fn question(judge: &Command, words: &[OsString], checkpoint: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for word in judge.get_args() {
        let _ = writeln!(text, "{}", word.to_string_lossy());
    }
    for path in words.iter().map(Path::new).filter(|path| path.is_file()) {
        let settings = fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let _ = writeln!(text, "{settings}");
    }
    let _ = writeln!(text, "{checkpoint}");
    Ok(text)
}

/// Name and date of a run's newest checkpoint.
fn newest_checkpoint(run_dir: &Path) -> anyhow::Result<String> {
    let folder = run_dir.join("checkpoints");
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("cannot read `{}`", folder.display()))?
        .flatten();
    let steps = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let step: u64 = name.strip_prefix("step-")?.parse().ok()?;
        let date = entry.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((step, date.as_nanos()))
    });
    let (step, date) =
        steps.max().with_context(|| format!("`{}` holds no checkpoint", folder.display()))?;
    Ok(format!("step {step} of {date}"))
}

/// Puts the answers together, writes both tables and prints the first.
fn tell(
    out: &Path,
    rows: &[&str],
    answers: &[(String, u64, &Protocol, PathBuf)],
    runs: &[Run],
) -> anyhow::Result<()> {
    let mut columns: Vec<(&Protocol, usize)> = Vec::new();
    for (_, _, protocol, _) in answers {
        if !columns.iter().any(|(known, _)| std::ptr::eq(*known, *protocol)) {
            columns.extend((0..protocol.figures.len()).map(|figure| (*protocol, figure)));
        }
    }
    let read = |path: &Path| -> anyhow::Result<Json> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("`{}` is no JSON", path.display()))
    };
    let mut text = String::from("| encoder |");
    for (protocol, figure) in &columns {
        let _ = write!(text, " {} |", protocol.figures[*figure].1);
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
    let mut figures = serde_json::Map::new();
    let mut speeds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let _ = write!(text, "| {row} |");
        let mut cells = serde_json::Map::new();
        for (protocol, figure) in &columns {
            let (pointer, column, factor) = protocol.figures[*figure];
            let mut values = Vec::new();
            for (_, _, _, path) in
                answers.iter().filter(|(r, _, p, _)| r == row && std::ptr::eq(*p, *protocol))
            {
                let answer = read(path)?;
                let value = answer.pointer(pointer).and_then(Json::as_f64);
                let value =
                    value.with_context(|| format!("`{}` has no {pointer}", path.display()))?;
                values.push(value * factor);
                let (pointer, unit, rate) = protocol.speed;
                if let Some(rate) = answer.pointer(rate).and_then(Json::as_f64) {
                    let rates = speeds.entry("matrix products, GFLOP/s".into()).or_default();
                    rates.push(rate / 1e9);
                }
                if let Some(speed) = answer.pointer(pointer).and_then(Json::as_f64) {
                    speeds.entry(format!("{}, {unit}", protocol.name)).or_default().push(speed);
                }
            }
            let (mean, spread) = mean_and_deviation(&values);
            let _ = match spread {
                Some(spread) => write!(text, " {mean:.1} ± {spread:.1} |"),
                None => write!(text, " {mean:.1} |"),
            };
            cells.insert(
                column.into(),
                json!({ "mean": mean, "deviation": spread, "seeds": values }),
            );
        }
        text.push('\n');
        figures.insert((*row).into(), cells.into());
    }
    let seeds = answers_per_row(rows, answers);
    let _ = writeln!(text, "\nMean and standard deviation over {seeds} seeds.");
    let mut medians = serde_json::Map::new();
    for (name, mut values) in speeds {
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        let _ = writeln!(text, "{name}: {median:.1}");
        medians.insert(name, median.into());
    }
    text.push_str("\n| run | steps | median step | loss | teacher's entropy | of its mean answer | objects' IoU |\n|---|---|---|---|---|---|---|\n");
    for run in runs {
        let _ = writeln!(text, "{}", training_row(run)?);
    }
    let json = json!({ "figures": figures, "speeds": medians });
    for (name, content) in [("table.md", text.clone()), ("table.json", format!("{json:#}\n"))] {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    process::print(&text);
    say!("tables in {}", out.display());
    Ok(())
}

fn answers_per_row(rows: &[&str], answers: &[(String, u64, &Protocol, PathBuf)]) -> usize {
    let mut seeds: Vec<u64> = answers
        .iter()
        .filter(|(row, ..)| rows.first() == Some(&row.as_str()))
        .map(|a| a.1)
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds.len()
}

/// The end of a run's `metrics.jsonl`, as a row: figures are means of its last 50 steps.
fn training_row(run: &Run) -> anyhow::Result<String> {
    let path = run.dir.join("metrics.jsonl");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<Json> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = &lines[lines.len().saturating_sub(50)..];
    let mean = |key: &str| {
        let sum: f64 = last.iter().filter_map(|line| line[key].as_f64()).sum();
        sum / last.len().max(1) as f64
    };
    let mut steps_s: Vec<f64> = lines.iter().filter_map(|line| line["step_s"].as_f64()).collect();
    steps_s.sort_by(f64::total_cmp);
    let median = steps_s.get(steps_s.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(format!(
        "| {} | {} | {median:.2} s | {:.2} | {:.2} | {:.2} | {:.2} |",
        run.name(),
        lines.len(),
        mean("loss"),
        mean("teacher_entropy"),
        mean("teacher_mean_entropy"),
        mean("mask_iou"),
    ))
}

/// The sample's standard deviation, where there are at least two.
fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_and_what_differs() {
        let variant = parse_variant("dino:method.name=dino,views.views=2").unwrap();
        assert_eq!(variant.name, "dino");
        assert_eq!(variant.overrides, ["method.name=dino", "views.views=2"]);
        assert_eq!(parse_variant("plain").unwrap().overrides, Vec::<String>::new());
        for word in ["", ":a=b", "a/b", "x:novalue"] {
            assert!(parse_variant(word).is_err(), "{word}");
        }
    }

    #[test]
    fn spread_needs_two() {
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, None));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, Some(2.0_f64.sqrt())));
        assert_eq!(parse_seeds("0,12").unwrap(), [0, 12]);
        assert!(parse_seeds("a").is_err());
    }
}
