//! The collapse alarm.

use dora_train::{
    alarm::{Collapse, CollapseAlarm},
    metrics::StepMetrics,
};

use super::healthy;

const OUT_DIM: i64 = 1097; // ln = 7.0003
const FIRST_STEP: u64 = 100;

/// The steps at which an alarm for a run of 2,000 steps calls, and what it calls.
fn calls(figures: impl Fn(u64) -> StepMetrics) -> Vec<(u64, Collapse)> {
    let mut alarm = CollapseAlarm::new(OUT_DIM, FIRST_STEP, 2000);
    (1..=2000).filter_map(|step| alarm.look(&figures(step)).map(|what| (step, what))).collect()
}

#[test]
fn a_healthy_run_raises_nothing() {
    assert_eq!(calls(healthy), []);
}

#[test]
fn each_collapse_is_told_once_when_it_has_lasted() {
    let uniform = |step| StepMetrics { teacher_entropy: 6.998, ..healthy(step) };
    assert_eq!(calls(uniform), [(200, Collapse::UniformTeacher)]);
    let certain = |step| StepMetrics { teacher_entropy: 0.001, ..healthy(step) };
    assert_eq!(calls(certain), [(200, Collapse::CertainTeacher)]);
    let at_ln = |step| StepMetrics { loss_global: 7.003, ..healthy(step) };
    assert_eq!(calls(at_ln), [(200, Collapse::LossAtUniform)]);
}

#[test]
fn a_collapse_is_told_whatever_comes_and_goes_beside_it() {
    let flickering = |step| StepMetrics {
        loss_global: 7.003,
        teacher_entropy: if step % 2 == 0 { 7.0 } else { 6.9 },
        ..healthy(step)
    };
    assert_eq!(calls(flickering), [(200, Collapse::LossAtUniform)]);
}

#[test]
fn a_run_that_recovers_is_not_told_and_a_second_collapse_is() {
    let short = |step| match step % 90 {
        0..80 => StepMetrics { teacher_entropy: 7.0, ..healthy(step) },
        _ => healthy(step),
    };
    assert_eq!(calls(short), []);
    let twice = |step| match step {
        300..500 | 900..1100 => StepMetrics { teacher_entropy: 7.0, ..healthy(step) },
        _ => healthy(step),
    };
    assert_eq!(calls(twice), [(400, Collapse::UniformTeacher), (1000, Collapse::UniformTeacher)]);
}
