//! Time stamps as decoders give them, made to rise strictly.

/// More frames than this are not held back for a stamp that may never come.
const MOST_HELD: usize = 256;

/// Gives frames strictly rising time stamps.
///
/// A stamp that rises passes unchanged. A frame whose stamp does not rise is held back until the
/// next good one, and the frames between are spread evenly. Such stamps occur in odd files, and
/// OpenCV 4.6 itself says 0 for frames that its decoder had kept ready: up to one for each thread at
/// the end of every file. When good stamps stay away (a container without any, a restarted clock) the
/// frames go on at the nominal rate.
///
/// The state after a good stamp is that stamp alone, so that reading may start there.
#[derive(Debug)]
pub(crate) struct Clock<T> {
    interval_us: i64,
    known_us: Option<i64>,
    held: Vec<T>,
    free_running: bool,
    mended: u64,
}

impl<T> Clock<T> {
    /// `interval_us` is the usual time between frames, above 0.
    pub(crate) fn new(interval_us: i64) -> Self {
        Self { interval_us, known_us: None, held: Vec::new(), free_running: false, mended: 0 }
    }

    /// Takes the next frame with the decoder's stamp; gives the frames whose stamps are known now.
    pub(crate) fn push(&mut self, raw_us: i64, frame: T) -> Vec<(i64, T)> {
        let Some(known_us) = self.known_us else {
            // OpenCV gives the decoding time, which may lie before the start, for a stamp of 0.
            self.known_us = Some(raw_us.max(0));
            return vec![(raw_us.max(0), frame)];
        };
        if raw_us.saturating_sub(known_us) > self.held.len() as i64 {
            self.mended += self.held.len() as u64;
            self.free_running = false;
            let mut released = self.release(Some(raw_us));
            self.known_us = Some(raw_us);
            released.push((raw_us, frame));
            return released;
        }
        self.held.push(frame);
        if !self.free_running && self.held.len() < MOST_HELD {
            return Vec::new();
        }
        self.free_running = true;
        self.mended += self.held.len() as u64;
        self.release(None)
    }

    /// How many frames wait for their stamps.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The frames still held back, at the end of the source.
    ///
    /// `steps_us` are the intervals before each of them, where they are known.
    pub(crate) fn finish(&mut self, steps_us: Option<&[i64]>) -> Vec<(i64, T)> {
        let known = steps_us
            .filter(|steps_us| steps_us.len() == self.held.len())
            .filter(|steps_us| steps_us.iter().all(|&step_us| step_us > 0));
        let Some(steps_us) = known else { return self.release(None) };
        let mut pts_us = self.known_us.unwrap_or(0);
        let stamps = steps_us.iter().map(|step_us| {
            pts_us = pts_us.saturating_add(*step_us);
            pts_us
        });
        stamps.zip(self.held.drain(..)).collect()
    }

    /// How many frames before the end had to be given a stamp.
    pub(crate) fn mended(&self) -> u64 {
        self.mended
    }

    /// Spreads what is held before `next_us`, or at the usual intervals.
    fn release(&mut self, next_us: Option<i64>) -> Vec<(i64, T)> {
        let mut known_us = self.known_us.unwrap_or(0);
        let mut left = self.held.len() as i64;
        let interval_us = self.interval_us;
        let released = self.held.drain(..).map(|frame| {
            // Step by step from the frame before: a later start among them gives the same.
            let step_us = match next_us {
                Some(next_us) => next_us.saturating_sub(known_us) / (left + 1),
                None => interval_us,
            };
            left -= 1;
            known_us = known_us.saturating_add(step_us);
            (known_us, frame)
        });
        let released = released.collect();
        self.known_us = Some(known_us);
        released
    }
}

/// Says about when each frame is, at once: good enough to tell which frames are wanted.
#[derive(Debug)]
pub(crate) struct RoughClock {
    interval_us: i64,
    known_us: i64,
    unknown: i64,
}

impl RoughClock {
    /// `interval_us` as in [`Clock::new`].
    pub(crate) fn new(interval_us: i64) -> Self {
        Self { interval_us, known_us: i64::MIN, unknown: 0 }
    }

    /// The time of the next frame, of which the decoder says `raw_us`.
    pub(crate) fn time_us(&mut self, raw_us: i64) -> i64 {
        if raw_us > self.known_us {
            (self.known_us, self.unknown) = (raw_us, 0);
        } else {
            self.unknown += 1;
        }
        self.known_us.saturating_add(self.unknown.saturating_mul(self.interval_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every frame comes out once, in order, with the expected stamp.
    fn check(raw_us: &[i64], steps_us: Option<&[i64]>, expected_us: &[i64], mended: u64) {
        let mut clock = Clock::new(40_000);
        let mut released = Vec::new();
        for (frame, &raw_us) in raw_us.iter().enumerate() {
            released.extend(clock.push(raw_us, frame));
        }
        released.extend(clock.finish(steps_us));
        let stamps: Vec<i64> = released.iter().map(|(stamp_us, _)| *stamp_us).collect();
        assert_eq!(stamps, expected_us);
        assert!(released.iter().map(|(_, frame)| *frame).eq(0..raw_us.len()));
        assert_eq!(clock.mended(), mended);
        assert!(stamps.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn good_stamps_pass() {
        check(&[0, 33_000, 34_000, 900_000], None, &[0, 33_000, 34_000, 900_000], 0);
        check(&[500, 40_500], None, &[500, 40_500], 0);
    }

    #[test]
    fn the_first_frame_is_never_before_the_start() {
        check(&[-66_000, 33_000, 66_000], None, &[0, 33_000, 66_000], 0);
    }

    #[test]
    fn frames_between_good_stamps_are_spread() {
        check(&[0, 40_000, 40_000, 120_000], None, &[0, 40_000, 80_000, 120_000], 1);
        check(&[0, -5, 0, 90_000], None, &[0, 30_000, 60_000, 90_000], 2);
        // No room between: the stamp that comes too early counts as unknown too.
        check(&[10, 10, 10, 11, 50], None, &[10, 20, 30, 40, 50], 3);
    }

    #[test]
    fn the_last_frames_follow_the_container_where_it_tells() {
        check(&[0, 50_000, 0, 0], Some(&[30_000, 60_000]), &[0, 50_000, 80_000, 140_000], 0);
        for of_no_use in [None, Some(&[30_000][..]), Some(&[30_000, 0][..])] {
            check(&[0, 50_000, 0, 0], of_no_use, &[0, 50_000, 90_000, 130_000], 0);
        }
    }

    #[test]
    fn without_stamps_frames_run_at_the_nominal_rate() {
        let expected: Vec<i64> = (0..1000).map(|frame| frame * 40_000).collect();
        check(&[0; 1000], None, &expected, 999);
        // A clock that restarts and rises again, but never above the last good stamp.
        let raw: Vec<i64> = (0..1000).map(|frame| (frame + 500) % 1000 * 40_000).collect();
        let expected: Vec<i64> = (500..1500).map(|frame| frame * 40_000).collect();
        check(&raw, None, &expected, 500);
    }

    #[test]
    fn a_start_after_any_frame_of_a_run_gives_the_same() {
        let next_us = 100_003;
        let after = |pts_us: i64| {
            let mut clock = Clock::new(40_000);
            assert_eq!(clock.push(pts_us, 9), [(pts_us, 9)]);
            clock
        };
        let mut whole = after(0);
        (0..4).for_each(|frame| assert!(whole.push(0, frame).is_empty()));
        let whole = whole.push(next_us, 4);
        for start in 0..4 {
            let mut rest = after(whole[start].0);
            (start + 1..4).for_each(|frame| assert!(rest.push(0, frame).is_empty()));
            assert_eq!(rest.push(next_us, 4), whole[start + 1..]);
        }
    }

    #[test]
    fn hostile_numbers_do_not_overflow() {
        let mut clock = Clock::new(i64::MAX);
        assert_eq!(clock.push(i64::MAX - 1, ()).len(), 1);
        assert!(clock.push(i64::MIN, ()).is_empty());
        assert!(clock.push(i64::MAX, ()).is_empty());
        assert_eq!(clock.finish(Some(&[i64::MAX; 2])).len(), 2);
        let mut rough = RoughClock::new(i64::MAX);
        for raw_us in [i64::MIN, i64::MAX, 0, 5, i64::MIN] {
            rough.time_us(raw_us);
        }
    }

    #[test]
    fn the_rough_clock_follows() {
        let mut rough = RoughClock::new(40);
        let times: Vec<i64> = [0, 40, 0, 0, 160, 0].map(|raw_us| rough.time_us(raw_us)).to_vec();
        assert_eq!(times, [0, 40, 80, 120, 160, 200]);
    }
}
