//! IoU and accuracy from a confusion matrix, as mmsegmentation computes them.

use crate::images::masks::VOID;

/// How often pixels of each class were given each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row by row: annotated class, predicted class.
    counts: Vec<i64>,
}

/// Figures of a whole data set, shares of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean IoU of the classes that have one.
    pub miou: f64,
    /// Share of annotated pixels that got their class.
    pub aacc: f64,
    /// Mean accuracy of the classes that have one.
    pub macc: f64,
    /// Each class by itself.
    pub per_class: Vec<ClassScores>,
}

/// Figures of a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScores {
    /// Intersection over union; `None` for a class that is neither annotated nor predicted anywhere.
    pub iou: Option<f64>,
    /// Share of its pixels that got it; `None` for a class that is annotated nowhere.
    pub acc: Option<f64>,
}

impl Confusion {
    /// No pixel of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts pixels: `predicted` are classes, `annotated` classes or [`VOID`], which does not count.
    ///
    /// # Panics
    /// If the lengths differ, or a label is no class.
    pub fn add(&mut self, predicted: &[u8], annotated: &[u8]) {
        assert_eq!(predicted.len(), annotated.len(), "as many predictions as annotations");
        for (&predicted, &annotated) in predicted.iter().zip(annotated) {
            if annotated != VOID {
                let (row, column) = (usize::from(annotated), usize::from(predicted));
                assert!(row < self.classes && column < self.classes, "a label that is no class");
                self.counts[row * self.classes + column] += 1;
            }
        }
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "the same classes");
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// Rows of annotated classes, columns of predicted ones.
    pub fn rows(&self) -> impl Iterator<Item = &[i64]> {
        self.counts.chunks(self.classes)
    }

    /// The figures; a mean over nothing is 0.
    pub fn scores(&self) -> Scores {
        let row_sum =
            |class: usize| self.counts[class * self.classes..][..self.classes].iter().sum();
        let column_sum =
            |class: usize| self.counts.iter().skip(class).step_by(self.classes).sum::<i64>();
        let share = |part: i64, whole: i64| (whole > 0).then(|| part as f64 / whole as f64);
        let right = |class: usize| self.counts[class * self.classes + class];
        let per_class: Vec<ClassScores> = (0..self.classes)
            .map(|class| {
                let annotated: i64 = row_sum(class);
                let union = annotated + column_sum(class) - right(class);
                ClassScores { iou: share(right(class), union), acc: share(right(class), annotated) }
            })
            .collect();
        let all_right = (0..self.classes).map(right).sum();
        Scores {
            miou: mean(per_class.iter().filter_map(|class| class.iou)),
            aacc: share(all_right, self.counts.iter().sum()).unwrap_or(0.0),
            macc: mean(per_class.iter().filter_map(|class| class.acc)),
            per_class,
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}
