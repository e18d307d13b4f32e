//! `gpu-kit`: a folder that tests and measures a machine which has a GPU, its driver and Python's PyTorch,
//! and nothing of this project.
//!
//! `run.sh` and the Python beside it are what runs there; docs/gpu-kit.md is for users.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use serde_json::{Value as Json, json};

use super::ingest;
use crate::{
    args::{Args, CommandSpec, Value, option},
    checkout::{CUDA, Checkout},
    process::{self, fixable, say},
    setup,
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "gpu-kit",
    about: "Packs what tests and measures a bare machine with a GPU",
    options: &[
        option(
            "video",
            Value::Text("PATH"),
            "train on this video there (default: the toy walk); may be given\nseveral times",
        ),
        ingest::START,
        ingest::END,
        option("out", Value::Text("DIR"), "the folder to make (default: data/gpu-kit)"),
    ],
    operands: "",
    rest: "",
    notes: "Copy the folder to a machine with an NVIDIA driver and Python's PyTorch 2.11, and start run.sh in\n\
            it: eight minutes later tables, a profile and a trained encoder lie in gpu-kit-results. A minute of\n\
            video takes about 15 MB of the kit's 60 MiB; --start and --end choose it. docs/gpu-kit.md says more.",
    run,
};

/// Where a kit goes, in the checkout.
const OUT: &str = "data/gpu-kit";

/// The file that says that a folder is a kit, and what of.
const KIT_FILE: &str = "kit.json";

/// The most that a kit may take.
const MOST_BYTES: u64 = 60 << 20;

/// Lines and frames a second of its frame stores: small, and clips as training takes them.
const STORE: &[&str] = &["--short-side", "300", "--store-fps", "6"];

/// What runs in the kit.
const SCRIPTS: [(&str, &str, u32); 7] = [
    ("run.sh", include_str!("run.sh"), 0o755),
    ("run.py", include_str!("run.py"), 0o644),
    ("kit.py", include_str!("kit.py"), 0o644),
    ("parts.py", include_str!("parts.py"), 0o644),
    ("peers.py", include_str!("peers.py"), 0o644),
    ("encoder.py", include_str!("encoder.py"), 0o644),
    ("report.py", include_str!("report.py"), 0o644),
];

/// What is measured beside ours, next to the checkout where there is one.
const PEERS: &str = "../shared/peer";

/// The whole of `cargo xtask gpu-kit`.
pub(super) fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let videos: Vec<OsString> = args.values("video").map(OsStr::to_owned).collect();
    for video in &videos {
        ingest::check_exists(Path::new(video))?;
    }
    let out = args.value("out").map_or_else(|| checkout.path(OUT), PathBuf::from);
    make_room(&out)?;

    super::build(checkout)?;
    let videos = if videos.is_empty() { vec![ingest::toy_walk(checkout)?] } else { videos };
    // Before the programs are built with CUDA, which are others.
    let mut ingest = ingest::ingest_into(checkout, &out.join("stores"))?;
    ingest.args(STORE).args(args.forward(&["start", "end"]));
    ingest::stores_of(ingest, &videos)?;
    for (name, program) in build(checkout)? {
        strip(&program, &out.join("bin").join(name))?;
    }
    copy_files(&checkout.root().join("tests/golden"), "safetensors", &out.join("golden"))?;
    let peers = checkout.root().join(PEERS);
    if peers.is_dir() {
        copy_files(&peers, "py", &out.join("peer"))?;
    } else {
        say!("the kit goes without the peers in PyTorch: there is no {}", peers.display());
    }
    for (name, text, mode) in SCRIPTS {
        let path = out.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_kit_file(checkout, &videos, &out)?;
    let bytes = check_size(&out)?;
    say!("packed {} ({:.1} MiB); copy it and start run.sh in it", out.display(), mebibytes(bytes));
    Ok(())
}

/// An empty folder at `out`: an older kit there goes, and nothing else does.
fn make_room(out: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot make the folder {}", out.display());
    if out.join(KIT_FILE).exists() {
        fs::remove_dir_all(out).with_context(context)?;
    }
    fs::create_dir_all(out).with_context(context)?;
    if fs::read_dir(out).with_context(context)?.next().is_some() {
        return Err(fixable(format!(
            "{} holds something else than a kit; give --out another folder, or remove it",
            out.display()
        )));
    }
    // From here on it is one, finished or not.
    fs::write(out.join(KIT_FILE), "{}\n").with_context(context)
}

/// Builds worker and tests with NCCL; gives their names and paths. They link with libtorch's CUDA half alone,
/// so that NVIDIA's own libraries need not be here.
fn build(checkout: &Checkout) -> anyhow::Result<[(&'static str, PathBuf); 2]> {
    let mut features = checkout.features();
    if features.is_empty() {
        setup::ensure_cuda_headers()?;
        features = CUDA;
        say!("building with the feature `cuda`; the first time takes minutes");
    }
    let mut cargo = checkout.cargo();
    cargo.arg("build").arg("--manifest-path").arg(checkout.root().join("Cargo.toml"));
    // All packages, though two targets are built, so that they are the ones of every other build.
    cargo.args(["--workspace", "--bin", "dora-train", "--test", "tests"]).args(features);
    let messages = process::run_for_output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let executable =
        |name| executable(&messages, name).with_context(|| format!("cargo built no `{name}`"));
    Ok([("dora-train", executable("dora-train")?), ("tests", executable("tests")?)])
}

/// The program of a target, from cargo's messages.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let programs = artifacts.filter(|message| message["target"]["name"] == target);
    programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

/// Copies a program without its symbols.
fn strip(program: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().context("a file in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    process::run(Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(program))
}

/// Copies the files of a folder that end in `extension`, of which there is at least one.
fn copy_files(from: &Path, extension: &str, to: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(context)?;
    let mut copied = 0;
    for entry in fs::read_dir(from).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.extension().is_some_and(|other| other == extension) {
            let name = path.file_name().unwrap_or_default();
            fs::copy(&path, to.join(name)).with_context(context)?;
            copied += 1;
        }
    }
    anyhow::ensure!(copied > 0, "{} holds no .{extension} file", from.display());
    Ok(())
}

fn write_kit_file(checkout: &Checkout, videos: &[OsString], out: &Path) -> anyhow::Result<()> {
    let root = checkout.root().to_string_lossy();
    let commit = process::first_line("git", &["-C", &root, "rev-parse", "--short=12", "HEAD"]);
    let videos: Vec<_> = videos.iter().filter_map(|video| Path::new(video).file_name()).collect();
    let kit = json!({
        "commit": commit.unwrap_or_else(|| "unknown".to_owned()),
        "made": process::first_line("date", &["+%Y-%m-%d"]),
        "videos": videos.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>(),
    });
    let path = out.join(KIT_FILE);
    fs::write(&path, format!("{kit:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The size of a kit.
///
/// # Errors
/// It is more than a kit may take.
fn check_size(out: &Path) -> anyhow::Result<u64> {
    let (whole, stores) = (bytes_in(out)?, bytes_in(&out.join("stores"))?);
    if whole <= MOST_BYTES {
        return Ok(whole);
    }
    Err(fixable(format!(
        "the kit in {} takes {:.1} MiB, {:.1} of them frames, and {:.0} are the most: choose a shorter \
         stretch of the video with --start and --end",
        out.display(),
        mebibytes(whole),
        mebibytes(stores),
        mebibytes(MOST_BYTES)
    )))
}

fn bytes_in(folder: &Path) -> anyhow::Result<u64> {
    let context = || format!("cannot read {}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let data = entry.metadata().with_context(context)?;
        bytes += if data.is_dir() { bytes_in(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn only_a_kit_makes_room_for_a_kit() {
        let folder = Folder::new("gpu-kit-room");
        let out = folder.path().join("kit");
        make_room(&out).unwrap();
        folder.write("kit/bin/dora-train", "old");
        make_room(&out).unwrap();
        assert!(!out.join("bin").exists());
        fs::remove_file(out.join(KIT_FILE)).unwrap();
        folder.write("kit/notes.txt", "mine");
        let message = make_room(&out).unwrap_err().to_string();
        assert!(message.contains("holds something else than a kit"), "{message}");
        assert!(out.join("notes.txt").exists());
    }

    #[test]
    fn a_kit_that_is_too_large_says_what_takes_the_room() {
        let folder = Folder::new("gpu-kit-size");
        folder.write("stores/walk.store/header", "12345");
        folder.write("run.sh", "123");
        assert_eq!(check_size(folder.path()).unwrap(), 8);
        let shard = fs::File::create(folder.path().join("stores/walk.store/shard")).unwrap();
        shard.set_len(MOST_BYTES - (1 << 20)).unwrap();
        fs::File::create(folder.path().join("golden")).unwrap().set_len(2 << 20).unwrap();
        let message = check_size(folder.path()).unwrap_err().to_string();
        assert!(message.contains("takes 61.0 MiB, 59.0 of them frames, and 60 are"), "{message}");
        assert!(message.contains("--start and --end"), "{message}");
    }

    #[test]
    fn the_program_of_a_target_is_the_one_that_cargo_names() {
        let messages = "not json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tests\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tests\"},\"executable\":\"/t/tests-1\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages, "tests"), Some(PathBuf::from("/t/tests-1")));
        assert_eq!(executable(messages, "dora-train"), None);
    }

    #[test]
    fn files_of_a_kind_are_copied_and_must_be_there() {
        let folder = Folder::new("gpu-kit-copy");
        folder.write("from/a.py", "a");
        folder.write("from/b.md", "b");
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        copy_files(&from, "py", &to).unwrap();
        assert!(to.join("a.py").exists() && !to.join("b.md").exists());
        let message = copy_files(&from, "safetensors", &to).unwrap_err().to_string();
        assert!(message.contains("holds no .safetensors file"), "{message}");
    }
}
