//! Blank and frozen stretches, found while frames pass by and left out.
//!
//! A stretch is blank while its pictures have one brightness all over, and frozen while they equal its
//! first one but for what compression adds. Only long ones count: a walker may stand still for a
//! moment, and a cut may be black.

use crate::report::clock_time;

/// Shorter stretches stay (FFmpeg's `freezedetect` has the same default).
const SHORTEST_US: i64 = 2_000_000;
/// Standard deviation of brightness, of 255, below which a picture is blank.
const BLANK: f64 = 2.0;
/// Mean difference in brightness, of 255, up to which a picture repeats another (-60 dB, as
/// `freezedetect`).
const REPEATED: f64 = 0.255;
/// A key frame compresses the frozen picture anew: a change up to this does not end a long stretch, ...
const RENEWED: f64 = 2.0;
/// ... unless another one follows so soon: pictures that keep changing move.
const RENEWED_APART: u64 = 10;
/// More frames are not held back, however close their time stamps are.
const MOST_HELD: usize = 2048;

/// A frame that has a look.
pub(crate) trait Shown {
    /// Its time stamp.
    fn pts_us(&self) -> i64;
    /// Brightness of some of its pixels, always the same ones.
    fn look(&self) -> &[u8];
}

/// A stretch that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) is_blank: bool,
    pub(crate) from_us: i64,
    /// Of the first frame behind it, or of its own last one.
    pub(crate) to_us: i64,
    pub(crate) frames: u64,
}

impl Stretch {
    /// A sentence for the user.
    pub(crate) fn note(&self) -> String {
        let Self { is_blank, from_us, to_us, frames } = *self;
        let what = if is_blank { "blank" } else { "frozen" };
        let [from, to] = [from_us, to_us].map(|us| clock_time(us as f64 * 1e-6));
        format!(
            "{from} to {to} is {what}: its {frames} frames are left out (`--keep-stills` keeps them)"
        )
    }
}

/// Sorts frames out.
#[derive(Debug)]
pub(crate) struct Stills<F> {
    run: Option<Run>,
    /// Frames of the run that may turn out to be wanted.
    held: Vec<F>,
    found: Vec<Stretch>,
}

/// Frames that look alike.
#[derive(Debug)]
struct Run {
    look: Vec<u8>,
    stretch: Stretch,
    /// How many frames looked like this one.
    alike: u64,
    is_long: bool,
}

impl Run {
    /// Whether a picture is still the frozen one.
    fn repeats(&mut self, look: &[u8]) -> bool {
        let difference = difference(&self.look, look);
        self.alike += 1;
        if difference <= REPEATED {
            return true;
        }
        let is_renewed = self.is_long && difference <= RENEWED && self.alike > RENEWED_APART;
        if is_renewed {
            self.look = look.to_vec();
            self.alike = 0;
        }
        is_renewed
    }
}

impl<F: Shown> Stills<F> {
    pub(crate) fn new() -> Self {
        Self { run: None, held: Vec::new(), found: Vec::new() }
    }

    /// Takes the next frame; gives those that are wanted for sure, in order.
    pub(crate) fn push(&mut self, frame: F) -> Vec<F> {
        let is_blank = deviation(frame.look()) < BLANK;
        if let Some(run) = &mut self.run
            && run.stretch.is_blank == is_blank
            && (is_blank || run.repeats(frame.look()))
        {
            run.stretch.frames += 1;
            run.stretch.to_us = frame.pts_us();
            run.is_long |= frame.pts_us().saturating_sub(run.stretch.from_us) >= SHORTEST_US
                || self.held.len() == MOST_HELD;
            self.held.push(frame);
            if run.is_long {
                self.held.clear();
            }
            return Vec::new();
        }
        let mut wanted = self.end(Some(frame.pts_us()));
        let (from_us, look) = (frame.pts_us(), frame.look().to_vec());
        let stretch = Stretch { is_blank, from_us, to_us: from_us, frames: u64::from(is_blank) };
        self.run = Some(Run { look, stretch, alike: 0, is_long: false });
        if is_blank {
            self.held.push(frame);
        } else {
            // The picture before it froze is as good as any.
            wanted.push(frame);
        }
        wanted
    }

    /// Ends the run before a frame at `next_us`, or at the end; gives what was held back.
    pub(crate) fn end(&mut self, next_us: Option<i64>) -> Vec<F> {
        if let Some(run) = self.run.take().filter(|run| run.is_long) {
            let to_us = next_us.unwrap_or(run.stretch.to_us);
            self.found.push(Stretch { to_us, ..run.stretch });
        }
        std::mem::take(&mut self.held)
    }

    /// What has been left out.
    pub(crate) fn found(&self) -> &[Stretch] {
        &self.found
    }
}

fn deviation(look: &[u8]) -> f64 {
    let count = look.len().max(1) as f64;
    let sum: u64 = look.iter().map(|&level| u64::from(level)).sum();
    let squares: u64 = look.iter().map(|&level| u64::from(level).pow(2)).sum();
    let mean = sum as f64 / count;
    (squares as f64 / count - mean * mean).max(0.0).sqrt()
}

fn difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Frame(i64, Vec<u8>);

    impl Shown for Frame {
        fn pts_us(&self) -> i64 {
            self.0
        }

        fn look(&self) -> &[u8] {
            &self.1
        }
    }

    /// Ten frames a second; a number names a scene, `-1` is black. Gives the frames that stay.
    fn check(scenes: &[i32], expected: &[usize], notes: &[&str]) {
        let mut stills = Stills::new();
        let mut kept = Vec::new();
        for (frame, &scene) in scenes.iter().enumerate() {
            let look = (0..100).map(|at| {
                if scene < 0 { 16 + (at % 2) as u8 } else { (at * 7 + scene * 31) as u8 }
            });
            kept.extend(stills.push(Frame(frame as i64 * 100_000, look.collect())));
        }
        kept.extend(stills.end(None));
        let kept: Vec<usize> = kept.iter().map(|frame| (frame.0 / 100_000) as usize).collect();
        assert_eq!(kept, expected, "{scenes:?}");
        let found: Vec<String> = stills.found().iter().map(Stretch::note).collect();
        assert_eq!(found.len(), notes.len(), "{found:?}");
        assert!(found.iter().zip(notes).all(|(note, start)| note.starts_with(start)), "{found:?}");
    }

    #[test]
    fn long_stretches_are_left_out_and_short_ones_stay() {
        let moving: Vec<i32> = (0..30).collect();
        check(&moving, &(0..30).collect::<Vec<_>>(), &[]);
        // Black for 1.9 s, then for 2 s.
        let black = |frames: usize| [&moving[..10], &vec![-1; frames], &moving[10..]].concat();
        check(&black(20), &(0..50).collect::<Vec<_>>(), &[]);
        let expected: Vec<usize> = (0..10).chain(31..51).collect();
        check(&black(21), &expected, &["0:00:01.0 to 0:00:03.1 is blank: its 21 frames"]);
        // Frozen at the end, after its first picture.
        let frozen = [&moving[..10], &[50; 40]].concat();
        let expected: Vec<usize> = (0..=10).collect();
        check(&frozen, &expected, &["0:00:01.0 to 0:00:04.9 is frozen: its 39 frames"]);
        // Everything is blank.
        check(&[-1; 40], &[], &["0:00:00.0 to 0:00:03.9 is blank: its 40 frames"]);
    }

    #[test]
    fn a_key_frame_does_not_end_a_frozen_stretch_and_movement_does() {
        let look = |add: u8| (0..100u8).map(|at| at * 2 + add).collect::<Vec<u8>>();
        let kept = |after: u8| {
            let mut stills = Stills::new();
            let frames = (0..60)
                .map(|frame| Frame(frame * 100_000, look(if frame < 30 { 0 } else { after })));
            frames.flat_map(|frame| stills.push(frame)).count()
        };
        assert_eq!(kept(1), 1);
        // Another picture, frozen in turn.
        assert_eq!(kept(5), 2);
        // Something moves a little: the stretch ends with its second change.
        let mut stills = Stills::new();
        let slow = (0..60).map(|frame| Frame(frame * 100_000, look((frame.max(30) - 30) as u8)));
        let kept: Vec<i64> =
            slow.flat_map(|frame| stills.push(frame)).map(|frame| frame.0 / 100_000).collect();
        assert_eq!(kept, [&[0][..], &(32..60).collect::<Vec<_>>()].concat());
    }
}
