//! Discovery, Sinkhorn-Knopp, tracking, masks, losses with their gradients, and schedules.

use dora_core::{
    loss::{Loss, Reduction, cross_entropy_loss, next_center, teacher_probs},
    schedule::Cosine,
    sinkhorn_knopp,
    tracker::{ClipFeatures, Threshold, TrackerSpec, discover_and_track, mask_frames},
};
use dora_model::Network;
use tch::{Kind, Tensor};

use super::{FORWARD, GRADIENT, Golden, check, integers, network_config, network_weights};
use crate::device;

#[test]
fn sinkhorn_matches() {
    check_sinkhorn("sinkhorn", FORWARD);
}

#[test]
fn sinkhorn_matches_where_the_plain_iteration_breaks() {
    check_sinkhorn("sinkhorn_sharp", 1e-4);
}

fn check_sinkhorn(name: &str, tolerance: f64) {
    let golden = Golden::read(name);
    for iterations in [1, 3, 30] {
        let plan = sinkhorn_knopp(&golden.get("scores"), golden.number("eps"), iterations);
        check(name, &plan, &golden.get(&format!("plan_{iterations}")), tolerance);
    }
}

#[test]
fn tracker_matches() {
    let (vit, tracker) = (Golden::read("vit"), Golden::read("tracker"));
    let features = golden_features(&vit, &tracker);
    let mut spec = TrackerSpec {
        eps: tracker.number("eps"),
        iterations: tracker.integer("iters") as usize,
        sinkhorn: true,
        threshold: Threshold::Batch,
    };
    let tracks = discover_and_track(&features, &spec);
    check("prototypes", &tracks.prototypes_BKD, &tracker.get("prototypes_BKD"), FORWARD);
    check("plan", &tracks.plan_BNK.unwrap(), &tracker.get("plan_BNK"), FORWARD);
    check("refined", &tracks.refined_BKD, &tracker.get("refined_BKD"), FORWARD);
    let maps_TBKN = tracks.maps_BTKN.transpose(0, 1);
    check("maps", &maps_TBKN, &tracker.get("maps_TBKN"), FORWARD);
    let masks_TBKHW = tracks.masks_BTKN.transpose(0, 1).reshape_as(&tracker.get("masks_TBKHW"));
    check("masks", &masks_TBKHW, &tracker.get("masks_TBKHW"), 0.0);
    let masked = mask_frames(&vit.get("frames_BTCHW"), &tracks.masks_BTKN, vit.integer("patch"));
    check("masked frames", &masked, &tracker.get("masked_KBTCHW"), 0.0);

    spec.sinkhorn = false;
    let maps_TBKN = discover_and_track(&features, &spec).maps_BTKN.transpose(0, 1);
    check("maps without Sinkhorn", &maps_TBKN, &tracker.get("maps_no_sk_TBKN"), FORWARD);
}

fn golden_features(vit: &Golden, tracker: &Golden) -> ClipFeatures {
    let heads = Tensor::from_slice(&integers(&tracker.meta["head_ids"])).to_device(device());
    let frames = vit.get("frames_BTCHW").size()[1];
    let patches = vit.get("tokens_0").size()[1] - 1;
    let joined = |name: &str| vit.get(name).transpose(1, 2).flatten(2, 3).narrow(1, 1, patches);
    let keys: Vec<Tensor> = (0..frames).map(|t| joined(&format!("k_{t}"))).collect();
    ClipFeatures {
        cls_attn_BKN: vit.get("attn_0").index_select(1, &heads).select(2, 0).narrow(2, 1, patches),
        queries_BND: joined("q_0"),
        keys_BTND: Tensor::stack(&keys, 1),
        tokens_BND: vit.get("tokens_0").narrow(1, 1, patches),
    }
}

/// Student and teacher with the golden weights, and their logits for the golden clip.
struct Clip {
    student: Network,
    teacher_VBTD: Tensor,
    global_VBTKD: Tensor,
    local_BTLD: Tensor,
}

impl Clip {
    fn new(vit: &Golden, head: &Golden, views: &[(Tensor, Tensor)], n_local: i64) -> Self {
        let config = network_config(vit, head);
        let weights = network_weights(vit, head);
        let student = Network::new(&config, &weights, device(), Kind::Float, true).unwrap();
        let project = |cls_ND: Tensor| student.head.forward(&cls_ND, 1.0);
        let whole = |(frames_BTCHW, _): &(Tensor, Tensor)| {
            let images = frames_BTCHW.flatten(0, 1);
            let logits = project(student.backbone.cls(&images, None)).detach();
            logits.reshape([frames_BTCHW.size()[0], frames_BTCHW.size()[1], -1])
        };
        let masked = |(frames_BTCHW, masks_BTKN): &(Tensor, Tensor)| {
            let (images, masks) = (frames_BTCHW.flatten(0, 1), masks_BTKN.flatten(0, 1));
            let logits = project(student.backbone.cls_masked(&images, &masks, None));
            let size = masks_BTKN.size();
            logits.reshape([size[0], size[1], size[2], -1])
        };
        let local_LBTCHW = vit.get("local_LBTCHW").narrow(0, 0, n_local);
        let size = local_LBTCHW.size();
        let crops = local_LBTCHW.permute([1, 2, 0, 3, 4, 5]).flatten(0, 2);
        let local_BTLD =
            project(student.backbone.cls(&crops, None)).reshape([size[1], size[2], size[0], -1]);
        let stack = |parts: Vec<Tensor>| Tensor::stack(&parts, 0);
        let teacher_VBTD = stack(views.iter().map(whole).collect());
        let global_VBTKD = stack(views.iter().map(masked).collect());
        Self { student, teacher_VBTD, global_VBTKD, local_BTLD }
    }

    fn loss(&self, probs_VBTD: &Tensor, student_temp: f64, reduction: Reduction) -> Loss {
        let [global, local] =
            [&self.global_VBTKD, &self.local_BTLD].map(|logits| logits / student_temp);
        cross_entropy_loss(probs_VBTD, &global, &local, reduction)
    }

    fn check_gradients(&self, golden: &Golden, prefix: &str) {
        let mut checked = 0;
        for (name, param) in self.student.state().iter() {
            if let Ok(expected) = golden.tensors.get(&format!("{prefix}.{name}")) {
                check(name, &param.grad(), &expected, GRADIENT);
                checked += 1;
            }
        }
        assert!(checked > 0, "no gradient of {prefix} was compared");
    }
}

fn golden_view(vit: &Golden, tracker: &Golden) -> (Tensor, Tensor) {
    let masks_BTKN = tracker.get("masks_TBKHW").transpose(0, 1).flatten(3, 4);
    (vit.get("frames_BTCHW"), masks_BTKN)
}

#[test]
fn one_view_losses_and_gradients_match() {
    let [vit, head, tracker, golden] = ["vit", "head", "tracker", "loss"].map(Golden::read);
    for (name, reduction) in [("released", Reduction::Released), ("mean", Reduction::Mean)] {
        let views = [golden_view(&vit, &tracker)];
        let clip = Clip::new(&vit, &head, &views, golden.integer("n_local"));
        let teacher_TBD = clip.teacher_VBTD.squeeze_dim(0).transpose(0, 1);
        check("teacher logits", &teacher_TBD, &golden.get("teacher_TBD"), FORWARD);
        let masked_KTBD = clip.global_VBTKD.squeeze_dim(0).permute([2, 1, 0, 3]);
        check("masked logits", &masked_KTBD, &golden.get("masked_KTBD"), FORWARD);
        let local_TMD = clip.local_BTLD.permute([1, 2, 0, 3]).flatten(1, 2);
        check("local logits", &local_TMD, &golden.get("local_TMD"), FORWARD);

        let center = golden.get("center");
        let probs = teacher_probs(&clip.teacher_VBTD, &center, golden.number("teacher_temp"));
        let loss = clip.loss(&probs, golden.number("student_temp"), reduction);
        let expected = Tensor::from(golden.meta["losses"][name].as_f64().unwrap());
        check(name, &loss.total, &expected, FORWARD);
        loss.total.backward();
        clip.check_gradients(&golden, &format!("grad.{name}"));
        check_center(&center, &clip.teacher_VBTD, &golden.get("new_center"));
    }
}

#[test]
fn two_view_loss_and_gradients_match() {
    let [vit, head, tracker, golden] = ["vit", "head", "tracker", "two_views"].map(Golden::read);
    let frames_BTCHW = golden.get("frames_b_BTCHW");
    let masked_KBTCHW = golden.get("masked_b_KBTCHW");
    let grid = tracker.get("masks_TBKHW").size();
    let patch = vit.integer("patch");
    // The file holds the masked frames; a patch belongs to the mask where they are not all zero.
    let masks_BTKN = masked_KBTCHW
        .unfold(4, patch, patch)
        .unfold(5, patch, patch)
        .not_equal(0.0)
        .any_dims([3, 6, 7].as_slice(), false)
        .to_kind(Kind::Float)
        .permute([1, 2, 0, 3, 4])
        .flatten(3, 4);
    assert_eq!(masks_BTKN.size()[3], grid[3] * grid[4]);
    let masked = mask_frames(&frames_BTCHW, &masks_BTKN, patch);
    check("masks of the second view", &masked, &masked_KBTCHW, 0.0);

    let views = [golden_view(&vit, &tracker), (frames_BTCHW, masks_BTKN)];
    let clip = Clip::new(&vit, &head, &views, golden.integer("n_local"));
    let teacher_VTBD = clip.teacher_VBTD.transpose(1, 2);
    check("teacher logits", &teacher_VTBD, &golden.get("teacher_VTBD"), FORWARD);
    let masked_VKTBD = clip.global_VBTKD.permute([0, 3, 2, 1, 4]);
    check("masked logits", &masked_VKTBD, &golden.get("masked_VKTBD"), FORWARD);

    let center = golden.get("center");
    let probs = teacher_probs(&clip.teacher_VBTD, &center, golden.number("teacher_temp"));
    let temp = Golden::read("loss").number("student_temp");
    let loss = clip.loss(&probs, temp, Reduction::Mean);
    let expected = |name: &str| Tensor::from(golden.number(name));
    check("loss", &loss.total, &expected("loss"), FORWARD);
    check("objects' part", &loss.global, &expected("loss_objects"), FORWARD);
    check("local part", &loss.local, &expected("loss_local"), FORWARD);
    loss.total.backward();
    clip.check_gradients(&golden, "grad");
    check_center(&center, &clip.teacher_VBTD, &golden.get("new_center"));
}

fn check_center(center: &Tensor, teacher_VBTD: &Tensor, expected: &Tensor) {
    let batch = teacher_VBTD.flatten(0, 2).mean_dim([0].as_slice(), true, None::<Kind>);
    check("centre", &next_center(center, &batch, 0.9), expected, FORWARD);
}

#[test]
fn schedules_match() {
    let golden = Golden::read("schedule");
    for name in ["lr", "wd"] {
        let numbers: Vec<f64> =
            golden.meta[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let [base, end, total, warmup] = numbers[..] else { panic!("four scalars of {name}") };
        let (total_steps, warmup_steps) = (total as u64, warmup as u64);
        let cosine = Cosine { base, end, start: 0.0, warmup_steps, total_steps };
        let values: Vec<f64> = (0..total_steps).map(|step| cosine.at(step)).collect();
        check(name, &Tensor::from_slice(&values), &golden.get(name), 1e-12);
    }
}
