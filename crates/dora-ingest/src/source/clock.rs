//! Time stamps as decoders give them, made to rise strictly.

/// Turns a decoder's time stamps into strictly rising ones.
///
/// Good stamps pass unchanged. A stamp that does not rise (a container without any, a restarted
/// clock, a glitch) is replaced: the first of a run by half a nominal interval after the frame
/// before, so that the next good stamp still fits, the following ones at whole intervals. The state
/// after a good stamp is that stamp alone, so that reading can start anywhere.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    interval_us: i64,
    last_us: Option<i64>,
    in_run: bool,
    replaced: u64,
}

impl Clock {
    /// `fps` is the container's nominal rate; an impossible one counts as 25.
    pub(crate) fn new(fps: f64) -> Self {
        let fps = if fps.is_finite() && fps > 0.01 && fps < 10_000.0 { fps } else { 25.0 };
        let interval_us = (1e6 / fps).round() as i64;
        Self { interval_us, last_us: None, in_run: false, replaced: 0 }
    }

    /// Goes on after a frame whose stamp was good.
    pub(crate) fn set(&mut self, last_us: i64) {
        self.last_us = Some(last_us);
        self.in_run = false;
    }

    /// The stamp for the next frame, of which the decoder says `raw_us`.
    pub(crate) fn stamp(&mut self, raw_us: i64) -> i64 {
        let stamp_us = match self.last_us {
            // OpenCV takes the decoding time, which may lie before the start, for a frame shown at 0.
            None => raw_us.max(0),
            Some(last_us) if raw_us > last_us => raw_us,
            Some(last_us) => {
                let step_us =
                    if self.in_run { self.interval_us } else { (self.interval_us / 2).max(1) };
                self.in_run = true;
                self.replaced += 1;
                self.last_us = Some(last_us.saturating_add(step_us));
                return last_us.saturating_add(step_us);
            }
        };
        self.set(stamp_us);
        stamp_us
    }

    /// How many stamps had to be replaced.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced
    }
}

/// A decoder's milliseconds as whole microseconds.
pub(crate) fn us_of_ms(time_ms: f64) -> i64 {
    // A cast from floating point saturates and takes NaN for 0.
    (time_ms * 1e3).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw_us: &[i64], expected_us: &[i64], replaced: u64) {
        let mut clock = Clock::new(25.0);
        let stamps: Vec<i64> = raw_us.iter().map(|&raw| clock.stamp(raw)).collect();
        assert_eq!(stamps, expected_us);
        assert_eq!(clock.replaced(), replaced);
        assert!(stamps.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn good_stamps_pass() {
        check(&[0, 33_000, 34_000, 900_000], &[0, 33_000, 34_000, 900_000], 0);
        check(&[500, 40_500], &[500, 40_500], 0);
    }

    #[test]
    fn the_first_frame_is_never_before_the_start() {
        check(&[-66_000, 33_000, 66_000], &[0, 33_000, 66_000], 0);
    }

    #[test]
    fn one_glitch_leaves_the_rest_alone() {
        check(&[0, 40_000, 40_000, 120_000], &[0, 40_000, 60_000, 120_000], 1);
        check(&[0, 40_000, -5, 120_000], &[0, 40_000, 60_000, 120_000], 1);
    }

    #[test]
    fn a_source_without_stamps_runs_at_its_nominal_rate() {
        check(&[0, 0, 0, 0], &[0, 20_000, 60_000, 100_000], 3);
    }

    #[test]
    fn a_restarted_clock_goes_on() {
        check(
            &[80_000, 0, 40_000, 80_000, 300_000],
            &[80_000, 100_000, 140_000, 180_000, 300_000],
            3,
        );
    }

    #[test]
    fn hostile_numbers_do_not_overflow() {
        assert_eq!(us_of_ms(f64::NAN), 0);
        let mut clock = Clock::new(f64::NAN);
        assert_eq!(clock.stamp(us_of_ms(f64::INFINITY)), i64::MAX);
        assert_eq!(clock.stamp(5), i64::MAX);
        Clock::new(1e300).stamp(0);
    }
}
