//! The world of stand-ins.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// SHA-256 of "abc" in base64url, as wheels write it.
const ABC: &str = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";

/// Stands in for pip: unpacks a libtorch of a few bytes. Breaks off where the file `break-off` lies.
const PYTHON: &str = r#"PATH=/usr/bin:/bin
case "$*" in "-m yt_dlp --version") cat "$PYTHONPATH/yt_dlp/version"; exit;; esac
case "$*" in *--version) echo "pip 24.0 from /x (python 3.11)"; exit;; esac
echo "$*" >>"$WORLD/pip.log"
while [ "$1" != --target ]; do shift; done
site=$2
case "$*" in *yt-dlp*)
  if [ -e "$WORLD/no-network" ]; then echo "ERROR: no network" >&2; exit 1; fi
  mkdir -p $site/yt_dlp; date +%s%N >$site/yt_dlp/version; exit;;
*timm==*)
  mkdir -p $site/torch $site/timm $site/tensorboard $site/torch-2.11.0.dist-info
  for part in torch timm tensorboard; do
    printf abc >$site/$part/__init__.py
    printf abc >$site/$part/_C.so
    echo "$part/_C.so,sha256=SUM,3"
  done >$site/torch-2.11.0.dist-info/RECORD
  exit;;
*torch==*) ;; *)
  mkdir -p $site/nvidia/nccl/include $site/nvidia/nccl/lib $site/nvidia_nccl.dist-info
  for file in include/nccl.h lib/libnccl.so.2; do
    printf abc >$site/nvidia/nccl/$file
    echo "nvidia/nccl/$file,sha256=SUM,3"
  done >$site/nvidia_nccl.dist-info/RECORD
  exit;;
esac
api=$site/torch/include/torch/csrc/api/include/torch
mkdir -p $site/torch/lib $api $site/torch-2.11.0.dist-info
printf abc >$site/torch/lib/libtorch_cpu.so
if [ -e "$WORLD/break-off" ]; then rm "$WORLD/break-off"; echo "ERROR: connection lost" >&2; exit 1; fi
sleep 0.3
printf abc >$api/torch.h
for file in torch/lib/libtorch_cpu.so torch/include/torch/csrc/api/include/torch/torch.h; do
  echo "$file,sha256=SUM,3"
done >$site/torch-2.11.0.dist-info/RECORD"#;

pub(crate) struct World(PathBuf);

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let world = Self(root);
        for program in ["make", "cmake", "nasm", "pkg-config", "clang", "ffmpeg"] {
            world.script(&format!("bin/{program}"), "echo 4.6.0");
        }
        world.script("bin/c++", "echo 4.6.0\necho x.o: /usr/include/gloo/config.h");
        world.script("bin/python3", &PYTHON.replace("SUM", ABC));
        world.write("lib/libclang.so", "");
        world.write("checkout/xtask/Cargo.toml", "");
        world.write("checkout/crates/dora-train/recipes/toy.toml", "");
        fs::create_dir_all(world.path("target")).unwrap();
        let xtask = world.path("target/xtask");
        fs::hard_link(env!("CARGO_BIN_EXE_xtask"), &xtask)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_xtask"), &xtask).map(drop))
            .unwrap();
        world
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.join(inside)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn script(&self, name: &str, body: &str) {
        self.write(name, &format!("#!/bin/sh\n{body}\n"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), mode).unwrap();
    }

    /// xtask as cargo would start it in the checkout, nobody at a terminal.
    pub(crate) fn xtask(&self, line: &str) -> Command {
        let mut command = Command::new(self.path("target/xtask"));
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("WORLD", &self.0)
            .env("PATH", self.path("bin"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("LIBCLANG_PATH", self.path("lib"))
            .env("CARGO", self.path("bin/cargo"))
            .env("CARGO_MANIFEST_DIR", self.path("checkout/xtask"))
            .env("LIBTORCH", self.path("checkout/.libtorch"))
            .current_dir(self.path("checkout"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, line: &str) -> (i32, String) {
        ended(self.xtask(line).output().unwrap())
    }

    /// The folder of libtorch in the cache. On a machine with a GPU it is the complete one.
    pub(crate) fn libtorch(&self, inside: &str) -> PathBuf {
        let gpu = ["/proc/driver/nvidia/version", "/dev/nvidia0"]
            .iter()
            .any(|path| Path::new(path).exists());
        let variant = if gpu { "cuda" } else { "cpu" };
        self.path(&format!("cache/dora/libtorch-2.11.0-{variant}")).join(inside)
    }

    pub(crate) fn lines(&self, log: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(log)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn pip_calls(&self) -> usize {
        self.lines("pip.log").len()
    }

    /// Stand-ins for cargo and the programs that it would build, and a libtorch of the user's own.
    pub(crate) fn with_programs(self) -> Self {
        self.write("torch/include/torch.h", "");
        self.write("torch/lib/libtorch_cpu.so", "");
        self.write("torch/build-version", "2.11.0+cpu");
        self.script("bin/cargo", r#"echo "cargo $*" >>"$WORLD/log""#);
        self.script(
            "target/dora-ingest",
            r#"echo "dora-ingest $*" >>"$WORLD/log"
case $1 in
toy-walk) echo rendering; echo data/toy-walk/walk.mp4;;
ingest) while [ $1 != -- ]; do shift; done; shift; for video; do echo "store of $video"; done;;
esac"#,
        );
        self.worker("exit 0");
        self
    }

    /// A worker that knows its plan and trains by running `body`.
    pub(crate) fn worker(&self, body: &str) {
        let plan = r#"{"videos":["toy-walk","a.mp4"],"short_side_px":96,"jpeg_quality":80,"run_dir":"data/runs/toy","arch":"vit_tiny","patch_px":16}"#;
        let other = plan.replace("a.mp4", "b.mp4");
        let script = format!(
            r#"echo "dora-train $*" >>"$WORLD/log"
case "$*" in
check*wrong=*) echo "error: no such key" >&2; exit 2;;
check*videos=*) echo '{other}'; exit;;
check*) echo '{plan}'; exit;;
put-aside*) exit;;
esac
{body}"#
        );
        self.script("target/dora-train", &script);
    }

    pub(crate) fn own_libtorch(&self, line: &str) -> Command {
        let mut command = self.xtask(line);
        command.env("LIBTORCH", self.path("torch"));
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn ended(output: Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

pub(crate) fn path_with_system(world: &World) -> String {
    format!("{}:/usr/bin:/bin", world.path("bin").display())
}

/// Waits until something has happened.
pub(crate) fn until(what: &str, happened: impl Fn() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(10));
    }
}
