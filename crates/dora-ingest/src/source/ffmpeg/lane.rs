//! One decoder: the frames of a span, from its key frame on.

use super::{Track, hardware, open_input};
use crate::error::IngestError;
use crate::picture::{Orientation, Picture};
use crate::source::{Damage, FrameSource, Span};
use ffmpeg::codec::discard::Discard;
use ffmpeg::codec::{Context, threading};
use ffmpeg::decoder;
use ffmpeg::format::context::Input;
use ffmpeg::frame::{Video, side_data};
use ffmpeg::{Error, Packet};
use std::io;
use std::path::{Path, PathBuf};

/// A file may hold this many packets in a row of which the decoder makes nothing.
const MOST_BAD_PACKETS: u64 = 10_000;

/// A demuxer and a decoder.
pub(super) struct Lane {
    path: PathBuf,
    track: Track,
    input: Input,
    decoder: decoder::Video,
    on_hardware: bool,
    span: Span,
    feed: Feed,
    /// A frame of the span has come.
    has_begun: bool,
    /// The decoder was given the key frame at the span's end.
    has_end_key: bool,
    frame: Video,
    damage: Damage,
}

/// How far the packets of the span have been given to the decoder.
enum Feed {
    /// More are to come.
    On,
    /// This is the key frame at the span's end; frames shown before it may follow it in the file.
    AtEnd(Packet),
    /// They do, and the decoder has that key frame.
    Leading,
    /// All are given.
    Done,
}

impl Lane {
    pub(super) fn open(
        path: &Path,
        track: &Track,
        hwaccel: Option<&str>,
        threads: usize,
    ) -> Result<Self, IngestError> {
        let input = open_input(path)?;
        let failed = |error: Error| {
            let codec = track.codec;
            IngestError::input(path, format!("cannot be decoded as {codec}: FFmpeg says {error}"))
        };
        let stream = input.stream(track.index).ok_or_else(|| failed(Error::StreamNotFound))?;
        let mut context = Context::from_parameters(stream.parameters()).map_err(failed)?;
        let mut config = threading::Config::count(threads);
        config.kind = threading::Type::Frame;
        context.set_threading(config);
        if let Some(kind) = hwaccel {
            hardware::attach(&mut context, kind).map_err(failed)?;
        }
        let decoder = context.decoder().video().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            track: track.clone(),
            input,
            decoder,
            on_hardware: hwaccel.is_some(),
            span: Span::WHOLE,
            feed: Feed::On,
            has_begun: false,
            has_end_key: false,
            frame: Video::empty(),
            damage: Damage::default(),
        })
    }

    /// Gives the decoder the next packet, or tells it that there are no more.
    fn feed(&mut self) {
        match std::mem::replace(&mut self.feed, Feed::Done) {
            Feed::Done => {}
            Feed::On => match self.next_packet() {
                Some(packet) if self.ends_span(&packet) => self.feed = Feed::AtEnd(packet),
                Some(packet) => self.send(&packet, Feed::On),
                None => self.finish(),
            },
            Feed::AtEnd(key) => match self.next_packet() {
                Some(packet) if self.is_before_end(&packet) => {
                    self.has_end_key = true;
                    self.send(&key, Feed::Leading);
                    self.send(&packet, Feed::Leading);
                }
                _ => self.finish(),
            },
            Feed::Leading => match self.next_packet() {
                Some(packet) if self.is_before_end(&packet) => self.send(&packet, Feed::Leading),
                _ => self.finish(),
            },
        }
    }

    /// The next packet of the video.
    fn next_packet(&mut self) -> Option<Packet> {
        let mut bad_packets = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.track.index => return Some(packet),
                Ok(()) => {}
                Err(Error::Eof) => return None,
                Err(_) => {
                    self.damage.packets += 1;
                    bad_packets += 1;
                    if bad_packets > MOST_BAD_PACKETS {
                        return None;
                    }
                }
            }
        }
    }

    fn ends_span(&self, packet: &Packet) -> bool {
        let (Some(until_us), Some(pts)) = (self.span.until_us, packet.pts()) else { return false };
        packet.is_key() && self.track.us(pts) >= until_us
    }

    fn is_before_end(&self, packet: &Packet) -> bool {
        let (Some(until_us), Some(pts)) = (self.span.until_us, packet.pts()) else { return false };
        self.track.us(pts) < until_us
    }

    fn send(&mut self, packet: &Packet, then: Feed) {
        if let (Some(thin), Some(pts)) = (self.track.thin, packet.pts()) {
            let is_wanted = thin.may_want(self.track.us(pts));
            let skip = if is_wanted { Discard::Default } else { Discard::NonReference };
            self.decoder.skip_frame(skip);
        }
        // A packet that is refused is a damaged one: the decoder goes on with the next.
        if self.decoder.send_packet(packet).is_err() {
            self.damage.packets += 1;
        }
        self.feed = then;
    }

    fn finish(&mut self) {
        // It only says so when it has been told before.
        let _ = self.decoder.send_eof();
        self.feed = Feed::Done;
    }

    /// The next frame from the decoder, wherever it lies.
    fn receive(&mut self) -> Result<bool, IngestError> {
        let mut bad_packets = 0;
        loop {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => return Ok(true),
                Err(Error::Eof) => return Ok(false),
                Err(Error::Other { errno }) if wants_more(errno) => self.feed(),
                Err(_) if bad_packets < MOST_BAD_PACKETS => {
                    self.damage.packets += 1;
                    bad_packets += 1;
                }
                Err(source) => {
                    let what = format!("cannot be decoded any further: FFmpeg says {source}");
                    return Err(IngestError::input(&self.path, what));
                }
            }
        }
    }

    fn orientation(&self) -> Orientation {
        let Some(data) = self.frame.side_data(side_data::Type::DisplayMatrix) else {
            return self.track.orientation;
        };
        let mut matrix = [0; 9];
        for (number, bytes) in matrix.iter_mut().zip(data.data().chunks_exact(4)) {
            *number = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Orientation::from_matrix(&matrix)
    }
}

/// Whether the decoder only says that it needs another packet.
fn wants_more(errno: i32) -> bool {
    io::Error::from_raw_os_error(errno).kind() == io::ErrorKind::WouldBlock
}

impl FrameSource for Lane {
    fn enter(&mut self, span: Span) -> Result<(), IngestError> {
        self.decoder.flush();
        (self.span, self.feed) = (span, Feed::On);
        (self.has_begun, self.has_end_key) = (false, false);
        let Some(from_us) = span.from_us else { return Ok(()) };
        let seek_us = self.track.seek_us(from_us);
        self.input.seek(seek_us, ..=seek_us).map_err(|error| {
            let what = format!("cannot be read from {:.3} s on: {error}", from_us as f64 * 1e-6);
            IngestError::input(&self.path, what)
        })
    }

    fn grab(&mut self) -> Result<Option<i64>, IngestError> {
        while self.receive()? {
            let stamp = self.frame.timestamp().or(self.frame.pts());
            let pts_us = stamp.map_or(0, |pts| self.track.us(pts));
            let Span { from_us, until_us } = self.span;
            // Frames of the neighbours: other lanes have them.
            if !self.has_begun && from_us.is_some_and(|from_us| pts_us < from_us) {
                continue;
            }
            self.has_begun = true;
            if self.has_end_key && until_us.is_some_and(|until_us| pts_us >= until_us) {
                return Ok(None);
            }
            self.damage.concealed += u64::from(hardware::is_concealed(&self.frame));
            return Ok(Some(pts_us));
        }
        Ok(None)
    }

    fn retrieve(&mut self, picture: &mut Option<Picture>) -> Result<bool, IngestError> {
        let orientation = self.orientation();
        let mut frame = std::mem::replace(&mut self.frame, Video::empty());
        if self.on_hardware {
            frame = hardware::download(frame).map_err(|error| {
                let what = format!("cannot be brought from the hardware decoder: {error}");
                IngestError::input(&self.path, what)
            })?;
        }
        *picture = Some(Picture::Yuv(frame, orientation));
        Ok(true)
    }

    fn damage(&self) -> Damage {
        self.damage
    }
}
