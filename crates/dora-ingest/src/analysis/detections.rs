//! Object classes per frame, from a detector's output as CSV.
//!
//! Columns are `frame` (the number in the video, from 0) and `class` (a name or a number), and
//! `video` where several are compared. A header names them in any order and may name others, which
//! are ignored; without one they are `frame,class` or `video,frame,class`. One row for each object;
//! a class counts once in a frame. A frame without a row was not looked at: one in which nothing was
//! found has a row with an empty class.

use crate::error::IngestError;
use csv::{ErrorKind, Position, ReaderBuilder, StringRecord, Trim};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// What was found in one video.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Detections {
    /// Frame and class, by which they are sorted, each pair once. Frames in which nothing was found
    /// have no class.
    rows: Vec<(u64, Option<u32>)>,
}

/// The classes of one frame that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClassCount {
    /// Number in the source.
    pub(super) source_frame: u64,
    /// How many different ones it shows.
    pub(super) here: usize,
    /// How many different ones were seen so far, this frame included.
    pub(super) so_far: usize,
}

impl Detections {
    /// The last frame that has a row.
    pub(super) fn last_frame(&self) -> Option<u64> {
        self.rows.last().map(|(frame, _)| *frame)
    }

    /// Counts classes frame by frame, in the order of frames.
    pub(super) fn counts(&self) -> Vec<ClassCount> {
        let mut seen = HashSet::new();
        let by_frame = self.rows.chunk_by(|(before, _), (after, _)| before == after);
        by_frame
            .map(|rows| {
                let classes = rows.iter().filter_map(|(_, class)| *class);
                let here = classes.clone().count();
                seen.extend(classes);
                ClassCount { source_frame: rows[0].0, here, so_far: seen.len() }
            })
            .collect()
    }
}

/// Reads a file of detections; gives those of each video, in the order of `videos`.
///
/// `videos` are the paths as the user named them. The column `video` holds such a path, a file name, or
/// a file name without extension; rows of other videos are left out.
///
/// # Errors
/// A row that cannot be read (with its line), a missing column, a video without any row.
pub(super) fn read(path: &Path, videos: &[&Path]) -> Result<Vec<Detections>, IngestError> {
    let file = File::open(path).map_err(IngestError::io("open", path))?;
    let data = file.metadata().map_err(IngestError::io("read", path))?;
    if !data.is_file() {
        return Err(IngestError::input(
            path,
            "is no file; name the CSV file of a detector's output",
        ));
    }
    parse(file, videos).map_err(|problem| match problem {
        Problem::Content(what) => IngestError::input(path, what),
        Problem::Io(error) => IngestError::io("read", path)(error),
    })
}

/// What is wrong with the file.
#[derive(Debug)]
enum Problem {
    /// Words that follow the file's name.
    Content(String),
    Io(io::Error),
}

/// What is wrong with a row, and about where that begins.
struct WrongRow {
    at: Position,
    what: String,
}

/// Where the columns are.
#[derive(Debug, Clone, Copy)]
struct Columns {
    video: Option<usize>,
    frame: usize,
    class: usize,
    /// How many fields every row has.
    count: usize,
}

fn parse(mut file: impl Read + Seek, videos: &[&Path]) -> Result<Vec<Detections>, Problem> {
    let mut reader = ReaderBuilder::new();
    let reader = reader.has_headers(false).flexible(true).trim(Trim::All);
    let mut rows = Rows::new(videos);
    let mut reader = reader.from_reader(&mut file);
    let mut row = StringRecord::new();
    let wrong = loop {
        match reader.read_record(&mut row) {
            Ok(false) => return rows.finish(),
            Ok(true) => {
                if let Err(what) = rows.add(&row) {
                    let at = row.position().cloned().unwrap_or_else(Position::new);
                    break WrongRow { at, what };
                }
            }
            Err(error) => {
                let at = error.position().cloned().unwrap_or_else(Position::new);
                match error.into_kind() {
                    ErrorKind::Io(error) => return Err(Problem::Io(error)),
                    ErrorKind::Utf8 { .. } => break WrongRow { at, what: "no UTF-8 text".into() },
                    _ => break WrongRow { at, what: "no CSV".into() },
                }
            }
        }
    };
    drop(reader);
    let line = line_of(&mut file, &wrong.at).map_err(Problem::Io)?;
    Err(Problem::Content(format!("is wrong on line {line}: {}", wrong.what)))
}

/// The number of the line where a row begins: its position is that before the empty lines above it.
fn line_of(file: &mut (impl Read + Seek), at: &Position) -> io::Result<u64> {
    file.seek(SeekFrom::Start(at.byte()))?;
    let mut line = at.line();
    for byte in BufReader::new(file).bytes() {
        match byte? {
            b'\n' => line += 1,
            b'\r' => {}
            _ => break,
        }
    }
    Ok(line)
}

/// Rows that become the detections of each video.
struct Rows<'a> {
    videos: &'a [&'a Path],
    labels: HashMap<String, Label>,
    columns: Option<Columns>,
    classes: HashMap<String, u32>,
    found: Vec<Detections>,
    /// Some labels that are none of the videos.
    others: Vec<String>,
}

impl<'a> Rows<'a> {
    fn new(videos: &'a [&'a Path]) -> Self {
        Self {
            videos,
            labels: labels(videos),
            columns: None,
            classes: HashMap::new(),
            found: vec![Detections::default(); videos.len()],
            others: Vec::new(),
        }
    }

    /// Takes the next row, the header included; says what is wrong with it.
    fn add(&mut self, row: &StringRecord) -> Result<(), String> {
        let Some(at) = self.columns else {
            let (columns, is_header) = columns_of(row, self.videos.len())?;
            self.columns = Some(columns);
            return if is_header { Ok(()) } else { self.add(row) };
        };
        if row.len() != at.count {
            return Err(format!("{} fields, and {} in the rows before", row.len(), at.count));
        }
        let frame = row[at.frame].parse::<u64>().map_err(|_| {
            format!("the frame is `{}`; write its number, from 0 on", shown(&row[at.frame]))
        })?;
        let video = match at.video.map(|column| &row[column]) {
            None => 0,
            Some(label) => match self.labels.get(label) {
                Some(Label::Video(video)) => *video,
                Some(Label::Ambiguous) => {
                    let label = shown(label);
                    return Err(format!(
                        "`{label}` may be more than one of the videos; write their paths as on the \
                         command line"
                    ));
                }
                None => {
                    let label = shown(label);
                    if self.others.len() < 3 && !self.others.contains(&label) {
                        self.others.push(label);
                    }
                    return Ok(());
                }
            },
        };
        let class = match &row[at.class] {
            "" => None,
            name => Some(self.number(name)),
        };
        self.found[video].rows.push((frame, class));
        Ok(())
    }

    /// The number of a class.
    fn number(&mut self, name: &str) -> u32 {
        let next = self.classes.len() as u32;
        match self.classes.get(name) {
            Some(number) => *number,
            None => *self.classes.entry(name.to_owned()).or_insert(next),
        }
    }

    fn finish(mut self) -> Result<Vec<Detections>, Problem> {
        for (detections, video) in self.found.iter_mut().zip(self.videos) {
            if detections.rows.is_empty() {
                let others = match self.others.as_slice() {
                    [] => String::new(),
                    others => format!("; it has some for `{}`", others.join("`, `")),
                };
                let what = format!("has no row for `{}`{others}", video.display());
                return Err(Problem::Content(what));
            }
            detections.rows.sort_unstable();
            detections.rows.dedup();
        }
        Ok(self.found)
    }
}

/// What a label in the column `video` stands for.
#[derive(Debug, Clone, Copy)]
enum Label {
    Video(usize),
    Ambiguous,
}

/// Every way to name a video.
fn labels(videos: &[&Path]) -> HashMap<String, Label> {
    let mut labels = HashMap::new();
    for (number, video) in videos.iter().enumerate() {
        let whole = video.to_string_lossy().into_owned();
        for part in [video.file_name(), video.file_stem()].into_iter().flatten() {
            let part = part.to_string_lossy().into_owned();
            if part == whole {
                continue;
            }
            let label = labels.entry(part).or_insert(Label::Video(number));
            if !matches!(label, Label::Video(known) if *known == number) {
                *label = Label::Ambiguous;
            }
        }
    }
    // A path as given means that video, whatever else it could.
    for (number, video) in videos.iter().enumerate() {
        labels.insert(video.to_string_lossy().into_owned(), Label::Video(number));
    }
    labels
}

/// The columns that the first row tells, and whether it is a header.
fn columns_of(row: &StringRecord, videos: usize) -> Result<(Columns, bool), String> {
    let count = row.len();
    let named = |name: &str| row.iter().position(|field| field.eq_ignore_ascii_case(name));
    let is_frame = |column: usize| row[column].parse::<u64>().is_ok();
    let (columns, is_header) = match (named("frame"), named("class"), count) {
        (Some(frame), Some(class), _) => {
            (Columns { video: named("video"), frame, class, count }, true)
        }
        (_, _, 2) if is_frame(0) => (Columns { video: None, frame: 0, class: 1, count }, false),
        (_, _, 3) if is_frame(1) => (Columns { video: Some(0), frame: 1, class: 2, count }, false),
        _ => {
            return Err("neither a header with `frame` and `class`, nor frame,class or \
                        video,frame,class"
                .into());
        }
    };
    if columns.video.is_none() && videos > 1 {
        return Err(format!("of which of the {videos} videos? add a column `video`"));
    }
    Ok((columns, is_header))
}

fn shown(field: &str) -> String {
    field.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// For each video: frame, classes in it, classes so far.
    type Counts = Vec<Vec<(u64, usize, usize)>>;

    fn parsed(text: &str, videos: &[&str]) -> Result<Counts, String> {
        let videos: Vec<&Path> = videos.iter().map(Path::new).collect();
        match parse(Cursor::new(text), &videos) {
            Ok(found) => Ok(found
                .iter()
                .map(|detections| {
                    let counts = detections.counts();
                    counts.iter().map(|c| (c.source_frame, c.here, c.so_far)).collect()
                })
                .collect()),
            Err(Problem::Content(what)) => Err(what),
            Err(Problem::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn classes_are_counted_once_in_a_frame() {
        let text = "3,car\n0,person\n0,car\n0,person\n2,\n3,\"dog, small\"\n3,Car\n";
        let expected = vec![vec![(0, 2, 2), (2, 0, 2), (3, 3, 4)]];
        assert_eq!(parsed(text, &["a.mp4"]), Ok(expected));
    }

    #[test]
    fn headers_name_the_columns() {
        let expected = Ok(vec![vec![(7, 1, 1)]]);
        for text in [
            "frame,class\n7,car\n",
            "\u{feff}Class , Frame\r\ncar,7\r\n",
            "score,class,frame,x\n0.5,car,7,12.5\n\n0.7,car,7,1\n",
            "video,frame,class\na.mp4,7,car\nother.mp4,8,car\n",
            "a,7,car\nother,8,car",
        ] {
            assert_eq!(parsed(text, &["walks/a.mp4"]), expected, "{text}");
        }
    }

    #[test]
    fn rows_find_their_video() {
        let text = "x/a.mp4,0,car\ny/a.mp4,1,car\nb,2,dog\nb.mp4,3,dog\n";
        let expected = vec![vec![(0, 1, 1)], vec![(1, 1, 1)], vec![(2, 1, 1), (3, 1, 1)]];
        assert_eq!(parsed(text, &["x/a.mp4", "y/a.mp4", "z/b.mp4"]), Ok(expected));
    }

    #[test]
    fn a_wrong_row_is_named_with_its_line() {
        let (one, two) = (&["a.mp4"][..], &["a.mp4", "b.mp4"][..]);
        for (text, videos, expected) in [
            ("", one, "has no row for `a.mp4`"),
            ("frame,class\n", one, "has no row for `a.mp4`"),
            ("0,car\n1,car\n\n1.5,car\n", one, "on line 4: the frame is `1.5`; write its number"),
            ("0,car\r\n\r\n-1,car", one, "on line 3: the frame is `-1`"),
            ("\"0\",\"a\nb\"\n1,car,2\n", one, "on line 3: 3 fields, and 2 in the rows before"),
            ("image,label\n1,car\n", one, "on line 1: neither a header with `frame`"),
            ("\n\ncar\n", one, "on line 3: neither"),
            ("0,car\n", two, "of which of the 2 videos? add a column `video`"),
            ("a,0,car\n", two, "has no row for `b.mp4`"),
            ("c,0,car\nd,0,car\nc,0,car", one, "`a.mp4`; it has some for `c`, `d`"),
            ("a.mp4,0,car\n", &["x/a.mp4", "y/a.mp4"], "line 1: `a.mp4` may be more than one"),
        ] {
            let error = parsed(text, videos).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let bytes = &b"0,car\n\n1,\xff\n"[..];
        let Err(Problem::Content(what)) = parse(Cursor::new(bytes), &[Path::new("a")]) else {
            panic!()
        };
        assert_eq!(what, "is wrong on line 3: no UTF-8 text");
    }
}
