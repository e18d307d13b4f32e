//! The system packages: each is looked for by what the build uses of it, so that any distribution
//! that has these things will do; installing them is apt-get's work.

use std::{
    io::{self, BufRead, IsTerminal},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::machine::Machine;
use crate::process::{self, fixable, say};

/// One thing that a build needs from the system.
pub(crate) struct Need {
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
    /// Where it is, if it is here.
    pub(crate) find: fn(&Machine) -> Option<PathBuf>,
    /// The arguments with which that program prints its version; empty for what is no program.
    pub(crate) version_args: &'static [&'static str],
}

/// What every build needs, without Python, which only fetches libtorch.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        package: "g++",
        why: "compiles the C++ that ties libtorch and OpenCV to Rust",
        find: |machine| machine.program("CXX", &["c++"]),
        version_args: &["--version"],
    },
    Need {
        package: "make",
        why: "builds libjpeg-turbo, which reads and writes the stored frames",
        find: |machine| machine.program("MAKE", &["make"]),
        version_args: &["--version"],
    },
    Need {
        package: "cmake",
        why: "configures libjpeg-turbo",
        find: |machine| machine.program("CMAKE", &["cmake"]),
        version_args: &["--version"],
    },
    #[cfg(target_arch = "x86_64")]
    Need {
        package: "nasm",
        why: "assembles the fast paths of libjpeg-turbo",
        find: |machine| machine.on_path("nasm"),
        version_args: &["-v"],
    },
    Need {
        package: "libgloo-dev",
        why: "headers of Gloo, over which processes talk (the library is inside libtorch)",
        find: gloo,
        version_args: &[],
    },
    Need {
        package: "pkg-config",
        why: "finds FFmpeg and OpenCV",
        find: pkg_config,
        version_args: &["--version"],
    },
    Need {
        package: "libavcodec-dev",
        why: "FFmpeg: decodes the videos",
        find: |machine| knows(machine, "libavcodec"),
        version_args: &[],
    },
    Need {
        package: "libavformat-dev",
        why: "FFmpeg: reads the files that hold them",
        find: |machine| knows(machine, "libavformat"),
        version_args: &[],
    },
    Need {
        package: "libswscale-dev",
        why: "FFmpeg: converts rare formats",
        find: |machine| knows(machine, "libswscale"),
        version_args: &[],
    },
    Need {
        package: "ffmpeg",
        why: "FFmpeg's programs, which tests and `bench ingest` compare with",
        find: |machine| machine.on_path("ffmpeg"),
        version_args: &["-version"],
    },
    Need {
        package: "libopencv-dev",
        why: "OpenCV 4: reads images, scales, and decodes where it is asked to",
        find: opencv,
        version_args: &[],
    },
    Need {
        package: "clang",
        why: "knows where the C++ headers lie while OpenCV's and FFmpeg's are read",
        find: |machine| machine.program("CLANG_PATH", &["clang"]),
        version_args: &["--version"],
    },
    Need {
        package: "libclang-dev",
        why: "reads headers of OpenCV and FFmpeg to make Rust bindings",
        find: Machine::libclang,
        version_args: &[],
    },
];

/// How the missing packages come to be here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Install,
    Ask,
    Print,
}

/// Who we are and whom we can ask.
#[derive(Clone, Copy)]
pub(crate) struct Situation {
    pub(crate) root: bool,
    /// A person sits at a terminal.
    pub(crate) terminal: bool,
    /// The user has said yes beforehand.
    pub(crate) yes: bool,
    pub(crate) sudo: bool,
}

impl Situation {
    /// Root without a terminal is a container or a CI job, where nobody could answer.
    pub(crate) fn action(self) -> Action {
        match self {
            Self { root: false, sudo: false, .. } => Action::Print,
            Self { yes: true, .. } => Action::Install,
            Self { terminal: true, .. } => Action::Ask,
            Self { root: true, .. } => Action::Install,
            _ => Action::Print,
        }
    }
}

/// Sees to it that every package is here, and pip if `python_missing`.
///
/// # Errors
/// Something is missing and may not or cannot be installed: says with which command to do so.
pub(crate) fn ensure(machine: &Machine, python_missing: bool, yes: bool) -> anyhow::Result<()> {
    let mut missing: Vec<(&str, &str)> =
        missing(machine).map(|need| (need.package, need.why)).collect();
    if python_missing {
        missing.push(("python3-pip", "fetches libtorch"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    say!("setup: these system packages are missing:");
    for (package, why) in &missing {
        say!("  {package:<15} {why}");
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let Some(apt_get) = machine.on_path("apt-get") else {
        return Err(fixable(
            "this machine has no apt-get; install what the packages above hold with its own package \
             manager, then run this again",
        ));
    };
    let situation = Situation {
        root: is_root(),
        terminal: io::stdin().is_terminal() && io::stderr().is_terminal(),
        yes,
        sudo: machine.on_path("sudo").is_some(),
    };
    let line = apt_line(!situation.root && situation.sudo, &names);
    match situation.action() {
        Action::Install => say!("setup: installing them with `{line}`"),
        Action::Ask => {
            say!("install them with `{line}`? [Y/n]");
            if !answered_yes() {
                return Err(fixable(format!("not installed; run `{line}`, then this again")));
            }
        }
        Action::Print => {
            let who = if situation.root || situation.sudo { "" } else { " as root" };
            return Err(fixable(format!("run `{line}`{who}, then this again")));
        }
    }
    install(&apt_get, situation, &names)?;
    let left: Vec<&str> = self::missing(machine).map(|need| need.package).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(fixable(format!(
        "apt-get ended well, but what {} should bring is not found; see `cargo xtask doctor`",
        left.join(", ")
    )))
}

/// The needs that this machine does not meet.
pub(crate) fn missing(machine: &Machine) -> impl Iterator<Item = &'static Need> {
    NEEDS.iter().filter(|need| (need.find)(machine).is_none())
}

/// What a user types to install `packages`, with sudo or as root.
pub(crate) fn apt_line(sudo: bool, packages: &[&str]) -> String {
    let sudo = if sudo { "sudo " } else { "" };
    format!(
        "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

/// The version of OpenCV, as pkg-config knows it.
fn opencv_version(machine: &Machine) -> Option<String> {
    ["opencv4", "opencv5"].iter().find_map(|module| modversion(machine, module))
}

/// The version of the library that a package of headers brings, as pkg-config knows it.
pub(crate) fn library_version(machine: &Machine, package: &str) -> Option<String> {
    match package {
        "libopencv-dev" => opencv_version(machine),
        package => modversion(machine, package.strip_suffix("-dev")?),
    }
}

/// Whether pkg-config knows a library.
fn knows(machine: &Machine, module: &str) -> Option<PathBuf> {
    modversion(machine, module).map(|_| PathBuf::new())
}

fn modversion(machine: &Machine, module: &str) -> Option<String> {
    process::first_line(pkg_config(machine)?, &["--modversion", module])
}

fn pkg_config(machine: &Machine) -> Option<PathBuf> {
    machine.program("PKG_CONFIG", &["pkg-config", "pkgconf"])
}

fn opencv(machine: &Machine) -> Option<PathBuf> {
    // Someone who names the libraries by hand knows where they are.
    let by_hand = std::env::var_os("OPENCV_LINK_LIBS").is_some();
    (by_hand || opencv_version(machine).is_some()).then(PathBuf::new)
}

/// Where the compiler finds Gloo's headers, with the flags that the build gives it.
fn gloo(machine: &Machine) -> Option<PathBuf> {
    const HEADER: &str = "gloo/config.h";
    let words = |variable| std::env::var(variable).unwrap_or_default();
    let output = Command::new(machine.program("CXX", &["c++"])?)
        .args(words("CXX").split_whitespace().skip(1))
        .args(words("CXXFLAGS").split_whitespace())
        .args(["-M", "-x", "c++", "-include", HEADER, "/dev/null"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find(|word| word.ends_with(HEADER)).map(PathBuf::from)
}

fn install(apt_get: &Path, situation: Situation, packages: &[&str]) -> anyhow::Result<()> {
    let apt = |words: &[&str]| {
        let mut command = if situation.root {
            Command::new(apt_get)
        } else {
            let mut sudo = Command::new("sudo");
            if !situation.terminal {
                sudo.arg("-n");
            }
            sudo.arg("DEBIAN_FRONTEND=noninteractive").arg(apt_get);
            sudo
        };
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-o", "Dpkg::Use-Pty=0"])
            .args(words);
        process::run_for_people(&mut command)
    };
    let started = Instant::now();
    if !apt(&["update"])?.success() {
        say!("setup: `apt-get update` failed; trying with the lists that are here");
    }
    let status = apt(&[&["install", "-y", "--no-install-recommends"], packages].concat())?;
    if status.success() {
        say!("setup: installed in {:.0} s", started.elapsed().as_secs_f64());
        return Ok(());
    }
    Err(anyhow::anyhow!("`apt-get install` failed; its message stands above"))
}

fn answered_yes() -> bool {
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let answer = answer.trim().to_lowercase();
    read.is_ok_and(|bytes| bytes > 0) && ["", "y", "yes"].contains(&answer.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn who_we_are_decides_what_happens() {
        let cases = [
            // root, terminal, yes, sudo
            ([true, false, false, false], Action::Install),
            ([true, true, false, false], Action::Ask),
            ([true, true, true, false], Action::Install),
            ([false, true, false, true], Action::Ask),
            ([false, true, true, true], Action::Install),
            ([false, false, true, true], Action::Install),
            ([false, false, false, true], Action::Print),
            ([false, true, true, false], Action::Print),
        ];
        for ([root, terminal, yes, sudo], expected) in cases {
            let situation = Situation { root, terminal, yes, sudo };
            let case = format!("{root} {terminal} {yes} {sudo}");
            assert_eq!(situation.action(), expected, "{case}");
        }
    }

    #[test]
    fn the_apt_line_can_be_pasted() {
        let line = "apt-get update && apt-get install -y --no-install-recommends cmake nasm";
        assert_eq!(apt_line(false, &["cmake", "nasm"]), line);
        let line = "sudo apt-get update && sudo apt-get install -y --no-install-recommends cmake";
        assert_eq!(apt_line(true, &["cmake"]), line);
    }

    #[test]
    fn gloo_is_where_the_compiler_finds_it() {
        let folder = Folder::new("packages-gloo");
        let machine = Machine { path: vec![folder.path().to_path_buf()], libraries: vec![] };
        assert_eq!(gloo(&machine), None);
        folder.script("c++", "printf 'null.o: /dev/null \\\\\\n /opt/include/gloo/config.h\\n'");
        assert_eq!(gloo(&machine), Some(PathBuf::from("/opt/include/gloo/config.h")));
        folder.script("c++", "echo 'gloo/config.h: No such file or directory' >&2; exit 1");
        assert_eq!(gloo(&machine), None);
    }

    #[test]
    fn opencv_is_what_pkg_config_says() {
        let folder = Folder::new("packages-opencv");
        let machine = Machine { path: vec![folder.path().to_path_buf()], libraries: vec![] };
        assert_eq!(opencv_version(&machine), None);
        folder.script("pkg-config", "[ $2 = opencv4 ] && echo 4.6.0");
        assert_eq!(opencv_version(&machine).as_deref(), Some("4.6.0"));
        folder.script("pkg-config", "exit 1");
        assert_eq!(opencv_version(&machine), None);
        for package in ["libopencv-dev", "libavcodec-dev"] {
            assert!(missing(&machine).any(|need| need.package == package));
        }
    }
}
