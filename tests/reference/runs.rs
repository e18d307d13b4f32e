//! Whole training runs through the engine, in float64; `tools/make_runs.py` made their files.

use dora_core::{
    loss::Reduction,
    tracker::{Threshold, TrackerSpec},
};
use dora_model::{Network, StateDict, TrackerLayer};
use dora_train::engine::{Draws, Engine, Method, Scheduled, TrackerMethod};
use tch::{Kind, Tensor};

use super::{Golden, check, integers, network_config, network_weights};
use crate::device;

const TOLERANCE: f64 = 1e-8;

#[test]
fn six_released_steps_match() {
    check_run("train_released", Reduction::Released, 1);
}

#[test]
fn six_mean_steps_match() {
    check_run("train_mean", Reduction::Mean, 1);
}

#[test]
fn six_steps_with_two_views_match() {
    check_run("train_two_views", Reduction::Mean, 2);
}

#[test]
fn six_steps_of_dino_match() {
    check_run("train_dino", Reduction::Pairs, 2);
}

/// A run on one view or two; `Pairs` is DINO's, without a tracker.
fn check_run(name: &str, reduction: Reduction, views: usize) {
    let Some(run) = Golden::find(name) else { return };
    let [vit, head, tracker, loss] = ["vit", "head", "tracker", "loss"].map(Golden::read);
    let tracker = TrackerMethod {
        spec: TrackerSpec {
            eps: tracker.number("eps"),
            iterations: tracker.integer("iters") as usize,
            sinkhorn: true,
            threshold: Threshold::Batch,
        },
        layer: TrackerLayer::Last,
    };
    let method = Method {
        tracker: (reduction != Reduction::Pairs).then_some(tracker),
        reduction,
        student_temp: loss.number("student_temp"),
        center_momentum: 0.9,
        clip_grad: run.number("clip"),
        norm_last_layer: false,
        autocast: None,
        autocast_tokens: false,
        autocast_head: false,
        gradient_accumulation_steps: 1,
    };
    let config = network_config(&vit, &head);
    let weights = network_weights(&vit, &head);
    let mut engine = Engine::new(&config, method, &weights, device(), Kind::Double, None).unwrap();
    let frames = [vit.get("frames_BTCHW"), Golden::read("two_views").get("frames_b_BTCHW")];
    let global = Tensor::stack(&frames[..views], 0).to_kind(Kind::Double);
    let local = vit.get("local_LBTCHW").to_kind(Kind::Double);
    for step in 0..run.integer("steps") as usize {
        let schedule = |name: &str| run.meta["schedules"][name][step].as_f64().unwrap();
        let scheduled = Scheduled {
            lr: schedule("lr"),
            weight_decay: schedule("wd"),
            momentum: schedule("momentum"),
            teacher_temp: loss.number("teacher_temp"),
            freeze_last_layer: (step as i64) < run.integer("freeze_last_layer_steps"),
        };
        let head_ids = integers(&run.meta["head_ids"][step]);
        let draws = Draws { head_ids, drop_path: None };
        let output = engine.step(&global, &local, &draws, &scheduled).unwrap();
        let expected = Tensor::from(run.meta["losses"][step].as_f64().unwrap());
        check(&format!("loss of step {step}"), &output.loss.total, &expected, TOLERANCE);
    }
    check_state(&run, "student.", engine.student());
    check_state(&run, "teacher.", engine.teacher());
    check("centre", engine.center(), &run.get("center"), TOLERANCE);
}

fn check_state(run: &Golden, prefix: &str, network: &Network) {
    let expected: StateDict = run.tensors.strip_prefix(prefix);
    assert_eq!(expected.tensors().len(), network.state().tensors().len());
    for (name, tensor) in network.state().iter() {
        check(name, tensor, &expected.get(name).unwrap(), TOLERANCE);
    }
}
