//! One decoder: the frames of a span, from its key frame on.

use super::{Track, open_input, raw};
use crate::error::IngestError;
use crate::picture::{Orientation, Picture};
use crate::source::{Damage, FrameSource, Span};
use ffmpeg::codec::discard::Discard;
use ffmpeg::codec::{Context, threading};
use ffmpeg::decoder;
use ffmpeg::format::context::Input;
use ffmpeg::frame::{Video, side_data};
use ffmpeg::{Error, Packet};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// A file may hold this many packets in a row of which the decoder makes nothing.
const MOST_BAD_PACKETS: u64 = 10_000;

/// How far a seek that landed too late goes back, again and again.
const STEP_BACK_US: i64 = 1_000_000;
/// Frames stand at most this many places from where they are shown.
const MOST_REORDERED: usize = 64;

/// A demuxer and a decoder.
pub(super) struct Lane {
    path: PathBuf,
    track: Track,
    input: Input,
    decoder: decoder::Video,
    on_hardware: bool,
    span: Span,
    feed: Feed,
    /// Where the last seek aimed, until its first packet has come.
    landing_us: Option<i64>,
    /// A frame of the span has come.
    has_begun: bool,
    /// The decoder was given the key frame at the span's end.
    has_end_key: bool,
    /// Steps of the grid, where not all frames are wanted, and the stamps of frames in them that the
    /// decoder has been given.
    sent: VecDeque<(i64, i64)>,
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
            raw::attach(&mut context, kind).map_err(failed)?;
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
            landing_us: None,
            has_begun: false,
            has_end_key: false,
            sent: VecDeque::new(),
            frame: Video::empty(),
            damage: Damage::default(),
        })
    }

    /// Gives the decoder the next packet, or tells it that there are no more.
    fn feed(&mut self) {
        match std::mem::replace(&mut self.feed, Feed::Done) {
            Feed::Done => {}
            Feed::On => match self.next_packet() {
                Some(packet) if self.is_too_late(&packet) => self.step_back(),
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

    fn seek(&mut self) -> Result<(), Error> {
        let seek_us = self.landing_us.unwrap_or(0);
        self.input.seek(seek_us, ..=seek_us)
    }

    /// Whether the first packet after a seek lies behind the span's beginning.
    fn is_too_late(&mut self, packet: &Packet) -> bool {
        let (Some(from_us), Some(_)) = (self.span.from_us, self.landing_us) else { return false };
        let is_late = packet.pts().is_some_and(|pts| self.track.us(pts) > from_us);
        if !is_late {
            self.landing_us = None;
        }
        is_late
    }

    /// Seeks again, earlier: what comes before the span is decoded and dropped.
    fn step_back(&mut self) {
        self.feed = Feed::On;
        let landing_us = self.landing_us.unwrap_or(0).saturating_sub(STEP_BACK_US);
        // From the file's beginning there is nothing earlier.
        let is_start = landing_us <= -STEP_BACK_US;
        self.landing_us = (!is_start).then_some(landing_us);
        if !is_start && self.seek().is_err() {
            self.finish();
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
            let (step, pts) = (thin.step(self.track.us(pts)), pts);
            // Another frame of the same step is shown before it, and is decoded.
            let is_wanted = !self.sent.iter().any(|&(other, before)| other == step && before < pts);
            let skip = if is_wanted { Discard::Default } else { Discard::NonReference };
            self.decoder.skip_frame(skip);
            if is_wanted {
                self.sent.push_back((step, pts));
            }
            if self.sent.len() > MOST_REORDERED {
                self.sent.pop_front();
            }
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
        self.sent.clear();
        let Some(from_us) = span.from_us else { return Ok(()) };
        self.landing_us = Some(self.track.seek_us(from_us));
        self.seek().map_err(|error| {
            let what = format!("cannot be read from {:.3} s on: {error}", from_us as f64 * 1e-6);
            IngestError::input(&self.path, what)
        })
    }

    fn grab(&mut self) -> Result<Option<i64>, IngestError> {
        while self.receive()? {
            // The best guess depends on what the decoder saw before, and so on where it began.
            let stamp = self.frame.pts().or(self.frame.timestamp());
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
            self.damage.concealed += u64::from(raw::is_concealed(&self.frame));
            return Ok(Some(pts_us));
        }
        Ok(None)
    }

    fn retrieve(&mut self, picture: &mut Option<Picture>) -> Result<bool, IngestError> {
        let orientation = self.orientation();
        let mut frame = std::mem::replace(&mut self.frame, Video::empty());
        if self.on_hardware {
            frame = raw::download(frame).map_err(|error| {
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
