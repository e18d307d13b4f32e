//! The Python packages that tests compare with: PyTorch and timm, which must load what we export, and
//! TensorBoard's own reader. Only tests start this Python.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    cache::{Cache, State, Variant},
    machine::Machine,
    python::Python,
};
use crate::process::fixable;

/// All of them, without asking pip what they ask for: that would bring compilers for GPUs, too. What is
/// named of NVIDIA's is what `import torch` itself is linked to.
pub(super) const WHEELS: &[&str] = &[
    "torch==2.11.0",
    "torchvision==0.26.0",
    "timm==1.0.31",
    "safetensors==0.8.0",
    "tensorboard==2.21.0",
    "numpy==2.4.6",
    "pillow==13.0.0",
    "protobuf==7.36.2",
    "absl-py==2.5.1",
    "filelock==4.2.11",
    "fsspec==2026.9.0",
    "jinja2==3.1.6",
    "markupsafe==3.0.3",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "sympy==1.14.0",
    "typing-extensions==4.16.0",
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvshmem-cu13==3.4.5",
];

/// What tests import.
pub(super) const PARTS: &[&str] =
    &["torch/__init__.py", "timm/__init__.py", "tensorboard/__init__.py"];

/// Minor versions of Python 3 for which there are wheels of all of them.
const MINORS: std::ops::RangeInclusive<u32> = 11..=14;

/// The script beside the packages that starts their Python.
const SCRIPT: &str = "python";

/// The Python with the test tools, if they are in the cache.
pub(crate) fn find(machine: &Machine) -> Option<PathBuf> {
    let python = Python::find(machine)?;
    let cache = Cache::of_user(Variant::TestTools(python.minor()?)).ok()?;
    let script = cache.home().join(SCRIPT);
    (cache.state() == State::Complete && script.is_file()).then_some(script)
}

/// Brings the test tools.
///
/// # Errors
/// No Python that they run on, no space, no network.
pub(crate) fn ensure(machine: &Machine) -> anyhow::Result<()> {
    let python = Python::find(machine)
        .filter(|python| python.minor().is_some_and(|minor| MINORS.contains(&minor)));
    let python = python.ok_or_else(|| {
        fixable(format!(
            "the test tools run on Python 3.{} to 3.{} with pip, and no such `python3` is here; install one and put it first on PATH",
            MINORS.start(),
            MINORS.end()
        ))
    })?;
    let minor = python.minor().unwrap_or(*MINORS.start());
    let cache = Cache::of_user(Variant::TestTools(minor))?;
    if cache.state().wants_download() {
        cache.fill(&python)?;
    }
    let script = cache.home().join(SCRIPT);
    let text = script_text(&python);
    if fs::read_to_string(&script).is_ok_and(|present| present == text) {
        return Ok(());
    }
    write_script(&script, &text).with_context(|| format!("cannot write {}", script.display()))
}

/// Nothing of the user's own packages comes in, and what Python compiles stays beside its source: each
/// test would wait ten seconds for it.
fn script_text(python: &Python) -> String {
    let program = python.program.display().to_string().replace('\'', "'\\''");
    format!(
        "#!/bin/sh\n\
         unset PYTHONDONTWRITEBYTECODE PYTHONHOME\n\
         PYTHONPATH=\"${{0%/*}}\" exec '{program}' -s \"$@\"\n"
    )
}

fn write_script(script: &Path, text: &str) -> io::Result<()> {
    let fresh = script.with_file_name(format!(".{SCRIPT}-{}", std::process::id()));
    fs::write(&fresh, text)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, script)
}
