//! An event as bytes: TensorFlow's `Event` message in a TFRecord (tensorflow/core/util/event.proto,
//! framework/summary.proto, lib/io/record_writer.h).

/// What readers look for in the first record; from this version on a session's start has a meaning.
const VERSION: &str = "brain.Event:2";

/// `SessionLog.SessionStatus`: the run begins at this event's step.
const START: u64 = 1;

/// `Summary.Image.colorspace`: red, green and blue.
const RGB: u64 = 3;

/// A picture for TensorBoard.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its width.
    pub width_px: u32,
    /// Its height.
    pub height_px: u32,
    /// The whole file, of red, green and blue.
    pub png: &'a [u8],
}

/// Something at a step.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) step: u64,
    pub(super) what: What<'a>,
}

/// What an event says.
#[derive(Debug)]
pub(super) enum What<'a> {
    /// What kind of file this is.
    Version,
    /// What earlier files say of this step and later ones does not count.
    SessionStart,
    /// Figures under their tags.
    Scalars(&'a [(String, f64)]),
    /// A picture under its tag.
    Picture(&'a str, Picture<'a>),
}

impl Event<'_> {
    /// The message, with the time in seconds since 1970.
    pub(super) fn encode(&self, wall_time_s: f64) -> Vec<u8> {
        let mut event = Message::default();
        event.double(1, wall_time_s);
        event.int(2, self.step);
        match &self.what {
            What::Version => event.bytes(3, VERSION.as_bytes()),
            What::SessionStart => {
                let mut log = Message::default();
                log.int(1, START);
                event.message(7, &log);
            }
            What::Scalars(values) => {
                let mut summary = Message::default();
                for (tag, value) in *values {
                    let mut entry = Message::default();
                    entry.bytes(1, tag.as_bytes());
                    entry.float(2, *value as f32);
                    summary.message(1, &entry);
                }
                event.message(5, &summary);
            }
            What::Picture(tag, picture) => {
                let mut image = Message::default();
                image.int(1, picture.height_px.into());
                image.int(2, picture.width_px.into());
                image.int(3, RGB);
                image.bytes(4, picture.png);
                let mut entry = Message::default();
                entry.bytes(1, tag.as_bytes());
                entry.message(4, &image);
                let mut summary = Message::default();
                summary.message(1, &entry);
                event.message(5, &summary);
            }
        }
        event.0
    }
}

/// A TFRecord: length and data, each with its checksum.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(len);
    record.extend(masked_crc32c(&len).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc32c(data).to_le_bytes());
    record
}

/// Masked, since checksums of data that holds checksums are weak.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer: fields with their numbers. Zeros are left out, as the format has it.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn int(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, 0);
            self.varint(value);
        }
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    /// Written even if it is zero: it is the one of several kinds of value that is there.
    fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.0);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
