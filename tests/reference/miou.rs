//! Mean IoU and accuracies of semantic segmentation.

use dora_eval::{images::masks::VOID, semantic::metrics::Confusion};
use tch::Tensor;

use super::Golden;

#[test]
fn miou_and_accuracies_are_those_of_the_protocol() {
    let golden = Golden::read("miou");
    let bytes = |name: &str| -> Vec<u8> {
        let tensor: Tensor = golden.get(name).flatten(0, -1);
        Vec::try_from(tensor).unwrap()
    };
    assert_eq!(golden.integer("ignore"), i64::from(VOID));
    let mut confusion = Confusion::new(golden.integer("classes") as usize);
    confusion.add(&bytes("pred"), &bytes("target"));
    let scores = confusion.scores();
    for (key, actual) in [("mIoU", scores.miou), ("aAcc", scores.aacc), ("mAcc", scores.macc)] {
        assert!((actual - golden.number(key)).abs() < 1e-12, "{key}: {actual}");
    }
    for (class, expected) in scores.per_class.iter().zip(golden.meta["iou"].as_array().unwrap()) {
        assert!((class.iou.unwrap() - expected.as_f64().unwrap()).abs() < 1e-12);
    }
}
