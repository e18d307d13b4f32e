//! The cache of libtorch, of CUDA's headers and of the test tools, shared by all clones: filled with wheels
//! from the Python package index, since PyTorch's wheel holds the headers and libraries that a build needs.
//!
//! A download goes into a folder of its own, is checked against what the wheels say of themselves, and
//! gets its final name last; a lock keeps a second process waiting. So whatever has the final name was
//! complete once, and sizes tell whether it still is.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use super::{
    libtorch::VERSION,
    machine,
    manifest::{self, Record},
    python::Python,
    test_tools,
};
use crate::process::{self, fixable, say};

/// The Python that libtorch's wheels are chosen for, whatever the machine has: nothing of them is imported.
const PYTHON: &str = "312";

/// Runs on the CPU: libtorch with the two CUDA libraries that `libtorch_cpu.so` itself is linked to.
const CPU: &[&str] =
    &["torch==2.11.0", "nvidia-cuda-cupti==13.0.85", "nvidia-cuda-runtime==13.0.96"];

/// Runs on GPUs: what the wheel of torch asks for, without its Python half, and the CUDA headers.
const CUDA: &[&str] = &[
    "torch==2.11.0",
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvshmem-cu13==3.4.5",
    "nvidia-nvtx==13.0.85",
];

/// Compiles the feature `cuda` beside a libtorch for the CPU, and no more than that.
const CUDA_HEADERS: &[&str] = &[
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-nccl-cu13==2.28.9",
];

/// What a cache holds: how much of libtorch, or what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Cpu,
    Cuda,
    CudaHeaders,
    /// For the machine's Python 3 of this minor version.
    TestTools(u32),
}

impl Variant {
    /// The name of its folder; `crates/torch-ext/build.rs` looks for the headers by it.
    fn folder(self) -> String {
        match self {
            Self::Cpu => format!("libtorch-{VERSION}-cpu"),
            Self::Cuda => format!("libtorch-{VERSION}-cuda"),
            Self::CudaHeaders => "cuda-headers-13.0".to_owned(),
            Self::TestTools(minor) => format!("test-tools-python3.{minor}"),
        }
    }

    /// What it is called in messages.
    fn noun(self) -> &'static str {
        match self {
            Self::Cpu | Self::Cuda => "libtorch",
            Self::CudaHeaders => "the set of CUDA headers",
            Self::TestTools(_) => "the set of test tools",
        }
    }

    fn wheels(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => CPU,
            Self::Cuda => CUDA,
            Self::CudaHeaders => CUDA_HEADERS,
            Self::TestTools(_) => test_tools::WHEELS,
        }
    }

    /// What every build uses of it.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Cpu | Self::Cuda => {
                &["torch/lib/libtorch_cpu.so", "torch/include/torch/csrc/api/include/torch/torch.h"]
            }
            Self::CudaHeaders => &["nvidia/nccl/include/nccl.h"],
            Self::TestTools(_) => test_tools::PARTS,
        }
    }

    /// What the download and the unpacked files take together.
    pub(crate) fn needed_bytes(self) -> u64 {
        match self {
            Self::Cpu => 2_500_000_000,
            Self::Cuda => 9_000_000_000,
            Self::CudaHeaders => 600_000_000,
            Self::TestTools(_) => 6_500_000_000,
        }
    }

    fn download(self) -> &'static str {
        match self {
            Self::Cpu => "0.55 GB",
            Self::Cuda => "2.5 GB",
            Self::CudaHeaders => "0.2 GB",
            Self::TestTools(_) => "2.2 GB",
        }
    }
}

/// What lies in the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    Complete,
    Missing,
    /// Something is wrong with it; says what.
    Broken(String),
}

impl State {
    pub(crate) fn wants_download(&self) -> bool {
        *self != Self::Complete
    }
}

/// One variant in the user's cache.
pub(crate) struct Cache {
    dir: PathBuf,
    variant: Variant,
}

impl Cache {
    /// The one below [`user_dir`].
    pub(crate) fn of_user(variant: Variant) -> anyhow::Result<Self> {
        Ok(Self { dir: user_dir()?, variant })
    }

    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    /// The folder that holds `include/` and `lib/`, once it is filled.
    pub(crate) fn libtorch(&self) -> PathBuf {
        self.home().join("torch")
    }

    /// The folder that the wheels are unpacked into.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.join(self.name())
    }

    /// Looks at the manifest and the sizes of the libraries.
    pub(crate) fn state(&self) -> State {
        let home = self.home();
        if !home.exists() {
            return State::Missing;
        }
        let fits = manifest::check(&home, &self.title());
        match fits.and_then(|()| self.check_parts(&home)) {
            Ok(()) => State::Complete,
            Err(what) => State::Broken(what),
        }
    }

    /// Compares every file with its checksum; what differs is marked as broken for all processes.
    pub(crate) fn verify(&self) -> anyhow::Result<State> {
        let home = self.home();
        let records = manifest::records(&home)?;
        say!(
            "setup: comparing {} files ({}) with their checksums",
            records.len(),
            gigabytes(total_bytes(&records))
        );
        let differing = manifest::check_sums(&home, &records)?;
        match differing.first() {
            None => say!("setup: all files of {} are as they should be", self.variant.noun()),
            Some(first) => {
                let what = format!(
                    "{} of {} files are not as fetched: {first}",
                    differing.len(),
                    records.len()
                );
                manifest::condemn(&home, &what)
                    .with_context(|| format!("cannot write into {}", home.display()))?;
            }
        }
        Ok(self.state())
    }

    /// Fetches the variant, unless another process has done so meanwhile. A broken one is removed first,
    /// which also makes room.
    ///
    /// # Errors
    /// No space, no network, no such wheel for this processor.
    pub(crate) fn fill(&self, python: &Python) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make the folder {}", self.dir.display()))?;
        let lock = self.lock()?;
        match self.state() {
            State::Complete => return Ok(()),
            State::Missing => {}
            State::Broken(what) => {
                let noun = self.variant.noun();
                say!("setup: {noun} in the cache is broken ({what}); it is fetched again");
            }
        }
        self.clear_leftovers()?;
        self.check_space()?;
        let work = self.dir.join(format!("{}.tmp-{}", self.name(), std::process::id()));
        let outcome = self.download(python, &work, &lock);
        let removed = fs::remove_dir_all(&work);
        outcome?;
        removed.with_context(|| format!("cannot remove {}", work.display()))
    }

    fn download(&self, python: &Python, work: &Path, lock: &fs::File) -> anyhow::Result<()> {
        let (site, scratch) = (work.join("site"), work.join("scratch"));
        fs::create_dir_all(&scratch)
            .with_context(|| format!("cannot make the folder {}", scratch.display()))?;
        say!(
            "setup: fetching {} (a download of {}) into {}",
            self.variant.noun(),
            self.variant.download(),
            self.home().display()
        );
        let started = Instant::now();
        let mut pip = self.pip(python, &site, &scratch)?;
        // The lock is also pip's input: it is held for as long as pip lives, even if we are killed.
        pip.stdin(lock.try_clone().context("cannot hold the lock")?);
        self.run_pip(&mut pip)?;
        let records = manifest::records(&site)?;
        let complete =
            manifest::check_sizes(&site, &records).and_then(|()| self.check_parts(&site));
        let noun = self.variant.noun();
        complete.map_err(|what| anyhow::anyhow!("pip left {noun} incomplete: {what}"))?;
        manifest::write(&site, &self.title(), &records)
            .and_then(|()| fs::rename(&site, self.home()))
            .with_context(|| format!("cannot put {noun} at {}", self.home().display()))?;
        say!(
            "setup: {noun} is in place: {} in {:.0} s",
            gigabytes(total_bytes(&records)),
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// The user's own configuration says where the index is. Files that pip writes on its way lie
    /// beside the result, so that one file system's free space counts and moving is renaming.
    fn pip(&self, python: &Python, site: &Path, scratch: &Path) -> anyhow::Result<Command> {
        let mut pip = Command::new(&python.program);
        pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"]).args([
            "--no-input",
            "--no-compile",
            "--disable-pip-version-check",
        ]);
        if !matches!(self.variant, Variant::TestTools(_)) {
            pip.args(tags()?);
        }
        pip.arg("--target")
            .arg(site)
            .args(self.variant.wheels())
            .env("TMPDIR", scratch)
            // Settings that contradict --target.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            // Its warning is about installing for the whole machine, which this is not.
            .env("PIP_ROOT_USER_ACTION", "ignore");
        Ok(pip)
    }

    /// Waits for the lock of this variant; a crash releases it.
    fn lock(&self) -> anyhow::Result<fs::File> {
        let path = self.dir.join(format!("{}.lock", self.name()));
        let context = || format!("cannot lock {}", path.display());
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(context)?;
        let mut waiting = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(error) if error == rustix::io::Errno::WOULDBLOCK => {}
                Err(error) => return Err(io::Error::from(error)).with_context(context),
            }
            if !waiting {
                waiting = true;
                let noun = self.variant.noun();
                say!("setup: another process is fetching {noun}; waiting for it");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes what downloads that never ended left, and what has the final name: nobody else touches
    /// them while we hold the lock. Renamed first, so that a half-removed one is never taken for whole.
    fn clear_leftovers(&self) -> anyhow::Result<()> {
        let home = self.home();
        if home.exists() {
            let aside = self.dir.join(format!("{}.tmp-broken", self.name()));
            let _ = fs::remove_dir_all(&aside);
            fs::rename(&home, &aside)
                .with_context(|| format!("cannot move {} away", home.display()))?;
        }
        let prefix = format!("{}.tmp", self.name());
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Whether a download finds room.
    ///
    /// # Errors
    /// Says how much is missing and where.
    pub(crate) fn check_space(&self) -> anyhow::Result<()> {
        let needed = self.variant.needed_bytes();
        let free = machine::free_bytes(&self.dir)
            .with_context(|| format!("cannot tell the free space of {}", self.dir.display()))?;
        if free >= needed {
            return Ok(());
        }
        Err(fixable(format!(
            "fetching {} takes {} in {}, where {} are free; make room, or set XDG_CACHE_HOME to a \
             folder on a larger disk",
            self.variant.noun(),
            gigabytes(needed),
            self.dir.display(),
            gigabytes(free)
        )))
    }

    fn name(&self) -> String {
        self.variant.folder()
    }

    /// The first line of the manifest; another choice of wheels makes an old cache unfit.
    fn title(&self) -> String {
        format!("libtorch 1 {}", self.variant.wheels().join(" "))
    }

    /// Checks for what every build uses, whatever the records say.
    fn check_parts(&self, site: &Path) -> Result<(), String> {
        match self.variant.parts().iter().find(|part| !site.join(part).is_file()) {
            Some(part) => Err(format!("{part} is missing")),
            None => Ok(()),
        }
    }

    fn run_pip(&self, pip: &mut Command) -> anyhow::Result<()> {
        if process::run_for_people(pip)?.success() {
            return Ok(());
        }
        Err(anyhow::anyhow!(
            "pip could not fetch {}; check the network and pip's settings (`python3 -m pip config \
             list`), then run this again",
            self.variant.noun()
        ))
    }
}

/// The words for pip that choose libtorch's wheels, which no Python here imports.
fn tags() -> anyhow::Result<Vec<String>> {
    let arch = env::consts::ARCH;
    if !["x86_64", "aarch64"].contains(&arch) {
        return Err(fixable(format!(
            "there is no ready-made libtorch for {arch}; build version {VERSION} and export it as LIBTORCH"
        )));
    }
    let mut words =
        ["--implementation", "cp", "--python-version", PYTHON].map(str::to_owned).to_vec();
    words.extend(["--abi".to_owned(), format!("cp{PYTHON}")]);
    // Each tag must be named; later ones are never tried by themselves.
    let platforms = (17..=28).rev().map(|minor| format!("manylinux_2_{minor}_{arch}"));
    for platform in platforms.chain([format!("manylinux2014_{arch}")]) {
        words.extend(["--platform".to_owned(), platform]);
    }
    Ok(words)
}

/// The folder of all that is fetched for this user: below `$XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn user_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| {
        fixable(
            "neither XDG_CACHE_HOME nor HOME is set, so what is fetched has no place; export one of them",
        )
    })?;
    Ok(cache.join("dora"))
}

fn total_bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| record.size_bytes).sum()
}

/// Bytes for people.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
