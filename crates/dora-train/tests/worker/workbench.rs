//! Tiny runs of the real binary, and what to look for afterwards.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use dora_store::{IngestOptions, Report, Source, StoreHeader, StoreWriter};
use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use tempfile::TempDir;

/// A run of seconds: the smallest encoder on tiny views.
const RECIPE: &str = r#"
[model]
arch = "vit_tiny"
image_px = 32
out_dim = 32
hidden_dim = 16
bottleneck_dim = 8

[clip]
frames_per_clip = 2
clip_stride_s = 0.2

[crop]
px = 48

[views]
global_px = 32
local_px = 16
local_crops = 2

[train]
length = "10 steps"
clips = 2
lr_warmup = "3 steps"
freeze_last_layer = "2 steps"
precision = "float32"
device = "cpu"

[output]
checkpoint_every = "5 steps"
keep_every = "1000 steps"
tracks_every = "5 steps"
"#;

pub(crate) struct Workbench {
    folder: TempDir,
}

impl Workbench {
    pub(crate) fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        fs::write(bench.path("recipe.toml"), RECIPE).unwrap();
        bench.add_store("walk.store", 45);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A store of a moving square, 25 frames a second.
    pub(crate) fn add_store(&self, name: &str, frames: u32) {
        self.add_store_of(Source { name: name.into(), files: 1, size_bytes: 1, digest: 1 }, frames);
    }

    pub(crate) fn add_store_of(&self, source: Source, frames: u32) {
        let store = self.path(&source.name);
        let header = StoreHeader {
            source,
            options: IngestOptions {
                short_side_px: 64,
                jpeg_quality: 90,
                start_s: None,
                end_s: None,
                ..IngestOptions::default()
            },
            width_px: 96,
            height_px: 64,
        };
        let (mut writer, _) = StoreWriter::create_or_resume(&store, &header).unwrap();
        for frame in 0..frames {
            let image = RgbImage::from_fn(96, 64, |x, y| {
                let on_square = (frame..frame + 20).contains(&x) && (20..40).contains(&y);
                if on_square { Rgb([220, 60, 30]) } else { Rgb([x as u8 * 2, y as u8 * 3, 90]) }
            });
            let mut jpeg = Vec::new();
            JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&image).unwrap();
            writer.push(i64::from(frame) * 40_000, frame.into(), &jpeg).unwrap();
        }
        writer.finish(Report::default()).unwrap();
    }

    pub(crate) fn command(&self, run: &str, set: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.arg("train").arg("--recipe").arg(self.path("recipe.toml"));
        command.arg("--store").arg(self.path("walk.store"));
        command.arg("--run-dir").arg(self.path(run));
        // Tests run side by side; threads of several runs on one core wait for one another.
        command.env("OMP_NUM_THREADS", "1");
        for text in set {
            command.arg("--set").arg(text);
        }
        command
    }

    /// The same command on another store.
    pub(crate) fn with_store(&self, command: &Command, store: &str) -> Command {
        let mut other = Command::new(command.get_program());
        let (old, new) = (self.path("walk.store"), self.path(store));
        other.args(command.get_args().map(|arg| if arg == old { new.as_os_str() } else { arg }));
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other
    }

    /// Changes a byte of a frame of a store.
    pub(crate) fn damage(&self, store: &str) {
        let shard = fs::read_dir(self.path(store))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "jpgs"))
            .unwrap();
        let mut bytes = fs::read(&shard).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&shard, bytes).unwrap();
    }

    pub(crate) fn train(&self, run: &str, set: &[&str]) -> Output {
        self.command(run, set).output().unwrap()
    }

    /// Starts a run and waits until `file` of it is there.
    pub(crate) fn start_until(&self, run: &str, set: &[&str], file: &str) -> Child {
        let mut child = self.command(run, set).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.path(run).join(file).exists() {
            assert!(Instant::now() < deadline, "{file} of {run} never came");
            assert!(child.try_wait().unwrap().is_none(), "{run} ended before {file} came");
            sleep(Duration::from_millis(5));
        }
        child
    }

    /// Starts the ranks of a run as a launcher would, each with what it says in a file of its own;
    /// `change` may alter a rank's command.
    pub(crate) fn start_ranks(
        &self,
        run: &str,
        world_size: usize,
        set: &[&str],
        change: impl Fn(usize, &mut Command),
    ) -> Ranks {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = |rank: usize| {
            let mut command = self.command(run, set);
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            command.env("WORLD_SIZE", world_size.to_string());
            command.env("LOCAL_WORLD_SIZE", world_size.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            change(rank, &mut command);
            let log = File::create(self.path(&format!("rank-{rank}.log"))).unwrap();
            command.stderr(log).spawn().unwrap()
        };
        let children = (0..world_size).map(start).collect();
        Ranks { children, logs: self.folder.path().to_owned() }
    }

    /// Whether a checkpoint of a run is half written.
    pub(crate) fn is_saving(&self, run: &str) -> bool {
        let entries = fs::read_dir(self.path(run).join("checkpoints")).into_iter().flatten();
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
    }

    pub(crate) fn checkpoints(&self, run: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(run).join("checkpoints")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Files for TensorBoard, the newest last.
    pub(crate) fn event_files(&self, run: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(run).join("tensorboard")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Fails unless two runs ended with the same bytes and went through the same losses.
    pub(crate) fn assert_same_end(&self, one: &str, other: &str) {
        for file in ["student", "teacher", "training"] {
            let read = |run: &str| {
                let path = format!("{run}/checkpoints/step-10/{file}.safetensors");
                fs::read(self.path(&path)).unwrap()
            };
            assert!(read(one) == read(other), "{file} of {one} and {other} differ");
        }
        let losses = |run: &str| -> Vec<(u64, String)> {
            let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
            let lines = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                (line["step"].as_u64().unwrap(), line["loss"].to_string())
            });
            lines.collect()
        };
        assert_eq!(losses(one), losses(other));
        assert_eq!(losses(one).len(), 10);
    }
}

/// The processes of one run.
pub(crate) struct Ranks {
    pub(crate) children: Vec<Child>,
    logs: PathBuf,
}

impl Ranks {
    /// Waits for all; fails if one takes longer than `limit_s`. Gives each one's status (128 + n after
    /// signal n) and words.
    #[track_caller]
    pub(crate) fn wait(mut self, limit_s: u64) -> Vec<(i32, String)> {
        let deadline = Instant::now() + Duration::from_secs(limit_s);
        let mut ends = Vec::new();
        for rank in 0..self.children.len() {
            let status = loop {
                if let Some(status) = self.children[rank].try_wait().unwrap() {
                    break status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
                }
                if Instant::now() > deadline {
                    self.kill();
                    panic!("rank {rank} still runs after {limit_s} s: {}", self.words(rank));
                }
                sleep(Duration::from_millis(5));
            };
            ends.push((status, self.words(rank)));
        }
        ends
    }

    /// Waits until `path` is there while all run.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !path.exists() {
            assert!(Instant::now() < deadline, "{} never came", path.display());
            for rank in 0..self.children.len() {
                let ended = self.children[rank].try_wait().unwrap();
                assert!(ended.is_none(), "rank {rank} ended: {}", self.words(rank));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to one rank.
    pub(crate) fn signal(&self, rank: usize, signal: &str) {
        let pid = self.children[rank].id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn kill(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
        }
    }

    fn words(&self, rank: usize) -> String {
        fs::read_to_string(self.logs.join(format!("rank-{rank}.log"))).unwrap_or_default()
    }
}

/// A disk at `small` that has room for one checkpoint of the workbench's encoder, 87 MB, and no more.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with the reason told, where this process may not mount one.
    pub(crate) fn new(bench: &Workbench) -> Option<Self> {
        let disk = Self(bench.path("small"));
        fs::create_dir(&disk.0).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=140m", "tmpfs"]).arg(&disk.0);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(disk);
        }
        println!("skipped: mounting a small file system needs rights that this process lacks");
        None
    }

    pub(crate) fn take_away(self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[track_caller]
pub(crate) fn assert_trained(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}
