//! Everything a build needs that is not in the repository: system packages and libtorch; and what tests
//! compare with, where asked for.
//!
//! Every command calls [`ensure`]; where nothing is missing that takes a few milliseconds.

pub(crate) mod cache;
pub(crate) mod libtorch;
pub(crate) mod machine;
pub(crate) mod manifest;
pub(crate) mod packages;
pub(crate) mod python;
pub(crate) mod test_tools;
pub(crate) mod yt_dlp;

use self::{
    cache::{Cache, Variant},
    libtorch::Source,
    machine::Machine,
    python::Python,
};
use crate::{
    checkout::Checkout,
    process::{fixable, say},
};

/// What `setup` is asked for beyond what is missing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// The complete libtorch, GPU or not.
    pub(crate) cuda: bool,
    /// Install system packages without asking.
    pub(crate) yes: bool,
    /// Compare every file of libtorch with its checksum.
    pub(crate) verify: bool,
    /// The Python packages that tests compare with.
    pub(crate) test_tools: bool,
}

/// Brings what is missing, and links libtorch into the checkout.
///
/// # Errors
/// A package that has to be installed by hand, an unfit `LIBTORCH`, a download that fails.
pub(crate) fn ensure(checkout: &Checkout, wishes: Wishes) -> anyhow::Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(fixable("this project needs Linux"));
    }
    let machine = Machine::this();
    let source = Source::choose(checkout, &machine, wishes.cuda)?;
    let mut state = source.state();
    if wishes.verify {
        state = source.verify(state)?;
    }
    let python_missing = state.wants_download() && Python::find(&machine).is_none();
    packages::ensure(&machine, python_missing, wishes.yes)?;
    if let Source::Cached(cache) = source {
        if state.wants_download() {
            fill(&cache, &machine)?;
        }
        if libtorch::link(checkout, &cache.libtorch())? {
            say!("setup: linked .libtorch to {}", cache.libtorch().display());
        }
    }
    if wishes.test_tools { test_tools::ensure(&machine) } else { Ok(()) }
}

/// Brings the headers that the feature `cuda` is compiled with beside a libtorch for the CPU.
///
/// # Errors
/// No pip, a download that fails.
pub(crate) fn ensure_cuda_headers() -> anyhow::Result<()> {
    let cache = Cache::of_user(Variant::CudaHeaders)?;
    if cache.state().wants_download() {
        fill(&cache, &Machine::this())?;
    }
    Ok(())
}

fn fill(cache: &Cache, machine: &Machine) -> anyhow::Result<()> {
    let python = Python::find(machine).ok_or_else(|| {
        fixable("`python3 -m pip` does not work; install Python 3 with pip (package python3-pip)")
    })?;
    cache.fill(&python)
}
