//! `bench`: how fast this machine does what training takes. Each subject has options of its own and
//! a program that measures it.

use std::path::PathBuf;

use super::{ingest, subject::Subject, train};
use crate::{
    args::{Args, CommandSpec, Value, flag, option},
    checkout::Checkout,
    process::{self, fixable, say},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "bench",
    about: "Measures how fast this machine trains, feeds training, ingests video, or judges",
    options: &[
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "step: take it from a recipe (default: ViT-S/16 with 65536\nprototypes, one clip, float32)",
        ),
        option("arch", Value::Text("ARCH"), "step: vit_tiny, vit_small or vit_base"),
        option(
            "precision",
            Value::Text("P"),
            "step: float32, bfloat16 (bf16), float16 (fp16), or auto: what suits the\ndevice",
        ),
        option("clips", Value::Count("N"), "step: clips in a batch"),
        option(
            "set",
            Value::Text("KEY=VALUE"),
            "step: change one value of the recipe; may be given several times",
        ),
        option(
            "compare",
            Value::Text("KEY=VALUE,..."),
            "step: measure a second setting, with these values changed, beside\nthe first: their steps take turns",
        ),
        option(
            "steps",
            Value::Count("N"),
            "step: how many to time (default: as many as half a minute takes, at\nleast 3)",
        ),
        flag(
            "with-loader",
            "step: also take steps with batches from a frame store, as training\ndoes, by turns with those on synthetic frames",
        ),
        option(
            "profile",
            Value::Text("DIR"),
            "step: write a profile of two steps there: a trace for Chrome or\nPerfetto, and its sums by kernel",
        ),
        option(
            "store",
            Value::Text("DIR"),
            "loader, step --with-loader: read this frame store (default: the toy\nwalk at 1024x576, which is rendered into data/bench the first time)",
        ),
        option(
            "threads",
            Value::Text("N,..."),
            "loader: numbers of threads, one after the other (default: 1,2)",
        ),
        option(
            "seconds",
            Value::Count("S"),
            "loader: how long for each (default: 10)\ningest: how long a video (default: 10 for each core)",
        ),
        option(
            "video",
            Value::Text("FILE"),
            "ingest: scale this one to 4K and repeat it (default: the toy walk)",
        ),
        option(
            "rounds",
            Value::Count("N"),
            "ingest, propagation: how often to measure; medians count (default: 3\nand 9)",
        ),
        option(
            "short-side",
            Value::Count("PX"),
            "propagation: short side of the frames (default: 480)",
        ),
        option("device", Value::Text("D"), "propagation: auto, cpu or cuda (default: auto)"),
    ],
    operands: "SUBJECT",
    rest: "",
    notes: "`step` takes whole training steps on synthetic frames and compares them with the rate at\n\
            which the device multiplies matrices. docs/speed.md says what is counted.\n\
            `loader` decodes, crops and augments clips of a frame store beside bare decodes of the same\n\
            frames. docs/feed.md says more.\n\
            `ingest` makes a 4K video of 60 frames/s and stores it, beside what the ffmpeg program needs to\n\
            decode it, and to make JPEG files of it.\n\
            `propagation` follows labels from frame to frame as `eval-segmentation --task davis` does, beside\n\
            the comparison of all patches with all.\n\n\
            examples:\n  \
              cargo xtask bench step\n  \
              cargo xtask bench step --compare train.precision=bfloat16\n  \
              cargo xtask bench step --with-loader --store data/stores/walk.store\n  \
              cargo xtask bench loader --store data/stores/walk.store --json loader.json\n  \
              cargo xtask bench ingest --video walk.mp4",
    run,
};

/// What can be measured. All have `--json`.
const SUBJECTS: &[Subject] = &[
    Subject {
        name: "step",
        options: &[
            "recipe",
            "arch",
            "precision",
            "clips",
            "set",
            "compare",
            "steps",
            "with-loader",
            "store",
            "profile",
        ],
        run: bench_step,
    },
    Subject { name: "loader", options: &["store", "threads", "seconds"], run: bench_loader },
    Subject { name: "ingest", options: &["video", "seconds", "rounds"], run: bench_ingest },
    Subject {
        name: "propagation",
        options: &["short-side", "rounds", "device"],
        run: bench_propagation,
    },
];

/// The walk at the size of a real store, and as short as clips of 8 s need.
const WALK: &[&str] = &["--width", "1024", "--height", "576", "--seconds", "10", "--fps", "12"];

/// Where what is made for measuring lies, in the checkout.
const WORK_DIR: &str = "data/bench";

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let words: Vec<_> = args.operands.iter().map(|word| word.to_string_lossy()).collect();
    let subject = subject(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    check_options(subject, args)?;
    (subject.run)(checkout, subject, args)
}

fn bench_step(checkout: &Checkout, subject: &Subject, args: &Args) -> anyhow::Result<()> {
    let recipe =
        args.value("recipe").map(|name| train::resolve_recipe(checkout, name)).transpose()?;
    let with_loader = args.has("with-loader");
    if args.has("store") && !with_loader {
        return Err(fixable(
            "`--store` of `bench step` goes with `--with-loader`; add it".to_owned(),
        ));
    }
    let store = given_store(args)?;
    super::build(checkout)?;
    let mut bench = checkout.program("dora-train")?;
    bench.args(["bench", subject.name]);
    if let Some(recipe) = recipe {
        bench.arg("--recipe").arg(recipe);
    }
    if with_loader {
        bench.arg("--store").arg(store.map_or_else(|| walk_store(checkout), Ok)?);
    }
    process::run(bench.args(args.forward(&forwarded(subject, &["recipe", "store"]))))
}

fn bench_loader(checkout: &Checkout, subject: &Subject, args: &Args) -> anyhow::Result<()> {
    let store = given_store(args)?;
    super::build(checkout)?;
    let store = store.map_or_else(|| walk_store(checkout), Ok)?;
    let mut bench = checkout.program("dora-data")?;
    bench.args(["bench", subject.name]).arg("--store").arg(store);
    process::run(bench.args(args.forward(&forwarded(subject, &["store"]))))
}

fn bench_ingest(checkout: &Checkout, subject: &Subject, args: &Args) -> anyhow::Result<()> {
    let video = args.value("video").map(PathBuf::from);
    if let Some(video) = &video {
        ingest::check_exists(video)?;
    }
    super::build(checkout)?;
    let video = match video {
        Some(video) => video,
        None => {
            let walk = checkout.path(ingest::TOY_WALK_DIR);
            let made = process::run_for_output(&ingest::toy_walk_into(checkout, &walk)?)?;
            PathBuf::from(made.trim_end())
        }
    };
    let mut bench = checkout.program("dora-ingest")?;
    bench.arg("bench").arg("--work").arg(checkout.path(WORK_DIR)).arg("--video").arg(video);
    process::run(bench.args(args.forward(&forwarded(subject, &["video"]))))
}

fn bench_propagation(checkout: &Checkout, subject: &Subject, args: &Args) -> anyhow::Result<()> {
    super::build(checkout)?;
    let mut bench = checkout.program("dora-eval")?;
    let options = subject.options.iter().copied().chain(["json"]).collect::<Vec<_>>();
    process::run(bench.arg("bench-propagation").args(args.forward(&options)))
}

/// The store of the walk to measure with, rendered and ingested the first time.
fn walk_store(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    let folder = checkout.path(WORK_DIR);
    let mut render = ingest::toy_walk_into(checkout, &folder.join("toy-walk"))?;
    let video = process::run_for_output(render.args(WALK))?;
    let mut ingest = ingest::ingest_into(checkout, &folder.join("stores"))?;
    let store = process::run_for_output(ingest.arg("--").arg(video.trim_end()))?;
    say!("measuring with {}", store.trim_end());
    Ok(PathBuf::from(store.trim_end()))
}

/// The frame store that is named, once it is known to be one.
fn given_store(args: &Args) -> anyhow::Result<Option<PathBuf>> {
    let store = args.value("store").map(PathBuf::from);
    store.iter().try_for_each(|store| ingest::check_store(store))?;
    Ok(store)
}

/// What a program understands as it stands: all but the options that are resolved here.
fn forwarded(subject: &Subject, resolved: &[&str]) -> Vec<&'static str> {
    let others = subject.options.iter().copied().filter(|name| !resolved.contains(name));
    others.chain(["json"]).collect()
}

/// Refuses what belongs to another subject.
fn check_options(subject: &Subject, args: &Args) -> anyhow::Result<()> {
    match subject.foreign_option(SUBJECTS, args) {
        None => Ok(()),
        Some((other, option)) => Err(fixable(format!(
            "`--{option}` is an option of `cargo xtask bench {other}`, not of `bench {}`; \
             leave it out",
            subject.name
        ))),
    }
}

/// The one thing to measure.
fn subject(words: &[&str]) -> anyhow::Result<&'static Subject> {
    let known = SUBJECTS.iter().map(|subject| subject.name).collect::<Vec<_>>().join(", ");
    let &[word] = words else {
        let given = words.len();
        return Err(fixable(format!(
            "`cargo xtask bench` measures one thing at a time, and {given} were given: name one of {known}"
        )));
    };
    Subject::find(SUBJECTS, word).map_err(|hint| {
        let hint = hint.unwrap_or_else(|| format!("name one of {known}"));
        fixable(format!("`cargo xtask bench` cannot measure `{word}`; {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_subject_is_measured() {
        assert_eq!(subject(&["step"]).unwrap().name, "step");
        assert_eq!(subject(&["loader"]).unwrap().name, "loader");
        for (words, expected) in [
            (&[][..], "0 were given: name one of step, loader, ingest, propagation"),
            (&["step", "step"], "2 were given"),
            (&["stpe"], "did you mean `step`?"),
            (&["everything"], "cannot measure `everything`; name one of step"),
        ] {
            let message = subject(words).err().unwrap().to_string();
            assert!(message.contains(expected), "{words:?}: {message}");
        }
    }

    #[test]
    fn an_option_of_another_subject_is_refused() {
        let args = Args::with(vec![("arch", "vit_tiny".into()), ("json", "a.json".into())]);
        assert!(check_options(subject(&["step"]).unwrap(), &args).is_ok());
        let message = check_options(subject(&["loader"]).unwrap(), &args).unwrap_err().to_string();
        assert!(
            message.starts_with("`--arch` is an option of `cargo xtask bench step`"),
            "{message}"
        );
    }

    #[test]
    fn every_option_belongs_to_a_subject() {
        for option in COMMAND.options.iter().filter(|option| option.name != "json") {
            let owners = SUBJECTS.iter().filter(|subject| subject.options.contains(&option.name));
            assert!(owners.count() > 0, "--{}", option.name);
        }
    }
}
