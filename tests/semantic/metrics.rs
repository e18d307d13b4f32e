use dora_eval::{images::masks::VOID, semantic::metrics::Confusion};
use proptest::prelude::*;

const CLASSES: u8 = 5;

/// Predicted and annotated labels of a few images.
fn images() -> impl Strategy<Value = Vec<Vec<(u8, u8)>>> {
    let annotated = prop_oneof![4 => 0..CLASSES, 1 => Just(VOID)];
    let image = prop::collection::vec((0..CLASSES, annotated), 1..60);
    prop::collection::vec(image, 1..6)
}

fn count<'a>(images: impl IntoIterator<Item = &'a Vec<(u8, u8)>>) -> Confusion {
    let mut confusion = Confusion::new(CLASSES.into());
    for image in images {
        let (predicted, annotated): (Vec<u8>, Vec<u8>) = image.iter().copied().unzip();
        let mut one = Confusion::new(CLASSES.into());
        one.add(&predicted, &annotated);
        confusion.merge(&one);
    }
    confusion
}

proptest! {
    #[test]
    fn the_order_of_images_does_not_matter(images in images()) {
        prop_assert_eq!(count(&images), count(images.iter().rev()));
    }

    #[test]
    fn void_never_counts(mut images in images()) {
        let before = count(&images);
        for (predicted, annotated) in images.iter_mut().flatten() {
            if *annotated == VOID {
                *predicted = (*predicted + 1) % CLASSES;
            }
        }
        prop_assert_eq!(&count(&images), &before);
        images.iter_mut().for_each(|image| image.retain(|(_, annotated)| *annotated != VOID));
        prop_assert_eq!(&count(&images), &before);
    }

    #[test]
    fn a_perfect_prediction_scores_1(images in images()) {
        let labelled = |image: &Vec<(u8, u8)>| -> Vec<(u8, u8)> {
            let labels = image.iter().map(|(_, annotated)| *annotated).filter(|a| *a != VOID);
            labels.map(|annotated| (annotated, annotated)).collect()
        };
        let perfect: Vec<_> = images.iter().map(labelled).collect();
        prop_assume!(perfect.iter().any(|image| !image.is_empty()));
        let scores = count(&perfect).scores();
        prop_assert_eq!((scores.miou, scores.aacc, scores.macc), (1.0, 1.0, 1.0));
    }

    #[test]
    fn figures_are_shares(images in images()) {
        let scores = count(&images).scores();
        for share in [scores.miou, scores.aacc, scores.macc] {
            prop_assert!((0.0..=1.0).contains(&share));
        }
    }
}

#[test]
fn what_is_nowhere_has_no_figure_and_what_is_only_predicted_has_iou_0() {
    let mut confusion = Confusion::new(4);
    // Class 2 is only predicted, class 3 is nowhere.
    confusion.add(&[0, 0, 1, 2], &[0, 0, 1, 1]);
    let scores = confusion.scores();
    let ious: Vec<_> = scores.per_class.iter().map(|class| class.iou).collect();
    let accs: Vec<_> = scores.per_class.iter().map(|class| class.acc).collect();
    assert_eq!(ious, [Some(1.0), Some(0.5), Some(0.0), None]);
    assert_eq!(accs, [Some(1.0), Some(0.5), None, None]);
    assert_eq!((scores.miou, scores.aacc, scores.macc), (0.5, 0.75, 0.75));
    assert_eq!(confusion.rows().nth(1).unwrap(), [0, 1, 1, 0]);
}
