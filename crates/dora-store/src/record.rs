//! Small versioned binary records: the project's one use of bincode for whole files.
//!
//! A record is magic (8 bytes), version (u32), payload length (u64), CRC-32 (u32) and the payload,
//! all little-endian. The checksum covers everything but itself. Lengths are never believed: a
//! record larger than [`LIMIT_BYTES`] is refused before anything is allocated for it, and so is a
//! string or list inside that claims more than that.

use crate::atomic;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest payload that is written or read.
pub const LIMIT_BYTES: usize = 64 << 20;

const PREFIX_BYTES: usize = 24;

/// A type that can be written as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is, for messages: "checkpoint state".
    const NAME: &'static str;
    /// The first bytes of its files.
    const MAGIC: [u8; 8];
    /// Raised whenever the fields change; other versions are refused.
    const VERSION: u32;
}

/// Why bytes are not the record they should be.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The bytes end too early, or go on after the end.
    #[error("{found_bytes} bytes where {expected_bytes} belong")]
    Length {
        /// What the record says, or the least a record has.
        expected_bytes: u64,
        /// What is there.
        found_bytes: u64,
    },
    /// The first bytes belong to something else.
    #[error("it does not start as a {name}")]
    Magic {
        /// What was expected.
        name: &'static str,
    },
    /// Written by another version of this program.
    #[error("it has format version {found}, this program reads version {expected}")]
    Version {
        /// The version that this program knows.
        expected: u32,
        /// The version in the record.
        found: u32,
    },
    /// The payload is larger than [`LIMIT_BYTES`].
    #[error("its {payload_bytes} bytes are over the limit of {LIMIT_BYTES}")]
    Large {
        /// The claimed length.
        payload_bytes: u64,
    },
    /// A byte has changed.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum is right but the fields do not fit the type.
    #[error("its fields do not fit: {0}")]
    Fields(String),
}

/// Why a record could not be read from or written to a file.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// "read" or "write".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a good record.
    #[error("`{}` is not a good {name}", path.display())]
    Flawed {
        /// The file.
        path: PathBuf,
        /// [`Record::NAME`].
        name: &'static str,
        /// What is wrong with it.
        source: Flaw,
    },
}

/// The record's bytes. Errors only when the value is larger than [`LIMIT_BYTES`] or of a kind that
/// bincode cannot write.
pub fn write<T: Record>(value: &T) -> Result<Vec<u8>, Flaw> {
    let payload = bincode::serde::encode_to_vec(value, config())
        .map_err(|error| Flaw::Fields(error.to_string()))?;
    if payload.len() > LIMIT_BYTES {
        return Err(Flaw::Large { payload_bytes: payload.len() as u64 });
    }
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + payload.len());
    bytes.extend_from_slice(&T::MAGIC);
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, &payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// The value in `bytes`, which hold one record and nothing after it.
pub fn read<T: Record>(bytes: &[u8]) -> Result<T, Flaw> {
    let (value, used_bytes) = read_first(bytes)?;
    if used_bytes != bytes.len() {
        return Err(Flaw::Length {
            expected_bytes: used_bytes as u64,
            found_bytes: bytes.len() as u64,
        });
    }
    Ok(value)
}

/// The record at the beginning of `bytes`, and its length in bytes.
pub fn read_first<T: Record>(bytes: &[u8]) -> Result<(T, usize), Flaw> {
    let short = |expected_bytes| Flaw::Length { expected_bytes, found_bytes: bytes.len() as u64 };
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(short(PREFIX_BYTES as u64));
    };
    if *magic != T::MAGIC {
        return Err(Flaw::Magic { name: T::NAME });
    }
    let parts = || {
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        Some((*version, *length, *crc, rest))
    };
    let Some((version, length, crc, rest)) = parts() else {
        return Err(short(PREFIX_BYTES as u64));
    };
    let found = u32::from_le_bytes(version);
    if found != T::VERSION {
        return Err(Flaw::Version { expected: T::VERSION, found });
    }
    let payload_bytes = u64::from_le_bytes(length);
    if payload_bytes > LIMIT_BYTES as u64 {
        return Err(Flaw::Large { payload_bytes });
    }
    let Some(payload) = rest.get(..payload_bytes as usize) else {
        return Err(short(PREFIX_BYTES as u64 + payload_bytes));
    };
    if checksum(&bytes[..PREFIX_BYTES - 4], payload) != u32::from_le_bytes(crc) {
        return Err(Flaw::Checksum);
    }
    let (value, used) = bincode::serde::decode_from_slice(payload, config())
        .map_err(|error| Flaw::Fields(error.to_string()))?;
    if used != payload.len() {
        return Err(Flaw::Fields(format!("{} bytes are left over", payload.len() - used)));
    }
    Ok((value, PREFIX_BYTES + payload.len()))
}

/// Writes a record as a file that appears whole or not at all (see [`atomic::write_file`]).
pub fn write_file<T: Record>(path: &Path, value: &T) -> Result<(), RecordError> {
    let bytes = write(value).map_err(|source| flawed::<T>(path, source))?;
    atomic::write_file(path, &bytes).map_err(|source| RecordError::Io {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

/// Reads a record from a file, never more of it than the largest record has.
pub fn read_file<T: Record>(path: &Path) -> Result<T, RecordError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            let most_bytes = (PREFIX_BYTES + LIMIT_BYTES + 1) as u64;
            file.take(most_bytes).read_to_end(&mut bytes)
        })
        .map_err(|source| RecordError::Io { doing: "read", path: path.to_owned(), source })?;
    read(&bytes).map_err(|source| flawed::<T>(path, source))
}

fn flawed<T: Record>(path: &Path, source: Flaw) -> RecordError {
    RecordError::Flawed { path: path.to_owned(), name: T::NAME, source }
}

fn checksum(prefix: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix);
    hasher.update(payload);
    hasher.finalize()
}

/// Numbers of fixed size; the limit bounds what a length inside the payload can make us allocate.
pub(crate) fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT_BYTES>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct State {
        step: u64,
        name: String,
        values: Vec<f32>,
    }

    impl Record for State {
        const NAME: &'static str = "test state";
        const MAGIC: [u8; 8] = *b"DORATEST";
        const VERSION: u32 = 3;
    }

    fn state() -> State {
        State { step: 7, name: "walk".into(), values: vec![0.5, -1.0] }
    }

    /// A record with a right checksum around any payload.
    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut bytes = State::MAGIC.to_vec();
        bytes.extend_from_slice(&State::VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        let crc = checksum(&bytes, payload);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn files_come_back_and_errors_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_file(&path, &state()).unwrap();
        assert_eq!(read_file::<State>(&path).unwrap(), state());

        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = read_file::<State>(&path).unwrap_err();
        assert!(matches!(error, RecordError::Flawed { source: Flaw::Length { .. }, .. }));
        assert!(error.to_string().contains("state` is not a good test state"));
        let missing = read_file::<State>(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read `"));
    }

    #[test]
    fn other_versions_and_other_files_are_told_apart() {
        let mut bytes = write(&state()).unwrap();
        bytes[8] = 4;
        assert!(matches!(read::<State>(&bytes), Err(Flaw::Version { expected: 3, found: 4 })));
        bytes[0] ^= 1;
        assert!(matches!(read::<State>(&bytes), Err(Flaw::Magic { .. })));
    }

    #[test]
    fn hostile_lengths_allocate_nothing() {
        // The record's own length.
        let mut bytes = write(&state()).unwrap();
        bytes[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read::<State>(&bytes), Err(Flaw::Large { .. })));
        // The length of a string and of a list inside, under a right checksum.
        for claimed in [1u64 << 40, u64::MAX, 1 << 20] {
            let mut payload = 7u64.to_le_bytes().to_vec();
            payload.extend_from_slice(&claimed.to_le_bytes());
            assert!(matches!(read::<State>(&sealed(&payload)), Err(Flaw::Fields(_))));
            let mut payload = 7u64.to_le_bytes().to_vec();
            payload.extend_from_slice(&0u64.to_le_bytes());
            payload.extend_from_slice(&claimed.to_le_bytes());
            assert!(matches!(read::<State>(&sealed(&payload)), Err(Flaw::Fields(_))));
        }
    }

    #[test]
    fn bytes_after_the_fields_are_an_error() {
        let bytes = write(&state()).unwrap();
        let mut payload = bytes[PREFIX_BYTES..].to_vec();
        payload.push(0);
        assert!(matches!(read::<State>(&sealed(&payload)), Err(Flaw::Fields(_))));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(read::<State>(&longer), Err(Flaw::Length { .. })));
        let (value, used) = read_first::<State>(&longer).unwrap();
        assert_eq!((value, used), (state(), bytes.len()));
    }

    proptest! {
        #[test]
        fn values_survive(step: u64, name: String, values in prop::collection::vec(-1e9f32..1e9, 0..50)) {
            let value = State { step, name, values };
            prop_assert_eq!(read::<State>(&write(&value).unwrap()).unwrap(), value);
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_seen(at in 0usize..1000, bit in 0u8..8) {
            let bytes = write(&state()).unwrap();
            let at = at % bytes.len();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(read::<State>(&flipped).is_err());
            prop_assert!(read::<State>(&bytes[..at]).is_err());
        }

        #[test]
        fn any_bytes_are_survived(payload: Vec<u8>) {
            let _ = read::<State>(&payload);
            let _ = read::<State>(&sealed(&payload));
        }
    }
}
