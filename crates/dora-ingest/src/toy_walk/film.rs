//! The walk as an MP4, through OpenCV.

use anyhow::{Context, bail, ensure};
use opencv::core::{Mat, Size, Vec3b};
use opencv::prelude::*;
use opencv::videoio::{CAP_FFMPEG, CAP_PROP_FRAME_COUNT, VideoCapture, VideoWriter};
use std::path::Path;

/// Writes the pictures that come through the channel, then checks that the file holds them all.
pub(super) fn write(
    path: &Path,
    fps: f64,
    [width, height]: [usize; 2],
    pictures: crossbeam_channel::Receiver<Vec<u8>>,
) -> anyhow::Result<()> {
    let size = Size::new(width as i32, height as i32);
    let four = VideoWriter::fourcc('m', 'p', '4', 'v')?;
    let mut writer = VideoWriter::new_with_backend(path, CAP_FFMPEG, four, fps, size, true)?;
    if !writer.is_opened()? {
        bail!("OpenCV cannot write MP4 to `{}`: its FFmpeg part is missing", path.display());
    }
    let mut count = 0;
    for bgr in pictures {
        let flat = Mat::new_rows_cols_with_bytes::<Vec3b>(height as i32, width as i32, &bgr)?;
        writer.write(&flat)?;
        count += 1;
    }
    writer.release()?;
    // The writer is silent about a full disk; the file tells.
    let held = frame_count(path)?;
    ensure!(
        held == count,
        "`{}` holds {held} of {count} frames; is the disk full?",
        path.display()
    );
    Ok(())
}

/// Frames that an MP4 says it holds.
pub(super) fn frame_count(path: &Path) -> anyhow::Result<usize> {
    let name = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
    let film = VideoCapture::from_file(name, CAP_FFMPEG)?;
    if !film.is_opened()? {
        return Ok(0);
    }
    Ok(film.get(CAP_PROP_FRAME_COUNT)?.max(0.0) as usize)
}
