//! The loss scale of float16.

use dora_train::scaler::{LossScaler, MOST_OVERFLOWS};
use tch::{Device, Tensor};

struct Scale(LossScaler);

impl Scale {
    fn now(&self) -> f64 {
        self.0.scale().double_value(&[])
    }

    fn steps(&mut self, count: usize, skipped: bool) {
        let skipped = Tensor::from(f32::from(skipped));
        (0..count).for_each(|_| self.0.update(&skipped).unwrap());
    }
}

#[test]
fn the_scale_halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
    let mut scale = Scale(LossScaler::new(Device::Cpu));
    assert_eq!(scale.now(), 65536.0);
    scale.steps(1, true);
    assert_eq!(scale.now(), 32768.0);
    scale.steps(1999, false);
    assert_eq!(scale.now(), 32768.0);
    scale.steps(1, false);
    assert_eq!(scale.now(), 65536.0);
    // An overflow starts the count anew.
    scale.steps(1999, false);
    scale.steps(1, true);
    scale.steps(1, false);
    assert_eq!(scale.now(), 32768.0);
}

#[test]
fn the_scale_is_one_after_the_most_overflows_that_are_its_own() {
    let mut scale = Scale(LossScaler::new(Device::Cpu));
    scale.steps(MOST_OVERFLOWS as usize, true);
    assert_eq!(scale.now(), 1.0);
}
