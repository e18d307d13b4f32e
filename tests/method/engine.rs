//! The training step: masks inside the encoder, what is frozen, and what stops it.

use dora_core::{
    loss::Reduction,
    tracker::{Threshold, TrackerSpec, mask_frames},
};
use dora_model::{
    DropPath, HeadConfig, Network, NetworkConfig, StateDict, TrackerLayer, VitConfig,
};
use dora_train::{
    engine::{Draws, Engine, Method, NonFinite, Scheduled, StepOutput, TrackerMethod},
    metrics::{StepReadBack, Timing},
};
use rand::{SeedableRng, rngs::ChaCha8Rng};
use tch::{Device, Kind, Tensor};
use torch_ext::{AutocastDtype, count_transfers};

use super::{largest_difference, uniform};

pub(crate) const CONFIG: NetworkConfig = NetworkConfig {
    vit: VitConfig {
        patch_px: 8,
        width: 24,
        depth: 2,
        heads: 3,
        mlp_ratio: 2,
        image_px: 32,
        norm_eps: 1e-6,
    },
    head: HeadConfig { in_dim: 24, hidden_dim: 16, bottleneck_dim: 8, out_dim: 20 },
};

fn weights() -> StateDict {
    Network::init(&CONFIG, &mut ChaCha8Rng::seed_from_u64(3))
}

fn method() -> Method {
    let spec =
        TrackerSpec { eps: 0.05, iterations: 30, sinkhorn: true, threshold: Threshold::Sample };
    Method {
        tracker: Some(TrackerMethod { spec, layer: TrackerLayer::SecondLast }),
        reduction: Reduction::Mean,
        student_temp: 0.1,
        center_momentum: 0.9,
        clip_grad: 3.0,
        norm_last_layer: false,
        autocast: None,
        autocast_tokens: false,
        autocast_head: false,
        gradient_accumulation_steps: 1,
    }
}

fn dino() -> Method {
    Method { tracker: None, reduction: Reduction::Pairs, ..method() }
}

fn scheduled(freeze_last_layer: bool) -> Scheduled {
    Scheduled { lr: 0.01, weight_decay: 0.1, momentum: 0.9, teacher_temp: 0.04, freeze_last_layer }
}

fn engine(method: Method) -> Engine {
    Engine::new(&CONFIG, method, &weights(), Device::Cpu, Kind::Double, None).unwrap()
}

/// Random global views, as many as `count`, and local crops.
fn views(count: i64) -> [Tensor; 2] {
    let global = uniform(1, &[count, 2, 2, 3, 32, 32], Kind::Double);
    let local = uniform(2, &[2, 2, 2, 3, 16, 16], Kind::Double);
    [global, local]
}

/// One step of an engine on random views; `count` is 1 or 2.
fn step_output(engine: &mut Engine, count: i64, scheduled: &Scheduled) -> StepOutput {
    let [global, local] = views(count);
    let draws = Draws { head_ids: vec![2, 0], drop_path: None };
    engine.step(&global, &local, &draws, scheduled).unwrap()
}

/// The loss of one step that is taken.
fn step(engine: &mut Engine, count: i64, scheduled: &Scheduled) -> f64 {
    let output = step_output(engine, count, scheduled);
    assert_eq!(output.skipped.double_value(&[]), 0.0);
    output.loss.total.double_value(&[])
}

#[test]
fn masking_inside_the_encoder_is_masking_the_frames() {
    let network = Network::new(&CONFIG, &weights(), Device::Cpu, Kind::Double, false).unwrap();
    let frames_BTCHW = uniform(1, &[2, 3, 3, 32, 32], Kind::Double);
    let masks_BTKN = uniform(2, &[2, 3, 4, 16], Kind::Double).greater(0.0).to_kind(Kind::Double);
    let drop_path =
        |images| DropPath::draw(0.5, 2, images, &mut ChaCha8Rng::seed_from_u64(5), Device::Cpu);
    let (images, masks) = (frames_BTCHW.flatten(0, 1), masks_BTKN.flatten(0, 1));
    let inside = network.backbone.cls_masked(&images, &masks, Some(&drop_path(24)));
    let masked_KBTCHW = mask_frames(&frames_BTCHW, &masks_BTKN, 8);
    let masked_NCHW = masked_KBTCHW.permute([1, 2, 0, 3, 4, 5]).flatten(0, 2);
    let outside = network.backbone.forward(&masked_NCHW, Some(&drop_path(24))).select(1, 0);
    assert!(largest_difference(&inside, &outside) < 1e-12);
}

#[test]
fn the_second_last_layer_gives_queries_and_keys_but_not_tokens() {
    let shallow = NetworkConfig { vit: VitConfig { depth: 1, ..CONFIG.vit }, ..CONFIG };
    let network = |config| {
        Network::new(config, &weights(), Device::Cpu, Kind::Double, false).unwrap().backbone
    };
    let (deep, shallow) = (network(&CONFIG), network(&shallow));
    let image = uniform(1, &[2, 3, 32, 32], Kind::Double);
    let second_last = deep.features(&image, TrackerLayer::SecondLast);
    let last_of_shallow = shallow.features(&image, TrackerLayer::Last);
    let equal = |a: &Tensor, b: &Tensor| largest_difference(a, b) < 1e-12;
    assert!(equal(&second_last.queries_NHSE, &last_of_shallow.queries_NHSE));
    assert!(equal(&second_last.keys_NHSE, &last_of_shallow.keys_NHSE));
    assert!(equal(&second_last.tokens_NSD, &deep.forward(&image, None)));
    assert!(!equal(&second_last.tokens_NSD, &last_of_shallow.tokens_NSD));
}

#[test]
fn bfloat16_stays_near_float32_and_keeps_the_weights_in_float32() {
    let run = |autocast, everything| {
        let method =
            Method { autocast, autocast_tokens: everything, autocast_head: everything, ..method() };
        let mut engine =
            Engine::new(&CONFIG, method, &weights(), Device::Cpu, Kind::Float, None).unwrap();
        let global = uniform(1, &[1, 2, 2, 3, 32, 32], Kind::Float);
        let local = uniform(2, &[2, 2, 2, 3, 16, 16], Kind::Float);
        let draws = Draws { head_ids: vec![2, 0], drop_path: None };
        let output = engine.step(&global, &local, &draws, &scheduled(false)).unwrap();
        assert_eq!(output.tracks_V[0].maps_BTKN.kind(), Kind::Float);
        assert!(engine.student().state().iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
        output.loss.teacher_entropy.double_value(&[])
    };
    let bfloat16 = Some(AutocastDtype::BFloat16);
    let losses = [run(None, false), run(bfloat16, false), run(bfloat16, true)];
    for (index, loss) in losses.iter().enumerate() {
        assert!(!losses[..index].contains(loss), "a precision changed nothing: {losses:?}");
        assert!((losses[0] - loss).abs() < 0.02, "{losses:?}");
    }
}

#[test]
fn a_step_that_computes_blocks_again_is_the_same() {
    let run = |blocks, autocast| {
        let method = Method { autocast, ..method() };
        let mut engine =
            Engine::new(&CONFIG, method, &weights(), Device::Cpu, Kind::Float, None).unwrap();
        engine.set_checkpoint_blocks(blocks);
        let global = uniform(1, &[1, 2, 2, 3, 32, 32], Kind::Float);
        let local = uniform(2, &[2, 2, 2, 3, 16, 16], Kind::Float);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut draw = |images| DropPath::draw(0.5, 2, images, &mut rng, Device::Cpu);
        let draws = Draws { head_ids: vec![2, 0], drop_path: Some((draw(8), draw(8))) };
        let output = engine.step(&global, &local, &draws, &scheduled(false)).unwrap();
        (output.loss.total.double_value(&[]), output.grad_norms)
    };
    // Under autocast the gradients of the two image sizes are added in float32 and not in bfloat16.
    for (autocast, tolerance) in [(None, 0.0), (Some(AutocastDtype::BFloat16), 0.01)] {
        let (plain, again) = (run(0, autocast), run(2, autocast));
        assert_eq!(plain.0, again.0, "{autocast:?}");
        let largest = plain.1.max().double_value(&[]);
        let off = largest_difference(&plain.1, &again.1) / largest;
        assert!(off <= tolerance, "norms of gradients are off by {off} with {autocast:?}");
    }
}

#[test]
fn float16_scales_the_loss_and_leaves_out_steps_that_overflow() {
    let step = |scale: f64| {
        let method = Method { autocast: Some(AutocastDtype::Float16), ..method() };
        let mut engine =
            Engine::new(&CONFIG, method, &weights(), Device::Cpu, Kind::Float, None).unwrap();
        let mut training = engine.training_state();
        training.insert("loss_scale", Tensor::from(scale));
        let (student, teacher) = (engine.student().state(), engine.teacher().state());
        let [student, teacher] =
            [student, teacher].map(|state| state.copy_to(Device::Cpu, Kind::Float, false));
        engine.load(&student, &teacher, &training).unwrap();
        let global = uniform(1, &[1, 2, 2, 3, 32, 32], Kind::Float);
        let local = uniform(2, &[2, 2, 2, 3, 16, 16], Kind::Float);
        let draws = Draws { head_ids: vec![2, 0], drop_path: None };
        let output = engine.step(&global, &local, &draws, &scheduled(false)).unwrap();
        (engine, output)
    };
    let scale = |engine: &Engine| engine.loss_scale().unwrap().double_value(&[]);
    let is_taken = |output: &StepOutput| output.skipped.double_value(&[]) == 0.0;
    // The scale changes neither norms nor weights beyond float16's rounding.
    let ((one, at_one), (usual, at_usual)) = (step(16.0), step(1024.0));
    assert!(is_taken(&at_one) && is_taken(&at_usual));
    assert_eq!((scale(&one), scale(&usual)), (16.0, 1024.0));
    let norms = |output: &StepOutput| output.grad_norms.norm().double_value(&[]);
    assert!((norms(&at_one) / norms(&at_usual) - 1.0).abs() < 0.01);

    let (engine, output) = step(1e30);
    assert!(!is_taken(&output), "no gradient overflowed");
    assert!((scale(&engine) / 5e29 - 1.0).abs() < 1e-6);
    for (name, tensor) in engine.student().state().iter() {
        assert_eq!(largest_difference(&weights().get(name).unwrap(), &tensor.detach()), 0.0);
        assert!(!tensor.grad().defined(), "{name} keeps its gradient");
    }
    assert_eq!(engine.center().abs().sum(None).double_value(&[]), 0.0, "the centre moved");
}

#[test]
fn stochastic_depth_draws_for_each_image_and_spares_the_first_block() {
    let network = Network::new(&CONFIG, &weights(), Device::Cpu, Kind::Double, false).unwrap();
    let image = uniform(1, &[1, 3, 32, 32], Kind::Double).expand([64, 3, 32, 32], false);
    let whole = network.backbone.forward(&image, None);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let half = DropPath::draw(0.5, 2, 64, &mut rng, Device::Cpu);
    let dropped = network.backbone.forward(&image, Some(&half));
    let changes = (&whole - dropped).abs().amax([1, 2].as_slice(), false);
    // At rate 0.5 a branch of the last block is left out or counts double, so that every image
    // changes, in one of four ways.
    assert!(changes.min().double_value(&[]) > 1e-9);
    let (kinds, _, _) = (changes * 1e9).round().unique_dim(0, true, false, false);
    assert_eq!(kinds.size(), [4]);
    let none = DropPath::draw(0.0, 2, 64, &mut rng, Device::Cpu);
    let kept = network.backbone.forward(&image, Some(&none));
    assert!(largest_difference(&kept, &whole) < 1e-12);
}

#[test]
fn a_frozen_last_layer_keeps_values_and_optimiser_state() {
    let mut engine = engine(method());
    step(&mut engine, 1, &scheduled(true));
    let (before, after) = (weights(), engine.student().state());
    for (name, tensor) in after.iter() {
        let start = before.get(name).unwrap().to_kind(Kind::Double);
        let is_frozen = name.starts_with("head.last_layer.");
        assert_eq!(largest_difference(&start, &tensor.detach()) == 0.0, is_frozen, "{name}");
        let steps = engine.training_state().get(&format!("step.{name}")).unwrap();
        assert_eq!(steps.double_value(&[]), if is_frozen { 0.0 } else { 1.0 }, "{name}");
    }
}

#[test]
fn norm_last_layer_keeps_only_the_scales() {
    let mut engine = engine(Method { norm_last_layer: true, ..method() });
    step(&mut engine, 1, &scheduled(false));
    let (before, after) = (weights(), engine.student().state());
    for (name, tensor) in after.iter() {
        let start = before.get(name).unwrap().to_kind(Kind::Double);
        let is_kept = name == "head.last_layer.weight_g";
        assert_eq!(largest_difference(&start, &tensor.detach()) == 0.0, is_kept, "{name}");
    }
}

#[test]
fn the_teacher_follows_and_gets_no_gradient() {
    let mut engine = engine(method());
    step(&mut engine, 1, &scheduled(false));
    let before = weights();
    for (name, teacher) in engine.teacher().state().iter() {
        let start = before.get(name).unwrap().to_kind(Kind::Double);
        let student = engine.student().state().get(name).unwrap().detach();
        assert!(largest_difference(teacher, &(start * 0.9 + student * 0.1)) < 1e-12, "{name}");
        assert!(!teacher.requires_grad());
    }
}

#[test]
fn dino_and_two_view_dora_learn_from_both_views() {
    for method in [method(), dino()] {
        let mut engine = engine(method);
        let losses: Vec<f64> = (0..12).map(|_| step(&mut engine, 2, &scheduled(false))).collect();
        assert!(losses[11] < losses[0], "{losses:?}");
    }
}

#[test]
fn a_bad_number_skips_the_step_and_is_named() {
    let mut engine = engine(method());
    let bad = engine.student().state().get("backbone.blocks.1.mlp.fc1.bias").unwrap().detach();
    let _ = bad.get(0).fill_(f64::NAN);
    let output = step_output(&mut engine, 1, &scheduled(false));
    assert_eq!(output.skipped.double_value(&[]), 1.0);
    let NonFinite { what, tensor, capture } = engine.non_finite(&output);
    assert_eq!((what, tensor.as_deref()), ("loss", Some("backbone.blocks.1.mlp.fc1.bias")));
    let capture = capture.unwrap();
    assert!(capture.get("global_views").is_ok() && capture.get("teacher_logits").is_ok());
    let student_logits: Tensor = capture.get("student_logits_global").unwrap();
    assert_eq!(student_logits.isfinite().all().int64_value(&[]), 0);
}

#[test]
fn a_skipped_step_leaves_no_trace() {
    let run = |bad_steps: &[usize]| {
        let mut engine = engine(method());
        for index in 0..4 {
            let [mut global, local] = views(1);
            if bad_steps.contains(&index) {
                global *= f64::NAN;
            } else if index == 3 {
                continue;
            }
            let draws = Draws { head_ids: vec![2, 0], drop_path: None };
            let output = engine.step(&global, &local, &draws, &scheduled(false)).unwrap();
            let skipped = output.skipped.double_value(&[]);
            assert_eq!(skipped, f64::from(bad_steps.contains(&index)));
        }
        engine
    };
    // Two good steps each: with bad ones before, between and behind, or a third good one left out.
    let (disturbed, whole) = (run(&[1, 3]), run(&[0]));
    for (a, b) in disturbed.shared_tensors().iter().zip(whole.shared_tensors()) {
        assert!(a.equal(&b), "{a:?} and {b:?}");
    }
    assert!(largest_difference(whole.center(), &whole.center().zeros_like()) > 0.0);
}

#[test]
fn a_step_never_waits_for_the_device() {
    for method in [method(), dino()] {
        let drop_path =
            |images| DropPath::draw(0.5, 2, images, &mut ChaCha8Rng::seed_from_u64(5), Device::Cpu);
        let objects = if method.tracker.is_some() { 2 } else { 1 };
        let mut engine = engine(method);
        let [global, local] = views(2);
        let drop_path = Some((drop_path(8 * objects), drop_path(8)));
        let draws = Draws { head_ids: vec![2, 0], drop_path };
        // On the CPU, fused AdamW reads its step counters.
        let counters = engine.student().state().tensors().len() as i64;
        let (_, transfers) = count_transfers(|| {
            let output = engine.step(&global, &local, &draws, &scheduled(false)).unwrap();
            let timing = Timing { step_s: 1.0, data_s: 0.0, images: 1 };
            StepReadBack::start(&output, &engine, &scheduled(false), (1, 0.0), timing).unwrap()
        });
        assert_eq!(transfers.waits, counters, "{transfers:?}");
    }
    // The count sees what the step may not do.
    let (_, transfers) = count_transfers(|| Tensor::from(1.0).double_value(&[]));
    assert_eq!(transfers.waits, 1);
}
