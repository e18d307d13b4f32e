//! Label propagation through a video.

use dora_eval::video_segmentation::propagation::{LabelledPatches, Propagation, unit_features};
use tch::{Tensor, no_grad};

use super::{FORWARD, Golden, check};

type Form = fn(&Propagation, &[&LabelledPatches], &Tensor, (i64, i64)) -> Tensor;

#[test]
fn propagated_labels_match() {
    let golden = Golden::read("propagation");
    let (features_TND, segs_TCHW) = (golden.get("features_TND"), golden.get("segs_TCHW"));
    let propagation = Propagation {
        window: golden.integer("window"),
        topk: golden.integer("topk") as usize,
        temperature: golden.number("temperature"),
    };
    let last_frames = golden.integer("last_frames") as usize;
    let (frames, classes, rows, columns) = segs_TCHW.size4().unwrap();
    let forms: [(&str, Form); 3] = [
        ("windowed", Propagation::propagate),
        ("windowed as tensors", Propagation::propagate_on_device),
        ("dense", Propagation::propagate_densely),
    ];
    for (name, form) in forms {
        let patches =
            |features_PD: Tensor, labels_PC: Tensor| LabelledPatches { features_PD, labels_PC };
        let features = |t: i64| unit_features(&features_TND.get(t));
        let first = segs_TCHW.get(0).flatten(1, 2).transpose(0, 1).contiguous();
        let mut seen = vec![patches(features(0), first)];
        for t in 1..frames {
            let last = seen.len().saturating_sub(last_frames).max(1);
            let sources: Vec<&LabelledPatches> = seen[..1].iter().chain(&seen[last..]).collect();
            let labels_PC = no_grad(|| form(&propagation, &sources, &features(t), (rows, columns)));
            let labels_CHW = labels_PC.transpose(0, 1).reshape([classes, rows, columns]);
            check(&format!("{name}, frame {t}"), &labels_CHW, &segs_TCHW.get(t), FORWARD);
            seen.push(patches(features(t), labels_PC));
        }
    }
}
