//! Just enough of the MP4 and MOV container to say what a cut file lacks, and when its last frames
//! are shown.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// A recording in fragments has two boxes for each second or so.
const MOST_BOXES: usize = 1_000_000;
/// Hours of frames that all differ in their interval.
const LARGEST_TABLE_BYTES: u64 = 256 << 20;
/// Frames are stored at most this many places from where they are shown.
const MOST_REORDERED: usize = 64;

/// What the boxes of an MP4 file say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mp4 {
    /// Whether there is a whole `moov` box, without which nothing can be decoded.
    pub(crate) has_index: bool,
    /// How far the last box reaches beyond the file's end.
    pub(crate) missing_bytes: u64,
    /// How the first video is to be turned, where it says so: the display matrix, by rows.
    pub(crate) matrix: Option<[i32; 9]>,
}

/// What is wrong with a file without its index.
pub(crate) const NO_INDEX: &str = "is cut: its index (`moov`) is missing, and without it nothing can be decoded; copy or download \
     the file again";

/// Reads the boxes; nothing when the file does not start as an MP4.
pub(crate) fn probe(path: &Path) -> io::Result<Option<Mp4>> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut mp4 = Mp4::default();
    let boxes = boxes(&mut file, 0, file_bytes)?;
    let known = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"];
    if !boxes.first().is_some_and(|first| known.contains(&&first.name)) {
        return Ok(None);
    }
    for found in &boxes {
        mp4.missing_bytes = found.end.saturating_sub(file_bytes);
        mp4.has_index |= &found.name == b"moov" && mp4.missing_bytes == 0;
    }
    mp4.matrix = matrix(&mut file, file_bytes)?;
    Ok(Some(mp4))
}

/// The display matrix of the first video track.
fn matrix(file: &mut File, file_bytes: u64) -> io::Result<Option<[i32; 9]>> {
    let Some((track, _)) = video_track(file, file_bytes)? else { return Ok(None) };
    let header = table(file, track, b"tkhd")?;
    let at = if header.first() == Some(&1) { 52 } else { 40 };
    let Some(bytes) = header.get(at..at + 36) else { return Ok(None) };
    let mut matrix = [0; 9];
    for (number, bytes) in matrix.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(Some(matrix))
}

/// The number of frames of the first video track, and the intervals before each of the last
/// `count` in microseconds, in the order in which they are shown.
///
/// Nothing when the file has no such tables, as a recording in fragments, or odd ones.
pub(crate) fn last_steps_us(path: &Path, count: usize) -> io::Result<Option<(u64, Vec<i64>)>> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let Some((_, media)) = video_track(&mut file, file_bytes)? else { return Ok(None) };
    let Some(information) = child(&mut file, media, b"minf")? else { return Ok(None) };
    let Some(samples) = child(&mut file, information, b"stbl")? else { return Ok(None) };
    let header = table(&mut file, media, b"mdhd")?;
    let durations = table(&mut file, samples, b"stts")?;
    let offsets = table(&mut file, samples, b"ctts")?;
    Ok(steps_us(&header, &durations, &offsets, count))
}

/// The first video track, and the `mdia` box in it.
fn video_track(file: &mut File, file_bytes: u64) -> io::Result<Option<(Mp4Box, Mp4Box)>> {
    let whole = Mp4Box { name: *b"file", content: 0, end: file_bytes };
    let Some(movie) = child(file, whole, b"moov")? else { return Ok(None) };
    for track in boxes(file, movie.content, movie.end)? {
        let Some(media) = child(file, track, b"mdia")? else { continue };
        if table(file, media, b"hdlr")?.get(8..12) == Some(b"vide") {
            return Ok(Some((track, media)));
        }
    }
    Ok(None)
}

/// From the contents of `mdhd`, `stts` (runs of equal durations in the order of decoding) and `ctts`
/// (runs of equal offsets from decoding to showing).
fn steps_us(
    header: &[u8],
    durations: &[u8],
    offsets: &[u8],
    count: usize,
) -> Option<(u64, Vec<i64>)> {
    let scale_at = if header.first() == Some(&1) { 20 } else { 12 };
    let units_per_s = u32::from_be_bytes(*header.get(scale_at..)?.first_chunk()?);
    let frames = runs(durations).fold(0u64, |sum, (length, _)| sum.saturating_add(length));
    let wanted = count + 1 + MOST_REORDERED;
    // Backwards from the end, so that a table of hours costs no more than one of seconds.
    let offsets = last_first(offsets).chain(std::iter::repeat(0));
    let mut decoded = 0i64;
    let mut times: Vec<i64> = last_first(durations)
        .zip(offsets)
        .take(wanted)
        .map(|(duration, offset)| {
            decoded = decoded.saturating_sub(duration);
            decoded.saturating_add(offset)
        })
        .collect();
    times.sort_unstable();
    let shown = times.split_off(times.len().checked_sub(count + 1)?);
    let us = |units: i64| (units as f64 * 1e6 / f64::from(units_per_s)).round() as i64;
    let steps_us = shown.windows(2).map(|pair| us(pair[1]).saturating_sub(us(pair[0])));
    Some((frames, steps_us.collect()))
}

/// The table's runs: how many frames, and their value. Version, flags and count come first.
fn runs(table: &[u8]) -> impl DoubleEndedIterator<Item = (u64, i64)> {
    table.get(8..).unwrap_or_default().chunks_exact(8).map(|run| {
        let [a, b, c, d, value @ ..] = run else { return (0, 0) };
        let value = <[u8; 4]>::try_from(value).map_or(0, i32::from_be_bytes);
        (u64::from(u32::from_be_bytes([*a, *b, *c, *d])), i64::from(value))
    })
}

/// The values of single frames, the last frame first.
fn last_first(table: &[u8]) -> impl Iterator<Item = i64> {
    runs(table).rev().flat_map(|(length, value)| (0..length).map(move |_| value))
}

/// The boxes between two places, the last of which may reach beyond.
fn boxes(file: &mut File, mut start: u64, end: u64) -> io::Result<Vec<Mp4Box>> {
    let mut boxes = Vec::new();
    while boxes.len() < MOST_BOXES {
        let Some(found) = read_box(file, start, end)? else { break };
        boxes.push(found);
        start = found.end;
    }
    Ok(boxes)
}

/// The first box of a name that lies whole inside another.
fn child(file: &mut File, parent: Mp4Box, name: &[u8; 4]) -> io::Result<Option<Mp4Box>> {
    let boxes = boxes(file, parent.content, parent.end)?;
    Ok(boxes.into_iter().find(|found| &found.name == name && found.end <= parent.end))
}

/// The content of a box inside another; empty where there is none.
fn table(file: &mut File, parent: Mp4Box, name: &[u8; 4]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if let Some(found) = child(file, parent, name)? {
        file.seek(SeekFrom::Start(found.content))?;
        let length_bytes = (found.end - found.content).min(LARGEST_TABLE_BYTES);
        // The allocation grows with what is really there.
        file.take(length_bytes).read_to_end(&mut content)?;
    }
    Ok(content)
}

#[derive(Clone, Copy)]
struct Mp4Box {
    name: [u8; 4],
    content: u64,
    end: u64,
}

/// The box that starts at a place; nothing at the file's end or where no box can be.
fn read_box(file: &mut File, start: u64, file_bytes: u64) -> io::Result<Option<Mp4Box>> {
    if start >= file_bytes {
        return Ok(None);
    }
    let Some(head) = read_at::<8>(file, start)? else { return Ok(None) };
    let [a, b, c, d, name @ ..] = head;
    let (content, size) = match u32::from_be_bytes([a, b, c, d]) {
        0 => (start + 8, file_bytes - start),
        1 => match read_at::<8>(file, start + 8)? {
            Some(size) => (start + 16, u64::from_be_bytes(size)),
            None => return Ok(None),
        },
        size => (start + 8, u64::from(size)),
    };
    let end = start.saturating_add(size);
    Ok((end >= content).then_some(Mp4Box { name, content, end }))
}

/// Bytes at a place; nothing when the file ends before them.
fn read_at<const N: usize>(file: &mut File, at: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let size = 8 + content.len() as u32;
        [&size.to_be_bytes(), &name[..], content].concat()
    }

    fn check(bytes: &[u8], expected: Option<Mp4>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        assert_eq!(probe(file.path()).unwrap(), expected);
    }

    #[test]
    fn whole_and_cut_files_are_told_apart() {
        let whole = Mp4 { has_index: true, ..Mp4::default() };
        let file = [of(b"ftyp", b"isom"), of(b"moov", &[1; 30]), of(b"mdat", &[7; 50])].concat();
        check(&file, Some(whole));
        check(&file[..file.len() - 20], Some(Mp4 { missing_bytes: 20, ..whole }));
        // The index at the end, and cut off.
        let file = [of(b"ftyp", b"isom"), of(b"mdat", &[7; 50]), of(b"moov", &[1; 30])].concat();
        check(&file, Some(whole));
        check(&file[..12 + 58], Some(Mp4::default()));
        check(&file[..file.len() - 1], Some(Mp4 { missing_bytes: 1, ..Mp4::default() }));
        check(&file[..40], Some(Mp4 { missing_bytes: 30, ..Mp4::default() }));
    }

    fn table_of(name: &[u8; 4], runs: &[(u32, i32)]) -> Vec<u8> {
        let mut content = vec![0; 8];
        for (length, value) in runs {
            content.extend_from_slice(&length.to_be_bytes());
            content.extend_from_slice(&value.to_be_bytes());
        }
        of(name, &content)
    }

    fn track(kind: &[u8; 4], durations: &[(u32, i32)], offsets: &[(u32, i32)]) -> Vec<u8> {
        let handler = of(b"hdlr", &[&[0; 8], &kind[..], &[0; 12]].concat());
        let header = of(b"mdhd", &[&[0; 12], &1000u32.to_be_bytes()[..], &[0; 8]].concat());
        let tables =
            [table_of(b"stsz", &[]), table_of(b"stts", durations), table_of(b"ctts", offsets)];
        let information = of(b"minf", &of(b"stbl", &tables.concat()));
        of(b"trak", &of(b"mdia", &[handler, header, information].concat()))
    }

    fn check_steps(movie: &[u8], count: usize, expected: Option<(u64, Vec<i64>)>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [of(b"ftyp", b"isom"), of(b"moov", movie)].concat()).unwrap();
        assert_eq!(last_steps_us(file.path(), count).unwrap(), expected);
    }

    #[test]
    fn the_last_intervals_are_those_of_the_frames_as_shown() {
        let sound = track(b"soun", &[(9, 1)], &[]);
        // Decoded at 0, 40, .. 120, 140, 200; the last two are shown in the other order.
        let durations = [(3, 40), (1, 20), (1, 60), (1, 10)];
        let video = track(b"vide", &durations, &[(4, 80), (1, 160), (1, 70)]);
        let movie = [sound, video].concat();
        // Shown at 80, 120, 160, 200, then 300 and 270.
        check_steps(&movie, 2, Some((6, vec![70_000, 30_000])));
        check_steps(&movie, 0, Some((6, vec![])));
        check_steps(&movie, 5, Some((6, vec![40_000, 40_000, 40_000, 70_000, 30_000])));
        check_steps(&movie, 6, None);
    }

    #[test]
    fn tables_that_lie_are_survived() {
        check_steps(b"", 3, None);
        check_steps(&of(b"trak", b""), 3, None);
        check_steps(&track(b"vide", &[], &[]), 3, None);
        let endless = [(u32::MAX, i32::MIN); 3];
        let frames = 3 * u64::from(u32::MAX);
        check_steps(
            &track(b"vide", &endless, &endless),
            1,
            Some((frames, vec![2_147_483_648_000])),
        );
    }

    #[test]
    fn large_sizes_are_read() {
        let mut mdat = [&1u32.to_be_bytes(), &b"mdat"[..], &1016u64.to_be_bytes()].concat();
        mdat.extend_from_slice(&[0; 600]);
        check(&mdat, Some(Mp4 { missing_bytes: 400, ..Mp4::default() }));
        let open_ended = [&0u32.to_be_bytes(), &b"mdat"[..], &[0; 30]].concat();
        check(&open_ended, Some(Mp4::default()));
    }

    #[test]
    fn other_files_and_hostile_sizes_are_survived() {
        check(b"", None);
        check(b"just some text, no video at all", None);
        check(&[0; 64], None);
        let hostile = [&1u32.to_be_bytes(), &b"mdat"[..], &u64::MAX.to_be_bytes()].concat();
        check(&hostile, Some(Mp4 { missing_bytes: u64::MAX - 16, ..Mp4::default() }));
        let empty_box = [&1u32.to_be_bytes(), &b"free"[..], &3u64.to_be_bytes()].concat();
        check(&empty_box, None);
    }
}
