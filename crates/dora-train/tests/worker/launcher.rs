//! The worker under the launcher, as `cargo xtask train` starts it; what is built and ingested before
//! that is stood in for.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::workbench::Workbench;

const KILLS: usize = 20;
/// A save after every step, so that many kills meet one.
const OFTEN: &str = "output.checkpoint_every=1 steps";

/// `cargo xtask` on a workbench.
struct Launcher<'a> {
    bench: &'a Workbench,
}

impl<'a> Launcher<'a> {
    /// `None`, with the reason told, where xtask is not built beside the worker.
    fn new(bench: &'a Workbench) -> Option<Self> {
        let worker = Path::new(env!("CARGO_BIN_EXE_dora-train"));
        let built = worker.with_file_name("xtask");
        if !built.is_file() {
            println!("skipped: {} is not built; `cargo xtask test` has it", built.display());
            return None;
        }
        let launcher = Self { bench };
        for folder in ["built", "checkout/xtask", "torch/include", "torch/lib"] {
            fs::create_dir_all(bench.path(folder)).unwrap();
        }
        // A copy, since xtask looks for the programs beside itself.
        fs::copy(built, bench.path("built/xtask")).unwrap();
        symlink(worker, bench.path("built/dora-train")).unwrap();
        launcher.script("built/cargo", "exit 0");
        let store = bench.path("walk.store");
        launcher.script("built/dora-ingest", &format!("echo {}", store.display()));
        fs::write(bench.path("checkout/xtask/Cargo.toml"), "").unwrap();
        fs::write(bench.path("torch/lib/libtorch_cpu.so"), "").unwrap();
        fs::write(bench.path("torch/build-version"), "2.11.0+cpu").unwrap();
        fs::write(bench.path("video.mp4"), "").unwrap();
        Some(launcher)
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.bench.path(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts to train with two workers.
    fn start(&self, run: &str, more: &[&str]) -> Child {
        let mut command = Command::new(self.bench.path("built/xtask"));
        command.args(["train", "--nproc-per-node", "2", "--set", OFTEN]).args(more);
        command.arg("--recipe").arg(self.bench.path("recipe.toml"));
        command.arg("--video").arg(self.bench.path("video.mp4"));
        command.arg("--run-dir").arg(self.bench.path(run));
        command.env("CARGO", self.bench.path("built/cargo"));
        command.env("CARGO_MANIFEST_DIR", self.bench.path("checkout/xtask"));
        command.env("LIBTORCH", self.bench.path("torch")).env("OMP_NUM_THREADS", "1");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Ids of the workers that run.
    fn workers(&self, run: &str) -> Vec<u32> {
        let run_dir = self.bench.path(run).display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        ids.filter(|id| {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let words: Vec<_> = words.split(|byte| *byte == 0).collect();
            words[0].ends_with(b"dora-train") && words.contains(&run_dir.as_bytes())
        })
        .collect()
    }

    /// Waits until no worker runs.
    #[track_caller]
    fn wait_for_none(&self, run: &str) {
        let began = Instant::now();
        while !self.workers(run).is_empty() {
            assert!(began.elapsed().as_secs() < 20, "workers are left behind");
            sleep(Duration::from_millis(20));
        }
    }
}

fn kill(id: u32) {
    // One that has just ended needs no kill.
    let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
}

/// Status and words of a launcher that ends.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn two_workers_train_under_the_launcher() {
    let bench = Workbench::new();
    let Some(launcher) = Launcher::new(&bench) else { return };
    let (status, words) = ended(launcher.start("run", &[]));
    assert_eq!(status, Some(0), "{words}");
    assert!(words.contains("[rank 0] trained 10 steps"), "{words}");
    let log = |rank| fs::read_to_string(bench.path(&format!("run/rank-{rank}.log"))).unwrap();
    assert!(log(0).contains("trained 10 steps"), "{}", log(0));
    assert!(!log(1).contains("step"), "the second rank speaks: {}", log(1));
}

#[test]
fn a_worker_that_dies_is_named_and_a_restart_ends_as_if_it_had_not() {
    let bench = Workbench::new();
    let Some(launcher) = Launcher::new(&bench) else { return };
    let (status, words) = ended(launcher.start("whole", &[]));
    assert_eq!(status, Some(0), "{words}");
    let restarts = launcher.start("run", &["--max-restarts", "1"]);
    wait_for(&bench.path("run/checkpoints/step-2"));
    kill(launcher.workers("run")[0]);
    let (status, words) = ended(restarts);
    assert_eq!(status, Some(0), "{words}");
    assert!(words.contains("ended by signal 9") && words.contains("restart 1 of 1"), "{words}");
    bench.assert_same_end("whole", "run");

    let dies = launcher.start("dies", &[]);
    wait_for(&bench.path("dies/checkpoints/step-2"));
    kill(launcher.workers("dies")[1]);
    let began = Instant::now();
    let (status, words) = ended(dies);
    assert_eq!(status, Some(137), "{words}");
    assert!(began.elapsed().as_secs() < 15, "the end took {:?}", began.elapsed());
    assert!(launcher.workers("dies").is_empty());
}

#[test]
fn a_killed_launcher_leaves_no_worker_and_the_run_goes_on() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let bench = Workbench::new();
    let Some(launcher) = Launcher::new(&bench) else { return };
    let began = Instant::now();
    let (status, words) = ended(launcher.start("whole", &[]));
    assert_eq!(status, Some(0), "{words}");
    let whole = began.elapsed();

    let (mut kills, mut runs) = (0, 0);
    while kills < KILLS {
        runs += 1;
        let run = format!("killed-{runs}");
        loop {
            let mut child = launcher.start(&run, &[]);
            sleep(whole.mul_f64(rng.random_range(0.0..0.9)));
            if kills == KILLS || child.try_wait().unwrap().is_some() {
                let (status, words) = ended(child);
                assert_eq!(status, Some(0), "{words}");
                break;
            }
            // Alone, or with its workers, as when a machine loses its power.
            let workers = launcher.workers(&run);
            child.kill().unwrap();
            if rng.random_bool(0.5) {
                workers.into_iter().for_each(kill);
            }
            child.wait().unwrap();
            launcher.wait_for_none(&run);
            kills += 1;
        }
        bench.assert_same_end("whole", &run);
    }
    println!("{kills} kills in {runs} runs");
}

#[track_caller]
fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed().as_secs() < 120, "{} never came", path.display());
        sleep(Duration::from_millis(5));
    }
}
