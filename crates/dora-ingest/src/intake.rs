//! What comes out of the pipeline, put into the store: time stamps mended, the rate thinned out, blank
//! and frozen stretches left out.

use crate::clock::Clock;
use crate::encode::Encoded;
use crate::error::IngestError;
use crate::progress::Progress;
use crate::stills::{Shown, Stills};
use crate::thin::Thin;
use dora_store::StoreWriter;

/// The last stored frame of an earlier run.
#[derive(Debug, Clone)]
pub(crate) struct Anchor {
    pub(crate) pts_us: i64,
    pub(crate) source_frame: u64,
    pub(crate) jpeg: Vec<u8>,
}

/// Takes frames in order.
pub(crate) struct Intake<'a> {
    pub(crate) writer: &'a mut StoreWriter,
    pub(crate) progress: Progress,
    pub(crate) clock: Clock<(u64, Option<Encoded>)>,
    pub(crate) thin: Option<Thin>,
    /// The step of the last frame that `thin` took.
    pub(crate) last_step: Option<i64>,
    /// Nothing where they are to be kept.
    pub(crate) stills: Option<Stills<Frame>>,
    pub(crate) anchor: Option<Anchor>,
    /// The error for a source that no longer gives the anchor.
    pub(crate) changed: &'a dyn Fn() -> IngestError,
}

/// A frame that may be stored.
#[derive(Debug)]
pub(crate) struct Frame {
    pts_us: i64,
    number: u64,
    encoded: Encoded,
}

impl Shown for Frame {
    fn pts_us(&self) -> i64 {
        self.pts_us
    }

    fn look(&self) -> &[u8] {
        &self.encoded.look
    }
}

impl Intake<'_> {
    /// Takes the next frame, with its number and the decoder's time stamp.
    pub(crate) fn take(
        &mut self,
        number: u64,
        raw_us: i64,
        encoded: Option<Encoded>,
    ) -> Result<(), IngestError> {
        let ready = self.clock.push(raw_us, (number, encoded));
        ready.into_iter().try_for_each(|frame| self.see(frame))
    }

    /// Takes what is still held back, at the end of the source. `steps_us` as in [`Clock::finish`].
    pub(crate) fn finish(&mut self, steps_us: Option<&[i64]>) -> Result<(), IngestError> {
        let rest = self.clock.finish(steps_us);
        rest.into_iter().try_for_each(|frame| self.see(frame))?;
        let held = self.stills.as_mut().map(|stills| stills.end(None));
        held.into_iter().flatten().try_for_each(|frame| self.store(frame))
    }

    fn see(
        &mut self,
        (pts_us, (number, encoded)): (i64, (u64, Option<Encoded>)),
    ) -> Result<(), IngestError> {
        let Some(encoded) = encoded else { return Ok(()) };
        let frame = Frame { pts_us, number, encoded };
        let anchor = self.anchor.as_ref();
        if let Some(anchor) = anchor.filter(|anchor| number <= anchor.source_frame) {
            if number == anchor.source_frame && frame.encoded.jpeg != anchor.jpeg {
                return Err((self.changed)());
            }
            // Stored or left out already; what comes next is compared with it.
            if let Some(stills) = &mut self.stills {
                stills.push(frame);
            }
            return Ok(());
        }
        if let Some(step) = self.thin.map(|thin| thin.step(pts_us)) {
            if Some(step) <= self.last_step {
                return Ok(());
            }
            self.last_step = Some(step);
        }
        let Some(stills) = &mut self.stills else { return self.store(frame) };
        stills.push(frame).into_iter().try_for_each(|frame| self.store(frame))
    }

    fn store(&mut self, frame: Frame) -> Result<(), IngestError> {
        let Frame { pts_us, number, encoded } = frame;
        if self.anchor.as_ref().is_some_and(|anchor| number <= anchor.source_frame) {
            // Held back with others of which some were stored before.
            return Ok(());
        }
        self.writer.push(pts_us, number, &encoded.jpeg)?;
        self.progress.frame(pts_us);
        Ok(())
    }
}
