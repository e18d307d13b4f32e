//! One step on the device under test against the same step in float64 on the CPU, for every method and
//! precision. Where there is a GPU it is that device; elsewhere the CPU's own float32, bfloat16 and float16
//! are held to the same bounds.

use std::collections::BTreeMap;

use dora_core::{
    loss::Reduction,
    tracker::{Threshold, TrackerSpec},
};
use dora_model::TrackerLayer;
use dora_train::{
    engine::{Draws, Engine, Method, Scheduled, TrackerMethod},
    notice::Notice,
};
use tch::{Device, Kind, Tensor};
use torch_ext::AutocastDtype;

use super::{Golden, integers, network_config, network_weights, relative_error};
use crate::{device, has_cuda};

/// A precision, and the bounds of its errors: of losses, entropy, norms and centre and of gradients as shares
/// of each tensor's largest magnitude, and of masks as the share of patches on the other side of the cut.
struct Precision {
    name: &'static str,
    autocast: Option<AutocastDtype>,
    forward: f64,
    gradients: f64,
    masks: f64,
}

/// Those of the lower precisions are three to five times what the CPU's show.
const PRECISIONS: [Precision; 3] = [
    Precision { name: "float32", autocast: None, forward: 1e-4, gradients: 1e-4, masks: 0.0 },
    Precision {
        name: "bfloat16",
        autocast: Some(AutocastDtype::BFloat16),
        forward: 0.05,
        gradients: 0.2,
        masks: 0.02,
    },
    Precision {
        name: "float16",
        autocast: Some(AutocastDtype::Float16),
        forward: 0.005,
        gradients: 0.03,
        masks: 0.01,
    },
];

/// What a step computes, by name, on the CPU.
struct Step {
    forward: BTreeMap<String, Tensor>,
    gradients: BTreeMap<String, Tensor>,
    masks_V: Vec<Tensor>,
}

fn step(
    objects: Option<Reduction>,
    views: i64,
    device: Device,
    precision: &Precision,
    kind: Kind,
) -> Step {
    let [vit, head, tracker, loss, two_views] =
        ["vit", "head", "tracker", "loss", "two_views"].map(Golden::read);
    let spec = TrackerSpec {
        eps: tracker.number("eps"),
        iterations: tracker.integer("iters") as usize,
        sinkhorn: true,
        threshold: Threshold::Batch,
    };
    let method = Method {
        tracker: objects.map(|_| TrackerMethod { spec, layer: TrackerLayer::Last }),
        reduction: objects.unwrap_or(Reduction::Pairs),
        student_temp: loss.number("student_temp"),
        center_momentum: 0.9,
        clip_grad: 3.0,
        norm_last_layer: false,
        autocast: precision.autocast,
        autocast_tokens: false,
        autocast_head: false,
        gradient_accumulation_steps: 1,
    };
    let config = network_config(&vit, &head);
    let weights = network_weights(&vit, &head);
    let mut engine = Engine::new(&config, method, &weights, device, kind, None).unwrap();
    if precision.autocast == Some(AutocastDtype::Float16) {
        // The usual first factor may overflow, and the step would be skipped.
        let mut training = engine.training_state();
        training.insert("loss_scale", Tensor::from(1024.0));
        engine.load(&weights, &weights, &training).unwrap();
    }
    let scale = engine.loss_scale().map_or(1.0, |scale| scale.double_value(&[]));
    let seen = |frames: Tensor| frames.to_kind(kind).to_device(device);
    let both = [vit.on_cpu("frames_BTCHW"), two_views.on_cpu("frames_b_BTCHW")];
    let global_VBTCHW = seen(Tensor::stack(&both[..views as usize], 0));
    let local_LBTCHW = seen(vit.on_cpu("local_LBTCHW"));
    let draws = Draws { head_ids: integers(&tracker.meta["head_ids"]), drop_path: None };
    let scheduled = Scheduled {
        lr: 1e-3,
        weight_decay: 0.04,
        momentum: 0.9,
        teacher_temp: loss.number("teacher_temp"),
        freeze_last_layer: false,
    };
    let on_cpu = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    engine.backward(&global_VBTCHW, &local_LBTCHW, &draws, &scheduled).unwrap();
    let gradients = engine.student().state().iter();
    let gradients = gradients.map(|(name, param)| (name.to_owned(), on_cpu(&param.grad()) / scale));
    let gradients = gradients.collect();

    let output = engine.update(&scheduled, Notice::default()).unwrap();
    assert_eq!(output.skipped.double_value(&[]), 0.0, "{} overflowed", precision.name);
    let mut forward: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in [
        ("loss", &output.loss.total),
        ("global part", &output.loss.global),
        ("local part", &output.loss.local),
        ("teacher's entropy", &output.loss.teacher_entropy),
        ("gradients' norms", &output.grad_norms),
        ("centre", engine.center()),
    ] {
        forward.insert(name.to_owned(), on_cpu(tensor));
    }
    let masks_V = output.tracks_V.iter().map(|tracks| on_cpu(&tracks.masks_BTKN)).collect();
    Step { forward, gradients, masks_V }
}

#[test]
fn one_step_is_the_cpu_s_in_every_precision() {
    let device = if has_cuda() { Device::Cuda(0) } else { device() };
    if device == Device::Cpu {
        eprintln!("CUDA skipped: libtorch finds no GPU; the CPU's precisions are compared");
    }
    for (name, objects, views) in [
        ("released", Some(Reduction::Released), 1),
        ("mean", Some(Reduction::Mean), 1),
        ("mean with two views", Some(Reduction::Mean), 2),
        ("dino", None, 2),
    ] {
        let exact = step(objects, views, Device::Cpu, &PRECISIONS[0], Kind::Double);
        for precision in &PRECISIONS {
            let found = step(objects, views, device, precision, Kind::Float);
            let worst = |found: &BTreeMap<String, Tensor>, exact: &BTreeMap<String, Tensor>| {
                assert_eq!(found.len(), exact.len());
                let errors =
                    found.iter().map(|(name, tensor)| (relative_error(tensor, &exact[name]), name));
                let (error, at) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                (error, at.to_owned())
            };
            let forward = worst(&found.forward, &exact.forward);
            let gradients = worst(&found.gradients, &exact.gradients);
            // Each view has as many patches as the other.
            let masks = found.masks_V.iter().zip(&exact.masks_V).map(|(found, exact)| {
                (found - exact).abs().mean(None).double_value(&[]) / views as f64
            });
            let masks = masks.fold(0.0, |sum, share| sum + share);
            let title = format!("{name} on {device:?} in {}", precision.name);
            println!(
                "step: {title}: {:.1e} ({}), gradients {:.1e} ({}), masks {masks:.1e}",
                forward.0, forward.1, gradients.0, gradients.1
            );
            assert!(
                forward.0 <= precision.forward,
                "{title}: {} is off by {:.2e}",
                forward.1,
                forward.0
            );
            assert!(
                gradients.0 <= precision.gradients,
                "{title}: the gradient of {} is off by {:.2e}",
                gradients.1,
                gradients.0
            );
            assert!(masks <= precision.masks, "{title}: {masks:.2e} of the masks differ");
        }
    }
}
