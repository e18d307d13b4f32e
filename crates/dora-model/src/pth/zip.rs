//! Where the records of a zip archive lie that `torch.save` has written: stored, never compressed.
//!
//! The ZIP specification (APPNOTE 6.3), as far as those archives go, with the 64-bit extension. No number in
//! the file decides how much memory is taken before it is compared with the file's length.

use super::{
    PthError, Source,
    container::{Span, read_span},
};

/// More bytes of directory than any checkpoint has: 2^15 records of the usual length.
const MOST_DIRECTORY_BYTES: u64 = 4 << 20;

const END_BYTES: u64 = 22;
const END64_BYTES: u64 = 56;
const LOCATOR_BYTES: u64 = 20;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;
const MOST_COMMENT_BYTES: u64 = 0xffff;

/// Names and places of all records of an archive of `len` bytes.
pub(super) fn records(source: &mut impl Source, len: u64) -> Result<Vec<(String, Span)>, PthError> {
    let Directory { span, count } = directory(source, len)?;
    let bytes = read_span(source, span)?;
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let entry = Entry::read(&mut rest).ok_or(PthError::Zip)?;
        if entry.is_packed {
            return Err(PthError::Packed(entry.name));
        }
        let local = read_part(source, entry.place, LOCAL_BYTES, len)?;
        let names_bytes = u64::from(u16_at(&local, 26)?) + u64::from(u16_at(&local, 28)?);
        if !local.starts_with(b"PK\x03\x04") {
            return Err(PthError::Zip);
        }
        let start = entry.place + LOCAL_BYTES + names_bytes;
        if start.checked_add(entry.len).is_none_or(|end| end > len) {
            return Err(PthError::Outside(entry.name));
        }
        records.push((entry.name, Span { start, len: entry.len }));
    }
    if records.len() as u64 == count { Ok(records) } else { Err(PthError::Zip) }
}

/// The list of records.
struct Directory {
    span: Span,
    count: u64,
}

/// Finds the directory from the file's end.
fn directory(source: &mut impl Source, len: u64) -> Result<Directory, PthError> {
    let tail_bytes = len.min(END_BYTES + MOST_COMMENT_BYTES);
    let tail = read_span(source, Span { start: len - tail_bytes, len: tail_bytes })?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06")
            && u16_at(&tail[*at..], 20)
                .is_ok_and(|comment| at + END_BYTES as usize + usize::from(comment) == tail.len())
    };
    let at = (0..tail.len()).rev().find(is_end).ok_or(PthError::Zip)?;
    let end = &tail[at..];
    let end_place = len - tail_bytes + at as u64;
    let (count, bytes, start) = match locator(source, end_place, len)? {
        Some(place) => {
            let end64 = read_part(source, place, END64_BYTES, len)?;
            if !end64.starts_with(b"PK\x06\x06") {
                return Err(PthError::Zip);
            }
            (u64_at(&end64, 32)?, u64_at(&end64, 40)?, u64_at(&end64, 48)?)
        }
        None => (u16_at(end, 10)?.into(), u32_at(end, 12)?.into(), u32_at(end, 16)?.into()),
    };
    let fits = start.checked_add(bytes).is_some_and(|stop| stop <= end_place);
    if !fits || bytes > MOST_DIRECTORY_BYTES {
        return Err(PthError::Zip);
    }
    Ok(Directory { span: Span { start, len: bytes }, count })
}

/// Where the 64-bit end of the directory lies, if there is one.
fn locator(source: &mut impl Source, end: u64, len: u64) -> Result<Option<u64>, PthError> {
    let Some(place) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let locator = read_part(source, place, LOCATOR_BYTES, len)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    u64_at(&locator, 8).map(Some)
}

/// A record as the directory describes it.
struct Entry {
    name: String,
    /// Of its header in the file.
    place: u64,
    len: u64,
    /// Compressed or encrypted.
    is_packed: bool,
}

impl Entry {
    /// Takes the first entry of `rest`.
    fn read(rest: &mut &[u8]) -> Option<Self> {
        let (head, tail) = rest.split_at_checked(ENTRY_BYTES)?;
        if !head.starts_with(b"PK\x01\x02") {
            return None;
        }
        let part = |at: usize| u16_at(head, at).ok().map(usize::from);
        let (name, tail) = tail.split_at_checked(part(28)?)?;
        let (extra, tail) = tail.split_at_checked(part(30)?)?;
        let (_comment, tail) = tail.split_at_checked(part(32)?)?;
        *rest = tail;
        let mut wide = wide_numbers(extra);
        let mut number = |at: usize| match u32_at(head, at).ok()? {
            u32::MAX => wide.next(),
            narrow => Some(narrow.into()),
        };
        let (len, packed_len, place) = (number(24)?, number(20)?, number(42)?);
        let is_packed = part(10)? != 0 || part(8)? & 1 != 0 || packed_len != len;
        Some(Self { name: String::from_utf8_lossy(name).into_owned(), place, len, is_packed })
    }
}

/// The 64-bit numbers of an entry, in the order of those that do not fit 32 bits.
fn wide_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers: &[u8] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let Some((field, rest)) = rest.split_at_checked(len) else { break };
        if head[..2] == [1, 0] {
            numbers = field;
        }
        extra = rest;
    }
    numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number))
}

/// Bytes that must lie inside the file.
fn read_part(
    source: &mut impl Source,
    start: u64,
    bytes: u64,
    len: u64,
) -> Result<Vec<u8>, PthError> {
    if start.checked_add(bytes).is_none_or(|end| end > len) {
        return Err(PthError::Zip);
    }
    read_span(source, Span { start, len: bytes })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, PthError> {
    chunk(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, PthError> {
    chunk(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, PthError> {
    chunk(bytes, at).map(u64::from_le_bytes)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], PthError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(PthError::Zip)
}
