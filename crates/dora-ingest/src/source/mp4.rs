//! Just enough of the MP4 and MOV container to say what a cut file lacks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// A recording in fragments has two boxes for each second or so.
const MOST_BOXES: usize = 1_000_000;

/// What the boxes of an MP4 file say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mp4 {
    /// Whether there is a whole `moov` box, without which nothing can be decoded.
    pub(crate) has_index: bool,
    /// How far the last box reaches beyond the file's end.
    pub(crate) missing_bytes: u64,
}

/// Reads the boxes; nothing when the file does not start as an MP4.
pub(crate) fn probe(path: &Path) -> io::Result<Option<Mp4>> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut mp4 = Mp4::default();
    let mut start = 0;
    for count in 0..MOST_BOXES {
        let Some(found) = read_box(&mut file, start, file_bytes)? else { break };
        let known = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"];
        if count == 0 && !known.contains(&&found.name) {
            return Ok(None);
        }
        mp4.missing_bytes = found.end.saturating_sub(file_bytes);
        mp4.has_index |= &found.name == b"moov" && mp4.missing_bytes == 0;
        start = found.end;
    }
    Ok((start > 0).then_some(mp4))
}

struct Mp4Box {
    name: [u8; 4],
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
    Ok((end >= content).then_some(Mp4Box { name, end }))
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
        let whole = Mp4 { has_index: true, missing_bytes: 0 };
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
