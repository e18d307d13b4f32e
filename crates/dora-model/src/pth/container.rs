//! The two containers of `torch.save`: a zip archive with a record for each storage, and before
//! PyTorch 1.6 a file of pickles with the storages behind them.

use std::{
    collections::HashMap,
    io::{Read, SeekFrom},
};

use super::{
    PthError, Source,
    pickle::{Id, MOST_INSTRUCTIONS, Node, Pickle},
    zip,
};

/// What every pickled checkpoint of before 1.6 opens with: a pickle of the number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 14] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";

/// More bytes of pickle than any checkpoint has: their tables are the only thing read whole.
const MOST_PICKLE_BYTES: u64 = 32 << 20;

/// Where a record lies in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// An opened container: the pickle of its values, and where its storages lie.
pub(super) struct Container<S> {
    pub(super) source: S,
    /// Bytes of the whole file.
    pub(super) len: u64,
    /// The pickle of the values.
    pub(super) pickle: Vec<u8>,
    /// Storages by their keys.
    pub(super) storages: HashMap<String, Span>,
}

/// Whether a file that opens with these bytes may be one of `torch.save`.
pub(crate) fn is_pth(head: &[u8]) -> bool {
    head.starts_with(&ZIP_MAGIC) || head.starts_with(&LEGACY_MAGIC)
}

impl<S: Source> Container<S> {
    /// Finds out which of the two it is, and reads what leads to the storages.
    pub(super) fn open(mut source: S) -> Result<Self, PthError> {
        let len = source.seek(SeekFrom::End(0))?;
        source.rewind()?;
        let mut head = [0; LEGACY_MAGIC.len()];
        let count = len.min(head.len() as u64) as usize;
        source.read_exact(&mut head[..count])?;
        source.rewind()?;
        if head.starts_with(&ZIP_MAGIC) {
            Self::open_zip(source, len)
        } else if head == LEGACY_MAGIC {
            Self::open_legacy(source, len)
        } else {
            Err(PthError::Format)
        }
    }

    fn open_zip(mut source: S, len: u64) -> Result<Self, PthError> {
        let records = zip::records(&mut source, len)?;
        // All records lie in one folder, named after the file as it was saved.
        let folder = records.iter().find_map(|(name, _)| name.strip_suffix("data.pkl"));
        let folder = folder.ok_or(PthError::NoPickle)?.to_owned();
        let spans: HashMap<String, Span> = records.into_iter().collect();
        if spans.contains_key(&format!("{folder}constants.pkl")) {
            return Err(PthError::TorchScript);
        }
        if let Some(order) = spans.get(&format!("{folder}byteorder"))
            && read_span(&mut source, *order)? != b"little"
        {
            return Err(PthError::BigEndian);
        }
        let pickle = spans[&format!("{folder}data.pkl")];
        check_pickle_len(pickle.len)?;
        let pickle = read_span(&mut source, pickle)?;
        let data = format!("{folder}data/");
        let storages = spans
            .into_iter()
            .filter_map(|(name, span)| Some((name.strip_prefix(&data)?.to_owned(), span)))
            .collect();
        Ok(Self { source, len, pickle, storages })
    }

    /// Magic number, version, the machine that wrote it, the values, the keys of the storages, and then
    /// each storage behind the number of its values.
    fn open_legacy(mut source: S, len: u64) -> Result<Self, PthError> {
        let mut bytes = Vec::new();
        source.by_ref().take(MOST_PICKLE_BYTES).read_to_end(&mut bytes)?;
        let (mut at, mut instructions) = (0, MOST_INSTRUCTIONS);
        let mut next = || -> Result<(Pickle<'_>, usize), PthError> {
            let pickle = Pickle::read(&bytes[at..], &mut instructions)?;
            let start = at;
            at += pickle.len;
            Ok((pickle, start))
        };
        next()?;
        next()?;
        if !is_little_endian(&next()?.0) {
            return Err(PthError::BigEndian);
        }
        let (values, start) = next()?;
        let widths = storage_widths(&values);
        let pickle = bytes[start..start + values.len].to_vec();
        drop(values);
        let (keys, _) = next()?;
        let keys = keys.sequence(keys.root()).unwrap_or_default().iter().map(|key| keys.text(*key));
        let keys: Vec<&str> = keys.collect::<Option<_>>().ok_or(PthError::NoPickle)?;
        let mut storages = HashMap::new();
        let mut place = at as u64;
        for key in keys {
            let outside = || PthError::Outside(key.to_owned());
            let mut count = [0; 8];
            source.seek(SeekFrom::Start(place))?;
            source.read_exact(&mut count).map_err(|_| outside())?;
            let width = widths.get(key).copied().flatten().ok_or_else(outside)?;
            let bytes = u64::from_le_bytes(count).checked_mul(width).ok_or_else(outside)?;
            let span = Span { start: place + 8, len: bytes };
            place = span.start.checked_add(bytes).filter(|end| *end <= len).ok_or_else(outside)?;
            storages.insert(key.to_owned(), span);
        }
        Ok(Self { source, len, pickle, storages })
    }
}

/// The bytes of a record that is known to lie inside its file.
pub(super) fn read_span(source: &mut impl Source, span: Span) -> Result<Vec<u8>, PthError> {
    let mut bytes = Vec::new();
    source.seek(SeekFrom::Start(span.start))?;
    source.by_ref().take(span.len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != span.len {
        return Err(PthError::Shrunk);
    }
    Ok(bytes)
}

/// Class and key of a storage, as a pickle names it: `("storage", class, key, device, length)`.
pub(super) fn storage_of<'a>(pickle: &Pickle<'a>, id: Id) -> Option<(&'a str, &'a str)> {
    let Node::Persistent(name) = pickle.node(id) else { return None };
    let [_, class, key, ..] = pickle.sequence(*name)? else { return None };
    Some((pickle.global(*class)?.1, pickle.text(*key)?))
}

/// Bytes of one value in a storage of a class.
pub(super) fn value_bytes(class: &str) -> Option<u64> {
    Some(match class {
        "ComplexDoubleStorage" => 16,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" | "QInt8Storage" | "QUInt8Storage"
        | "UntypedStorage" => 1,
        _ => return None,
    })
}

fn storage_widths<'a>(pickle: &Pickle<'a>) -> HashMap<&'a str, Option<u64>> {
    let named = pickle.ids().filter_map(|id| storage_of(pickle, id));
    named.map(|(class, key)| (key, value_bytes(class))).collect()
}

fn is_little_endian(machine: &Pickle<'_>) -> bool {
    let entries = machine.entries(machine.root()).unwrap_or_default();
    let order = entries.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"));
    order.is_none_or(|(_, value)| matches!(machine.node(*value), Node::Bool(true)))
}

fn check_pickle_len(len: u64) -> Result<(), PthError> {
    if len <= MOST_PICKLE_BYTES { Ok(()) } else { Err(PthError::LongPickle(len)) }
}
