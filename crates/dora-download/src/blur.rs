//! Faces made unrecognisable, by the program `deface`.

use crate::child;
use crate::error::DownloadError;
use crate::stop::Stop;
use crate::text::foreign;
use dora_store::atomic;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The blurred video's name without the ending.
pub(crate) fn stem(stem: &str) -> String {
    format!("{stem}.blurred")
}

/// The program, if it is here.
///
/// # Errors
/// It is not: says how to get it.
pub(crate) fn find(program: &Path) -> Result<PathBuf, DownloadError> {
    child::on_path(program).ok_or_else(|| {
        DownloadError::Wrong(format!(
            "there is no `{}`, which blurs faces; `python3 -m pip install deface onnxruntime` brings it, \
             best into a virtual environment on PATH (onnxruntime-gpu on a machine with a GPU: minutes \
             instead of days)",
            program.display()
        ))
    })
}

/// Writes `from` with blurred faces to `to`, an MP4. `deface` shows its own progress on a terminal.
///
/// # Errors
/// It fails; a signal. Nothing of a broken attempt stays, since it cannot go on.
pub(crate) fn blur(
    program: &Path,
    from: &Path,
    to: &Path,
    stop: &Stop,
) -> Result<(), DownloadError> {
    // The ending says which container to write, so it stays last.
    let part = to.with_extension("part.mp4");
    let blurred = run(program, from, &part, stop).and_then(|()| {
        let size = fs::metadata(&part).map_or(0, |data| data.len());
        if size == 0 {
            return Err(DownloadError::Failed(format!(
                "`{}` ended well but left no `{}`",
                program.display(),
                part.display()
            )));
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(&part)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&part, to))
            .and_then(|()| atomic::sync_folder(folder.unwrap_or(Path::new("."))))
            .map_err(DownloadError::io("write", to))
    });
    if blurred.is_err() {
        let _ = fs::remove_file(&part);
    }
    blurred
}

fn run(program: &Path, from: &Path, part: &Path, stop: &Stop) -> Result<(), DownloadError> {
    // A path that begins with a dash is no option.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let words =
        [absolute(from).into_os_string(), "--output".into(), absolute(part).into_os_string()];
    let mut command = child::tethered(program, words);
    let (status, complaints) = if std::io::stderr().is_terminal() {
        command.stdout(Stdio::null());
        let mut child = command.spawn().map_err(DownloadError::io("start", program))?;
        (child::wait(&mut child, stop)?, String::new())
    } else {
        let ended = child::run(command, stop, |_| ())?;
        (ended.status, ended.complaints)
    };
    if status.success() {
        return Ok(());
    }
    let last = complaints.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let why = if last.is_empty() { status.to_string() } else { foreign(last) };
    Err(DownloadError::Failed(format!(
        "`{}` could not blur `{}` ({why})",
        program.display(),
        from.display()
    )))
}
