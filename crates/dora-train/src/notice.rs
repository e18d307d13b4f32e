//! What a rank says to the others with a step: it travels with the loss in one all-reduce, so that no
//! step waits for an agreement of its own.

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

/// The signals that end a run, in the order in which they are obeyed where ranks got several.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];

/// Said by one rank, or, once reduced, by any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// A rank has no batch for this step, or could not record an earlier one: the step must change
    /// nothing, and is the last.
    pub fault: bool,
    /// The signal that a rank got: this step is the last.
    pub signal: Option<i32>,
}

impl Notice {
    /// Numbers of a notice.
    pub(crate) const LEN: usize = 1 + SIGNALS.len();

    /// As numbers that may be summed over ranks, [`Notice::LEN`] of them, the fault first.
    pub(crate) fn to_numbers(self) -> [f32; Notice::LEN] {
        let mut numbers = [0.0; Notice::LEN];
        numbers[0] = f32::from(self.fault);
        for (number, signal) in numbers[1..].iter_mut().zip(SIGNALS) {
            *number = f32::from(self.signal == Some(signal));
        }
        numbers
    }

    /// Of summed numbers.
    pub(crate) fn from_numbers(numbers: &[f64]) -> Self {
        let said = |number: &f64| *number > 0.0;
        let (fault, signals) =
            numbers.split_first().map_or((false, numbers), |(f, s)| (said(f), s));
        let signal = SIGNALS.iter().zip(signals).find(|(_, number)| said(number));
        Self { fault, signal: signal.map(|(signal, _)| *signal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_notices_is_a_notice() {
        let notices = [
            Notice::default(),
            Notice { fault: false, signal: Some(SIGUSR1) },
            Notice { fault: true, signal: None },
            Notice { fault: false, signal: Some(SIGTERM) },
        ];
        let sum_of = |notices: &[Notice]| {
            let mut sums = [0.0; Notice::LEN];
            for notice in notices {
                let numbers = notice.to_numbers();
                sums.iter_mut().zip(numbers).for_each(|(sum, n)| *sum += f64::from(n));
            }
            Notice::from_numbers(&sums)
        };
        for notice in notices {
            assert_eq!(sum_of(&[notice]), notice);
        }
        assert_eq!(sum_of(&notices), Notice { fault: true, signal: Some(SIGTERM) });
    }
}
