//! Moving pictures, written frame by frame: animated GIFs, or MP4 by the `ffmpeg` program.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use dora_store::atomic;
use image::RgbImage;

use crate::pictures::gif::{Gif, GifError};

/// How a moving picture is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MovieKind {
    /// An animated GIF: shown everywhere, large.
    Gif,
    /// H.264 in MP4, by the `ffmpeg` program.
    Mp4,
}

/// A moving picture in the making. Its file appears when it is finished.
pub enum Movie {
    /// An animated GIF.
    Gif {
        /// Where it goes.
        path: PathBuf,
        /// The frames so far.
        gif: Gif,
    },
    /// A file that another program writes.
    Mp4(Mp4),
}

/// A running `ffmpeg`; it is ended, and its file removed, unless the movie is finished.
#[derive(Debug)]
pub struct Mp4 {
    path: PathBuf,
    part: PathBuf,
    child: Child,
}

/// Why there is no moving picture.
#[derive(Debug, thiserror::Error)]
pub enum MovieError {
    /// The GIF cannot be made.
    #[error(transparent)]
    Gif(#[from] GifError),
    /// The program is missing or cannot be started.
    #[error(
        "MP4 is written by the program `ffmpeg`, which cannot be started: install it, or use --movie gif"
    )]
    NoFfmpeg(#[source] io::Error),
    /// The program did not like it.
    #[error("ffmpeg could not write {}: {said}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// Its last words.
        said: String,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl MovieKind {
    /// What names of files end in.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gif => "gif",
            Self::Mp4 => "mp4",
        }
    }

    /// Finds out whether such movies can be written on this machine.
    pub fn check(self) -> Result<(), MovieError> {
        if self == Self::Gif {
            return Ok(());
        }
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ffmpeg.status().map(|_| ()).map_err(MovieError::NoFfmpeg)
    }
}

impl Movie {
    /// A movie of `fps` frames a second, of columns x rows, at `path` without its extension.
    pub fn new(
        kind: MovieKind,
        path: &Path,
        size: (u32, u32),
        fps: f64,
    ) -> Result<Self, MovieError> {
        let path = path.with_extension(kind.extension());
        Ok(match kind {
            MovieKind::Gif => Self::Gif { path, gif: Gif::new(size, fps)? },
            MovieKind::Mp4 => Self::Mp4(Mp4::new(path, size, fps)?),
        })
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &RgbImage) -> Result<(), MovieError> {
        match self {
            Self::Gif { gif, .. } => Ok(gif.push(std::slice::from_ref(frame))?),
            Self::Mp4(mp4) => mp4.push(frame),
        }
    }

    /// Writes the file; returns where it is.
    pub fn finish(self) -> Result<PathBuf, MovieError> {
        match self {
            Self::Gif { path, gif } => {
                let written = atomic::write_file(&path, &gif.finish()?);
                written.map_err(|source| MovieError::Io { path: path.clone(), source })?;
                Ok(path)
            }
            Self::Mp4(mp4) => mp4.finish(),
        }
    }
}

impl Mp4 {
    fn new(path: PathBuf, (width, height): (u32, u32), fps: f64) -> Result<Self, MovieError> {
        // Always the same name: what an interrupted run leaves, the next one overwrites.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.part"));
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-y", "-loglevel", "error", "-f", "rawvideo", "-pixel_format", "rgb24"]);
        ffmpeg.args(["-video_size", &format!("{width}x{height}"), "-framerate", &fps.to_string()]);
        // Players want colours at half the resolution, and that wants even sides.
        let filter = "pad=ceil(iw/2)*2:ceil(ih/2)*2";
        ffmpeg.args(["-i", "-", "-vf", filter, "-pix_fmt", "yuv420p", "-movflags", "+faststart"]);
        ffmpeg.args(["-f", "mp4"]).arg(absolute(&part)?);
        ffmpeg.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = ffmpeg.spawn().map_err(MovieError::NoFfmpeg)?;
        Ok(Self { path, part, child })
    }

    fn push(&mut self, frame: &RgbImage) -> Result<(), MovieError> {
        let written = match &mut self.child.stdin {
            Some(pipe) => pipe.write_all(frame.as_raw()),
            None => Ok(()),
        };
        // It has ended: what it said tells more than a closed pipe.
        written.map_err(|_| self.failure())
    }

    fn finish(mut self) -> Result<PathBuf, MovieError> {
        drop(self.child.stdin.take());
        let failed = |source| MovieError::Io { path: self.path.clone(), source };
        let status = self.child.wait().map_err(failed)?;
        if !status.success() {
            return Err(self.failure());
        }
        fs::rename(&self.part, &self.path)
            .map_err(|source| MovieError::Io { path: self.path.clone(), source })?;
        Ok(self.path.clone())
    }

    fn failure(&mut self) -> MovieError {
        drop(self.child.stdin.take());
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = pipe.read_to_string(&mut said);
        }
        let said = said.lines().last().unwrap_or("it ended without a word").trim().to_owned();
        MovieError::Failed { path: self.path.clone(), said }
    }
}

impl Drop for Mp4 {
    fn drop(&mut self) {
        // After a finished movie neither is there any more.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.part);
    }
}

/// A name that begins with `-` would be an option, one with a colon a protocol.
fn absolute(path: &Path) -> Result<PathBuf, MovieError> {
    std::path::absolute(path).map_err(|source| MovieError::Io { path: path.into(), source })
}
