//! The loss scale of float16.

use dora_train::scaler::LossScaler;

#[test]
fn the_scale_halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
    let mut scaler = LossScaler::default();
    assert_eq!(scaler.scale(), 65536.0);
    assert!(scaler.update(true));
    assert_eq!(scaler.scale(), 32768.0);
    for step in 1..=2000 {
        assert_eq!(scaler.scale(), 32768.0, "before good step {step}");
        assert!(!scaler.update(false));
    }
    assert_eq!(scaler.scale(), 65536.0);
    // An overflow starts the count anew.
    (0..1999).for_each(|_| assert!(!scaler.update(false)));
    assert!(scaler.update(true));
    assert!(!scaler.update(false));
    assert_eq!(scaler.scale(), 32768.0);
}

#[test]
fn gradients_that_overflow_at_the_smallest_scale_are_an_error_of_the_run() {
    let mut scaler = LossScaler::default();
    let skipped = (0..100).take_while(|_| scaler.update(true)).count();
    assert_eq!(skipped, 16, "from 2^16 down to 1");
}
