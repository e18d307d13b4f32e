//! The tables: one row for each frame, and one for each video.

use super::summary::Video;
use std::io::Write;

/// Writes a row for each frame of each video.
///
/// `cut` is 1 in the first frame of a new scene. `score` is empty in the first frame, and what a
/// detector did not look at has no classes.
pub(super) fn write_frames(out: impl Write, videos: &[Video]) -> csv::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record([
        "video",
        "frame",
        "time_s",
        "lightness",
        "score",
        "cut",
        "classes",
        "classes_so_far",
    ])?;
    for video in videos {
        let mut cuts = video.cuts.iter().copied().peekable();
        let mut classes = video.classes.iter().flatten().peekable();
        for (position, frame) in video.frames.iter().enumerate() {
            let is_cut = cuts.next_if_eq(&position).is_some();
            let count = classes.next_if(|(at, _)| *at == position).map(|(_, count)| count);
            table.write_record([
                &*video.name,
                &frame.source_frame.to_string(),
                &format!("{:.6}", frame.pts_us as f64 * 1e-6),
                &format!("{:.3}", frame.lightness),
                &frame.score.map(|score| format!("{score:.4}")).unwrap_or_default(),
                if is_cut { "1" } else { "0" },
                &count.map(|count| count.here.to_string()).unwrap_or_default(),
                &count.map(|count| count.so_far.to_string()).unwrap_or_default(),
            ])?;
        }
    }
    Ok(table.flush()?)
}

/// Writes a row for each video, all compared over `length_us` microseconds.
pub(super) fn write_videos(out: impl Write, videos: &[Video], length_us: i64) -> csv::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record([
        "video",
        "compared_s",
        "frames",
        "cuts",
        "lightness_mean",
        "lightness_sd",
        "lightness_largest_step",
        "classes_per_frame",
        "classes",
    ])?;
    for video in videos {
        let summary = video.summary();
        table.write_record([
            &*video.name,
            &format!("{:.3}", length_us as f64 * 1e-6),
            &video.frames.len().to_string(),
            &video.cuts.len().to_string(),
            &format!("{:.2}", summary.lightness_mean),
            &format!("{:.2}", summary.lightness_sd),
            &format!("{:.2}", summary.lightness_largest_step),
            &summary.classes_per_frame.map(|mean| format!("{mean:.3}")).unwrap_or_default(),
            &summary.classes.map(|count| count.to_string()).unwrap_or_default(),
        ])?;
    }
    Ok(table.flush()?)
}
