//! Decode, scale and compress on all cores; store in order.
//!
//! Every lane decodes spans of the source, each into a queue of its own; the calling thread empties
//! the queues in the order of the spans. A lane that is ahead waits when its queue is full, or when
//! there are as many queues as lanes beside that which is being emptied, so memory is bounded. Lanes
//! of which there are several compress what they decode; a single one leaves that to helpers.

use crate::clock::RoughClock;
use crate::encode::{Encoded, Encoder, Format};
use crate::error::IngestError;
use crate::picture::Picture;
use crate::source::{FrameSource, Reading, Span};
use crate::thin::Thin;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Memory for pictures of full size that are on their way to a helper (a 4K one has 12 or 25 MB).
const PICTURES_BYTES: usize = 256 << 20;
/// Of small pictures, enough to decode on while frames go to disk.
const MOST_PICTURES: usize = 64;
/// Memory for the compressed frames in one queue, about.
const QUEUE_BYTES: usize = 96 << 20;
/// At least so many frames, whatever their size.
const SHORTEST_QUEUE: usize = 16;
/// Decoding is the limit long before more than this many helpers have something to do.
const MOST_HELPERS: usize = 8;

/// Which frames are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    /// The usual time between frames, for those without a good time stamp.
    pub(crate) interval_us: i64,
    /// Frames before it are skipped, ...
    pub(crate) start_us: i64,
    /// ... frames at or after it end the reading, ...
    pub(crate) end_us: i64,
    /// ... and frames up to this number are stored already; ...
    pub(crate) after: Option<u64>,
    /// ... those from this time on are compressed again, to be looked at.
    pub(crate) again_us: i64,
}

/// How reading came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// No more frames.
    Source,
    /// The end of the wanted range.
    Range,
    /// The user interrupted.
    Stopped,
    /// The source ended before the last frame that is stored.
    Changed,
}

/// What was decoded.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    pub(crate) end: End,
    /// The last frame's number, wanted or not, ...
    pub(crate) last_frame: Option<u64>,
    /// ... and about when it is.
    pub(crate) last_us: i64,
    /// Frames that were there but could not be converted.
    pub(crate) lost: u64,
    /// Frames that had another size than the first.
    pub(crate) resized: u64,
}

/// What a lane tells of its span, in order.
enum Message {
    Frame {
        /// As the decoder says.
        raw_us: i64,
        /// About, where that is wrong.
        time_us: i64,
        shot: Shot,
    },
    /// The span has no more frames.
    SpanEnds,
    /// The next frame lies behind the wanted range.
    RangeEnds,
    Failed(IngestError),
}

/// What became of a frame.
enum Shot {
    /// Not wanted.
    Skipped,
    /// Could not be converted.
    Lost,
    Ready(Encoded),
    /// A helper has it.
    Coming(Receiver<Result<Encoded, IngestError>>),
}

/// A picture for a helper, and where to send what it makes of it.
type Job = (Picture, Sender<Result<Encoded, IngestError>>);

/// Decodes what is wanted. `store` gets every frame in order, with its number, the decoder's time stamp
/// and, where it is wanted, the stored picture: those that are skipped tell about time.
pub(crate) fn run(
    reading: &mut Reading,
    range: Range,
    thin: Option<Thin>,
    format: Format,
    stop: &AtomicBool,
    mut store: impl FnMut(u64, i64, Option<Encoded>) -> Result<(), IngestError>,
) -> Result<Decoded, IngestError> {
    let Reading { lanes, spans, first_frame } = reading;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let alone = lanes.len() == 1;
    let picture_bytes = format.source_px.0 as usize * format.source_px.1 as usize * 3;
    let pictures = (PICTURES_BYTES / picture_bytes.max(1)).clamp(2, MOST_PICTURES);
    let queue = (QUEUE_BYTES / format.jpeg_bytes().max(1)).clamp(SHORTEST_QUEUE, 4096);
    let queue = if alone { queue.min(pictures) } else { queue };

    let (queues_out, queues) = bounded(lanes.len());
    let plan = Plan {
        open: Mutex::new(Some(OpenPlan {
            first_frame: Some(*first_frame),
            spans: spans.as_mut(),
            queues: queues_out,
        })),
        queue,
        range,
        thin,
        stop,
    };
    let (jobs_out, jobs) = bounded::<Job>(pictures);
    let (spares_out, spares) = bounded::<Picture>(pictures);
    let decoded = thread::scope(|scope| {
        for _ in 0..if alone { cores.min(MOST_HELPERS) } else { 0 } {
            let (jobs, spares) = (jobs.clone(), spares_out.clone());
            scope.spawn(move || help(format, &jobs, &spares));
        }
        drop((jobs, spares_out));
        let plan = &plan;
        for lane in lanes.iter_mut() {
            let helpers = alone.then(|| (jobs_out.clone(), spares.clone()));
            let lane: &mut dyn FrameSource = lane.as_mut();
            scope.spawn(move || {
                run_lane(
                    lane,
                    plan,
                    match helpers {
                        Some((jobs, spares)) => Maker::Helpers { jobs, spares },
                        None => Maker::Own { format, encoder: None },
                    },
                );
            });
        }
        drop(jobs_out);
        let stored = store_in_order(queues, *first_frame, &mut store);
        // Every queue has lost its reader by now, so every lane ends, whatever the reason.
        plan.end();
        stored
    });
    decoded.map(|mut decoded| {
        if decoded.end == End::Source && decoded.last_frame < range.after {
            decoded.end = End::Changed;
        }
        decoded
    })
}

/// What the lanes share.
struct Plan<'a> {
    /// Nothing when no more spans are wanted.
    open: Mutex<Option<OpenPlan<'a>>>,
    queue: usize,
    range: Range,
    thin: Option<Thin>,
    stop: &'a AtomicBool,
}

struct OpenPlan<'a> {
    /// The number of the first frame, until the first span is taken.
    first_frame: Option<u64>,
    spans: &'a mut (dyn Iterator<Item = Span> + Send),
    /// For the calling thread: the queue of every span, in order.
    queues: Sender<Receiver<Message>>,
}

/// A span for a lane.
struct Task {
    span: Span,
    /// The number of its first frame, where that is known before.
    first_frame: Option<u64>,
    queue: Sender<Message>,
}

impl Plan<'_> {
    fn next(&self) -> Option<Task> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = open.as_mut()?;
        if let Some(span) = plan.spans.next() {
            let (queue, messages) = bounded(self.queue);
            let first_frame = plan.first_frame.take();
            if plan.queues.send(messages).is_ok() {
                return Some(Task { span, first_frame, queue });
            }
        }
        *open = None;
        None
    }

    fn end(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Who scales and compresses the pictures of a lane.
enum Maker {
    /// The lane itself.
    Own { format: Format, encoder: Option<Box<Encoder>> },
    /// Threads that do nothing else; they give pictures back, to be used again.
    Helpers { jobs: Sender<Job>, spares: Receiver<Picture> },
}

/// Takes span after span, until there are no more or nobody listens.
fn run_lane(lane: &mut dyn FrameSource, plan: &Plan<'_>, mut maker: Maker) {
    while let Some(Task { span, first_frame, queue }) = plan.next() {
        let ran = run_span(lane, span, first_frame, plan, &mut maker, &queue);
        let last = match ran {
            Ok(Some(last)) => last,
            Ok(None) => break,
            Err(error) => Message::Failed(error),
        };
        let goes_on = matches!(last, Message::SpanEnds);
        // Nobody listens when another lane has failed first.
        if queue.send(last).is_err() || !goes_on {
            break;
        }
    }
}

/// Decodes a span; gives the message to end it with, nothing when nobody wants one.
fn run_span(
    lane: &mut dyn FrameSource,
    span: Span,
    first_frame: Option<u64>,
    plan: &Plan<'_>,
    maker: &mut Maker,
    queue: &Sender<Message>,
) -> Result<Option<Message>, IngestError> {
    let range = plan.range;
    let mut clock = RoughClock::new(range.interval_us);
    let mut number = first_frame;
    let mut last_step = None;
    let mut picture = None;
    lane.enter(span)?;
    while let Some(raw_us) = lane.grab()? {
        if plan.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let time_us = clock.time_us(raw_us);
        if time_us >= range.end_us {
            return Ok(Some(Message::RangeEnds));
        }
        // Numbers of later spans are not known yet, but their times can be relied on.
        let is_stored = time_us < range.again_us
            && number.map_or(range.after.is_some(), |number| Some(number) < range.after);
        let is_last_stored = number.is_some() && number == range.after;
        number = number.map(|number| number + 1);
        let step = plan.thin.map(|thin| thin.step(time_us));
        let is_in_grid = step.is_none() || step != last_step || is_last_stored;
        last_step = step;
        let shot = if time_us < range.start_us || is_stored || !is_in_grid {
            Shot::Skipped
        } else {
            maker.make(lane, &mut picture)?
        };
        if queue.send(Message::Frame { raw_us, time_us, shot }).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(Message::SpanEnds))
}

impl Maker {
    /// Makes the frame that the lane grabbed last ready for the store, or sees to it.
    fn make(
        &mut self,
        lane: &mut dyn FrameSource,
        picture: &mut Option<Picture>,
    ) -> Result<Shot, IngestError> {
        if let Self::Helpers { spares, .. } = self
            && picture.is_none()
        {
            *picture = spares.try_recv().ok();
        }
        if !lane.retrieve(picture)? {
            return Ok(Shot::Lost);
        }
        match self {
            Self::Own { format, encoder } => {
                let Some(picture) = picture else { return Ok(Shot::Lost) };
                Ok(Shot::Ready(encoder_in(encoder, *format)?.encode(picture)?))
            }
            Self::Helpers { jobs, .. } => {
                let Some(picture) = picture.take() else { return Ok(Shot::Lost) };
                let (sender, coming) = bounded(1);
                // Helpers end only after the lane.
                let _ = jobs.send((picture, sender));
                Ok(Shot::Coming(coming))
            }
        }
    }
}

/// Scales and compresses what a lane sends.
fn help(format: Format, jobs: &Receiver<Job>, spares: &Sender<Picture>) {
    let mut encoder = None;
    for (picture, sender) in jobs {
        let encoded = encoder_in(&mut encoder, format).and_then(|encoder| encoder.encode(&picture));
        // Whoever waited for it may have ended.
        let _ = sender.send(encoded);
        if matches!(picture, Picture::Bgr(_)) {
            let _ = spares.try_send(picture);
        }
    }
}

/// The encoder that is there, or a new one.
fn encoder_in(
    slot: &mut Option<Box<Encoder>>,
    format: Format,
) -> Result<&mut Encoder, IngestError> {
    Ok(match slot {
        Some(encoder) => encoder,
        None => slot.insert(Box::new(Encoder::new(format)?)),
    })
}

/// Hands every frame on, queue after queue.
fn store_in_order(
    queues: Receiver<Receiver<Message>>,
    first_frame: u64,
    store: &mut impl FnMut(u64, i64, Option<Encoded>) -> Result<(), IngestError>,
) -> Result<Decoded, IngestError> {
    let mut decoded =
        Decoded { end: End::Source, last_frame: None, last_us: 0, lost: 0, resized: 0 };
    let mut number = first_frame;
    'spans: for queue in queues {
        for message in queue {
            let (raw_us, time_us, shot) = match message {
                Message::Frame { raw_us, time_us, shot } => (raw_us, time_us, shot),
                Message::SpanEnds => continue 'spans,
                Message::RangeEnds => {
                    decoded.end = End::Range;
                    return Ok(decoded);
                }
                Message::Failed(error) => return Err(error),
            };
            let encoded = match shot {
                Shot::Ready(encoded) => Some(encoded),
                Shot::Coming(coming) => match coming.recv() {
                    Ok(encoded) => Some(encoded?),
                    // A helper ends without an answer only by a panic, which the scope passes on.
                    Err(_) => break,
                },
                Shot::Skipped => None,
                Shot::Lost => {
                    decoded.lost += 1;
                    None
                }
            };
            decoded.resized += u64::from(encoded.as_ref().is_some_and(|frame| frame.is_resized));
            (decoded.last_frame, decoded.last_us) = (Some(number), time_us);
            store(number, raw_us, encoded)?;
            number += 1;
        }
        // The lane gave up without a word.
        decoded.end = End::Stopped;
        return Ok(decoded);
    }
    Ok(decoded)
}
