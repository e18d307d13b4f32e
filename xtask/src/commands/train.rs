//! `train`: from a recipe and videos to an encoder. The worker says what its recipe needs, videos that
//! are not ingested yet are, and then the worker runs.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::ingest::{self, STORES};
use crate::{
    args::{Args, CommandSpec, Value, flag, nearest, option},
    checkout::Checkout,
    launch::{self, Plan},
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "train",
    about: "Trains an encoder on videos; without arguments on the built-in walk",
    options: &[
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "what to train and how: one of crates/dora-train/recipes, or a file\nof your own (default: toy)",
        ),
        option(
            "video",
            Value::Text("PATH"),
            "train on this video or folder of images instead of the recipe's; may\nbe given several times",
        ),
        ingest::FPS,
        ingest::START,
        ingest::END,
        option(
            "set",
            Value::Text("KEY=VALUE"),
            "change one value of the recipe, such as train.lr=1e-3; may be given\nseveral times",
        ),
        option(
            "run-dir",
            Value::Text("DIR"),
            "where checkpoints, metrics and pictures go (default: the recipe says)",
        ),
        flag(
            "allow-changes",
            "go on although length, learning rate or the like differ from what the\nrun was started with",
        ),
        flag("fresh", "put the run aside that is there and start anew, instead of going on"),
        launch::NPROC_PER_NODE,
        launch::NNODES,
        launch::NODE_RANK,
        launch::RDZV_ENDPOINT,
        launch::RDZV_TIMEOUT,
        launch::MAX_RESTARTS,
        flag(
            "dry-run",
            "print the resolved recipe and do one step on made-up frames; ingests\nnothing",
        ),
    ],
    operands: "",
    rest: "[-- ARG...]",
    notes: "A run that was interrupted goes on when the same command is given again.\n\
            What follows `--` goes to the worker, `dora-train train`. Several workers show each line behind\n\
            their rank, and leave all of it in rank-R.log in the run's folder; docs/multi-gpu.md says more.\n\n\
            examples:\n  \
              cargo xtask train\n  \
              cargo xtask train --video walk.mp4 --set \"train.length=2000 steps\"\n  \
              cargo xtask train --video walk.mp4 --nproc-per-node gpu --max-restarts 3",
    run,
};

/// Where the recipes lie, in the checkout.
const RECIPES: &str = "crates/dora-train/recipes";

const DEFAULT_RECIPE: &str = "toy";

/// The name by which a recipe asks for the built-in walk.
const TOY_WALK: &str = "toy-walk";

/// What the worker says a recipe needs, one line of JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    videos: Vec<String>,
    short_side_px: u64,
    jpeg_quality: u64,
    run_dir: PathBuf,
    /// The encoder's size by name, and its patch.
    pub(super) arch: String,
    pub(super) patch_px: u64,
}

/// The whole of `cargo xtask train`.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let recipe =
        resolve_recipe(checkout, args.value("recipe").unwrap_or(OsStr::new(DEFAULT_RECIPE)))?;
    for video in args.values("video").filter(|video| *video != TOY_WALK) {
        ingest::check_exists(Path::new(video))?;
    }
    let plan = Plan::read(args)?;
    let dry_run = args.has("dry-run");
    if dry_run && plan != Plan::ALONE {
        return Err(fixable(
            "`--dry-run` tries one process once: leave out the options for several and --max-restarts",
        ));
    }
    super::ensure(checkout)?;
    checkout.build()?;

    let mut worker = checkout.program("dora-train")?;
    worker.arg("train").arg("--recipe").arg(&recipe);
    worker.args(args.forward(&["set", "dry-run"]));
    if dry_run {
        worker.args(args.forward(&["run-dir"])).args(&args.rest);
        return process::run(&worker);
    }
    let needs = ask_for_needs(checkout, &recipe, args, &[])?;
    let run_dir = args.value("run-dir").map_or_else(|| needs.run_dir.clone(), PathBuf::from);
    for store in ingest_videos(checkout, &needs, args.forward(&["fps", "start", "end"]))? {
        worker.arg("--store").arg(store);
    }
    worker.arg("--run-dir").arg(&run_dir).args(args.forward(&["allow-changes"])).args(&args.rest);
    if args.has("fresh") && plan.is_first_node() {
        let mut put_aside = checkout.program("dora-train")?;
        process::run(put_aside.arg("put-aside").arg("--run-dir").arg(&run_dir))?;
    }
    launch::train(&worker, &plan, &run_dir)
}

/// Has the worker check a recipe with what `args` and `overrides` say over it.
pub(super) fn ask_for_needs(
    checkout: &Checkout,
    recipe: &Path,
    args: &Args,
    overrides: &[String],
) -> anyhow::Result<Needs> {
    let mut check = checkout.program("dora-train")?;
    check.arg("check").arg("--recipe").arg(recipe);
    check.args(args.forward(&["set"]));
    for value in overrides {
        check.arg("--set").arg(value);
    }
    check.args(args.forward(&["video"]));
    let output = process::run_for_output(&check)?;
    let mut needs = parse_needs(&output)
        .with_context(|| format!("`dora-train check` answered `{}`", output.trim()))?;
    // What the user says is relative to where the user stands; what a recipe says, to the checkout.
    needs.run_dir = checkout.path(&needs.run_dir);
    if !args.has("video") {
        for video in needs.videos.iter_mut().filter(|video| *video != TOY_WALK) {
            *video = checkout.path(&video).to_string_lossy().into_owned();
        }
    }
    Ok(needs)
}

impl Needs {
    /// Whether both are met by the same frame stores.
    pub(super) fn has_frames_of(&self, other: &Self) -> bool {
        (&self.videos, self.short_side_px, self.jpeg_quality)
            == (&other.videos, other.short_side_px, other.jpeg_quality)
    }
}

/// Sees to it that every video needed has a frame store; gives the stores, in order.
pub(super) fn ingest_videos(
    checkout: &Checkout,
    needs: &Needs,
    options: Vec<OsString>,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut videos = Vec::new();
    for video in &needs.videos {
        videos.push(if video == TOY_WALK { ingest::toy_walk(checkout)? } else { video.into() });
    }
    let mut ingest = ingest::ingest_into(checkout, &checkout.path(STORES))?;
    ingest.args(["--short-side", &needs.short_side_px.to_string()]);
    ingest.args(["--quality", &needs.jpeg_quality.to_string()]);
    ingest.args(options);
    ingest::stores_of(ingest, &videos)
}

/// The file of a recipe to train by: a name from the repository's own, or a path.
pub(super) fn resolve_recipe(checkout: &Checkout, wanted: &OsStr) -> anyhow::Result<PathBuf> {
    resolve_recipe_in(checkout, Path::new(RECIPES), wanted)
}

/// The file of a recipe: the name of one in `folder`, in the checkout, or a path.
pub(super) fn resolve_recipe_in(
    checkout: &Checkout,
    folder: &Path,
    wanted: &OsStr,
) -> anyhow::Result<PathBuf> {
    let path = Path::new(wanted);
    let text = wanted.to_string_lossy();
    if !text.contains('/') {
        let named = checkout.path(folder.join(format!("{text}.toml")));
        if named.is_file() {
            return Ok(named);
        }
    }
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    let known = recipe_names(&checkout.root().join(folder));
    let hint = nearest(&text, known.iter().map(String::as_str))
        .map(|name| format!("did you mean `{name}`? "))
        .unwrap_or_default();
    Err(fixable(format!(
        "there is no recipe `{text}`; {hint}give one of {}, or the path of a TOML file",
        known.join(", ")
    )))
}

fn recipe_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

fn parse_needs(output: &str) -> anyhow::Result<Needs> {
    let line = output.lines().rfind(|line| !line.trim().is_empty());
    let json: serde_json::Value = serde_json::from_str(line.context("it printed nothing")?)?;
    let number = |key: &str| json[key].as_u64().with_context(|| format!("no number `{key}`"));
    let text = |key: &str| json[key].as_str().with_context(|| format!("no text `{key}`"));
    let videos = json["videos"].as_array().context("no list `videos`")?;
    let videos: Option<Vec<String>> =
        videos.iter().map(|video| video.as_str().map(str::to_owned)).collect();
    Ok(Needs {
        videos: videos.context("`videos` holds something else than text")?,
        short_side_px: number("short_side_px")?,
        jpeg_quality: number("jpeg_quality")?,
        run_dir: text("run_dir")?.into(),
        arch: text("arch")?.to_owned(),
        patch_px: number("patch_px")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn a_recipe_is_a_known_name_or_a_file() {
        let folder = Folder::new("train-recipes");
        folder.write("crates/dora-train/recipes/toy.toml", "");
        folder.write("crates/dora-train/recipes/vit-s-one-walk.toml", "");
        folder.write("mine.toml", "");
        let checkout = Checkout::at(folder.path());
        let resolve = |wanted: &str| resolve_recipe(&checkout, OsStr::new(wanted));
        let toy = folder.path().join("crates/dora-train/recipes/toy.toml");
        assert_eq!(resolve("toy").unwrap(), toy);
        let mine = folder.path().join("mine.toml");
        assert_eq!(resolve(mine.to_str().unwrap()).unwrap(), mine);
        let message = resolve("tyo").unwrap_err().to_string();
        assert_eq!(
            message,
            "there is no recipe `tyo`; did you mean `toy`? give one of toy, vit-s-one-walk, or the path of a \
             TOML file"
        );
        assert!(resolve("toy.toml").is_err());
    }

    #[test]
    fn the_needs_are_the_last_line() {
        let needs = parse_needs(
            "a word\n{\"videos\":[\"toy-walk\",\"a b.mp4\"],\"short_side_px\":576,\"jpeg_quality\":90,\"run_dir\":\"runs/toy\",\"arch\":\"vit_tiny\",\"patch_px\":16}\n\n",
        )
        .unwrap();
        let expected = Needs {
            videos: vec!["toy-walk".to_owned(), "a b.mp4".to_owned()],
            short_side_px: 576,
            jpeg_quality: 90,
            run_dir: PathBuf::from("runs/toy"),
            arch: "vit_tiny".to_owned(),
            patch_px: 16,
        };
        assert_eq!(needs, expected);
        for text in ["", "{}", "[1]", "{\"videos\":[1],\"short_side_px\":1}"] {
            assert!(parse_needs(text).is_err(), "{text}");
        }
    }
}
