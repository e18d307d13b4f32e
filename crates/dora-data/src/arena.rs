//! Small arrays that travel to a device together: one piece of memory on the host, one copy.

use tch::{Kind, Tensor};

/// Where every array begins, in bytes: a multiple of the alignment of each kind.
const ALIGN: usize = 64;

/// Arrays one after the other in one piece of memory.
#[derive(Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
}

/// Where an array of an [`Arena`] lies.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    offset_bytes: i64,
    bytes: i64,
    kind: Kind,
}

impl Arena {
    /// Adds float32 numbers.
    pub fn push_f32(&mut self, values: &[f32]) -> Slot {
        self.push(values.iter().map(|value| value.to_ne_bytes()), Kind::Float)
    }

    /// Adds int64 numbers.
    pub fn push_i64(&mut self, values: &[i64]) -> Slot {
        self.push(values.iter().map(|value| value.to_ne_bytes()), Kind::Int64)
    }

    /// All arrays, as they travel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push<const N: usize>(&mut self, values: impl Iterator<Item = [u8; N]>, kind: Kind) -> Slot {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let offset = self.bytes.len();
        self.bytes.extend(values.flatten());
        Slot { offset_bytes: offset as i64, bytes: (self.bytes.len() - offset) as i64, kind }
    }
}

impl Slot {
    /// The array in `bytes`, a copy of its arena as a uint8 tensor on any device; storage is shared.
    pub fn tensor(self, bytes: &Tensor) -> Tensor {
        bytes.narrow(0, self.offset_bytes, self.bytes).view_dtype(self.kind)
    }
}
