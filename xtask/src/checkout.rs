//! The checkout: where its parts lie, and how cargo and the programs of the workspace are started.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::process::{self, say};

/// The words for cargo that bring NCCL into the programs.
pub(crate) const CUDA: &[&str] = &["--features", "dora-train/cuda"];

/// This clone of the repository, and the folder that the user stands in.
pub(crate) struct Checkout {
    root: PathBuf,
    cwd: PathBuf,
}

impl Checkout {
    /// The checkout that cargo runs us from.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("the checkout has no folder")?;
        Ok(Self {
            root: root.to_path_buf(),
            cwd: env::current_dir().context("cannot tell the current folder")?,
        })
    }

    /// One for a test, whose user stands elsewhere.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), cwd: PathBuf::from("/absent") }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The link to libtorch that `.cargo/config.toml` names.
    pub(crate) fn libtorch_link(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The libtorch that the user exported. Cargo sets LIBTORCH to the link for every program it
    /// runs, so that value is nobody's wish.
    pub(crate) fn exported_libtorch(&self) -> Option<PathBuf> {
        let value = PathBuf::from(env::var_os("LIBTORCH").filter(|value| !value.is_empty())?);
        let same_folder = || {
            let parent = value.parent()?.canonicalize().ok()?;
            Some(parent == self.root.canonicalize().ok()?)
        };
        let is_link = value == self.libtorch_link()
            || (value.ends_with(".libtorch") && same_folder() == Some(true));
        (!is_link).then_some(value)
    }

    /// A path inside the checkout, as short as it can be said from where the user stands.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let path = self.root.join(inside);
        path.strip_prefix(&self.cwd).map(Path::to_path_buf).unwrap_or(path)
    }

    /// Cargo, to be given a command. It finds the same environment as one that the user starts, since
    /// a different LIBTORCH would make it compile libtorch's bindings again, and what it told us of our
    /// own package, ring with all that is built on it.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        if self.exported_libtorch().is_none() {
            cargo.env_remove("LIBTORCH");
        }
        cargo
    }

    /// What every command of cargo is told of features: NCCL's where libtorch is complete, headers
    /// included. The same for building, testing and linting, so that they share what they compile.
    pub(crate) fn features(&self) -> &'static [&'static str] {
        let libtorch = self.exported_libtorch().unwrap_or_else(|| self.libtorch_link());
        let is_complete = libtorch.canonicalize().is_ok_and(|libtorch| {
            libtorch.join("lib/libtorch_cuda.so").exists()
                && ["nccl/include/nccl.h", "cu13/include/crt/host_defines.h"]
                    .iter()
                    .all(|header| libtorch.with_file_name("nvidia").join(header).exists())
        });
        if is_complete { CUDA } else { &[] }
    }

    /// Builds every program of the workspace; cargo shows its own progress. Always all of them: another
    /// choice of packages means other features of what they share, and cargo would compile that again.
    pub(crate) fn build(&self) -> anyhow::Result<()> {
        if !self.program_path("dora-train")?.exists() {
            say!(
                "building the programs; the first time takes minutes, since the bindings to libtorch \
                 and OpenCV are compiled here; later builds take seconds"
            );
        }
        let mut cargo = self.cargo();
        cargo.arg("build").arg("--manifest-path").arg(self.root.join("Cargo.toml"));
        process::run(cargo.args(["--workspace", "--bins"]).args(self.features()))
    }

    /// Builds one program that needs neither libtorch nor OpenCV, so that nobody waits for those. What it
    /// shares with the others may be compiled a second time for them.
    pub(crate) fn build_alone(&self, package: &str) -> anyhow::Result<()> {
        if !self.program_path(package)?.exists() {
            say!("building `{package}`; the first time takes a minute or two");
        }
        let mut cargo = self.cargo();
        cargo.arg("build").arg("--manifest-path").arg(self.root.join("Cargo.toml"));
        process::run(cargo.args(["--package", package, "--bins"]))
    }

    /// A program of the workspace that [`Checkout::build`] has built, to be given arguments.
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<Command> {
        Ok(Command::new(self.program_path(name)?))
    }

    /// All programs are built into one folder, ours too.
    fn program_path(&self, name: &str) -> anyhow::Result<PathBuf> {
        let own = env::current_exe().context("cannot tell where xtask itself lies")?;
        Ok(own.with_file_name(name))
    }
}
