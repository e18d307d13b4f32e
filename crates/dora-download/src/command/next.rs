//! What to do with the videos, with the times that the manifest gives.

use super::Video;
use std::fmt::Write as _;
use std::path::Path;

/// The command that comes next: training on one video, decoding several.
pub(super) fn lines(videos: &[Video]) -> Vec<String> {
    let mut lines: Vec<String> = videos
        .iter()
        .filter_map(|video| {
            let defect = video.tour.defect(video.source)?;
            Some(format!("note: {}: this copy {defect}", video.tour.word()))
        })
        .collect();
    if let [video] = videos {
        let (path, times) = (quoted(&video.path), times(video));
        lines.push(format!(
            "next: cargo xtask train --recipe vit_small_walk_paper --video {path}{times}"
        ));
        return lines;
    }
    let mut groups: Vec<(String, String)> = Vec::new();
    for video in videos {
        let (path, times) = (quoted(&video.path), times(video));
        match groups.iter_mut().find(|(other, _)| *other == times) {
            Some((_, paths)) => *paths = format!("{paths} {path}"),
            None => groups.push((times, path)),
        }
    }
    let commands =
        groups.iter().map(|(times, paths)| format!("next: cargo xtask ingest {paths}{times}"));
    lines.extend(commands);
    lines
}

fn times(video: &Video) -> String {
    let (start, end) = video.tour.range(video.source);
    let mut text = String::new();
    for (option, time) in [("--start", start), ("--end", end)] {
        if let Some(time) = time {
            let _ = write!(text, " {option} {time}");
        }
    }
    text
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if path.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c)) {
        return path;
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, Source};

    fn video(word: &str, source: Source, path: &str) -> Video {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/walking_tours.toml");
        let manifest = Manifest::read(&manifest).unwrap();
        let tour = manifest.select(&[word.to_owned()]).unwrap()[0].clone();
        Video { tour, path: path.into(), source }
    }

    #[test]
    fn the_next_command_leaves_out_what_is_blank() {
        assert_eq!(
            lines(&[video("venice", Source::Figshare, "data/V.mp4")]),
            [
                "note: venice: this copy runs 3:40:00 and is blank after 1:50:00",
                "next: cargo xtask train --recipe vit_small_walk_paper --video data/V.mp4 --end 1:50:00"
            ]
        );
        assert_eq!(
            lines(&[video("venice", Source::Youtube, "my data/V.webm")]),
            ["next: cargo xtask train --recipe vit_small_walk_paper --video 'my data/V.webm'"]
        );
        let all = [
            video("zurich", Source::Figshare, "Z.mp4"),
            video("venice", Source::Figshare, "V.mp4"),
            video("bangkok", Source::Youtube, "B.webm"),
        ];
        assert_eq!(
            lines(&all)[1..],
            [
                "next: cargo xtask ingest Z.mp4 B.webm",
                "next: cargo xtask ingest V.mp4 --end 1:50:00"
            ]
        );
        assert!(lines(&[]).is_empty());
    }
}
