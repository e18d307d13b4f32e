//! Keeps OpenCV's and FFmpeg's own chatter off stderr.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// With the values that silence them: `AV_LOG_QUIET` is -8.
const VARIABLES: [(&str, &str); 2] =
    [("OPENCV_LOG_LEVEL", "SILENT"), ("OPENCV_FFMPEG_LOGLEVEL", "-8")];

/// Keeps FFmpeg's messages off stderr where we call it ourselves, or lets its warnings through.
pub fn silence_ffmpeg(is_silent: bool) {
    ffmpeg::log::set_level(if is_silent {
        ffmpeg::log::Level::Quiet
    } else {
        ffmpeg::log::Level::Warning
    });
}

/// Starts this program anew, in the same process, with both libraries told to be silent.
///
/// They read the environment, which a process cannot safely change for itself. Values that the user
/// has set stay. Returns when nothing is left to set, or when the program cannot be started anew:
/// chatter is no reason to fail.
pub fn restart_silenced() {
    let missing: Vec<_> =
        VARIABLES.iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        command.envs(missing.into_iter().copied());
        let _ = command.exec();
    }
}
