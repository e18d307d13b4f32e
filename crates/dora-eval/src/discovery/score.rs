//! Figures over a data set: CorLoc of boxes, Jaccard index of attention masks.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PxBox, data::Object};

/// What a box must share with an object to have found it.
const LEAST_IOU: f64 = 0.5;

/// Sums over the images seen so far.
#[derive(Debug)]
pub struct Tally {
    images: u64,
    found: u64,
    masked_images: u64,
    jaccard: f64,
    per_head: Vec<f64>,
    labels: u64,
    classes: BTreeMap<String, ClassTally>,
}

#[derive(Debug, Default)]
struct ClassTally {
    images: u64,
    found: u64,
    masks: u64,
    jaccard: f64,
}

/// The figures, as shares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Images.
    pub images: u64,
    /// Share of the images whose box has an IoU of at least 0.5 with an object.
    #[serde(rename = "CorLoc")]
    pub corloc: f64,
    /// Images with masks.
    pub masked_images: u64,
    /// Mean over images of the mean over their labels of the best head's Jaccard index.
    #[serde(rename = "Jaccard", skip_serializing_if = "Option::is_none")]
    pub jaccard: Option<f64>,
    /// Mean over all labels of each head's Jaccard index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_head: Vec<f64>,
    /// The same for images with objects of a class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub per_class: BTreeMap<String, ClassScores>,
}

/// The figures of a class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScores {
    /// Images that show it.
    pub images: u64,
    /// Share of those whose box has found an object of this class.
    #[serde(rename = "CorLoc", skip_serializing_if = "Option::is_none")]
    pub corloc: Option<f64>,
    /// Mean over its masks of the best head's Jaccard index.
    #[serde(rename = "Jaccard", skip_serializing_if = "Option::is_none")]
    pub jaccard: Option<f64>,
}

impl Tally {
    /// No image yet, of an encoder with so many heads.
    pub fn new(heads: usize) -> Self {
        Self {
            images: 0,
            found: 0,
            masked_images: 0,
            jaccard: 0.0,
            per_head: vec![0.0; heads],
            labels: 0,
            classes: BTreeMap::new(),
        }
    }

    /// Counts the box that was found in an image. Returns whether it has found an object.
    pub fn add_box(&mut self, bounds: &PxBox, objects: &[Object]) -> bool {
        let has_found = |object: &Object| bounds.iou(&object.bounds) >= LEAST_IOU;
        // A class counts once for each image.
        let mut classes: BTreeMap<&str, bool> = BTreeMap::new();
        for object in objects {
            if let Some(class) = &object.class {
                *classes.entry(class).or_default() |= has_found(object);
            }
        }
        for (class, is_found) in classes {
            let class = self.class(class);
            class.images += 1;
            class.found += u64::from(is_found);
        }
        let is_found = objects.iter().any(has_found);
        self.images += 1;
        self.found += u64::from(is_found);
        is_found
    }

    /// Counts the heads' masks of an image: for each head, the Jaccard index with each label, in the
    /// same order. `class_of` names the class of a label, where it has one.
    pub fn add_masks<'a>(
        &mut self,
        jaccard_HL: &[Vec<(u8, f64)>],
        class_of: impl Fn(u8) -> Option<&'a str>,
    ) {
        let labels = jaccard_HL.first().map_or(0, Vec::len);
        if labels == 0 {
            return;
        }
        let mut sum = 0.0;
        for index in 0..labels {
            let label = jaccard_HL[0][index].0;
            let best = jaccard_HL.iter().map(|head| head[index].1).fold(0.0, f64::max);
            sum += best;
            if let Some(class) = class_of(label) {
                let class = self.class(class);
                class.masks += 1;
                class.jaccard += best;
            }
        }
        for (total, head) in self.per_head.iter_mut().zip(jaccard_HL) {
            *total += head.iter().map(|(_, jaccard)| jaccard).sum::<f64>();
        }
        self.masked_images += 1;
        self.jaccard += sum / labels as f64;
        self.labels += labels as u64;
    }

    /// The figures so far.
    pub fn scores(&self) -> Scores {
        let share = |sum: f64, of: u64| (of > 0).then(|| sum / of as f64);
        let class = |(name, class): (&String, &ClassTally)| {
            let scores = ClassScores {
                images: class.images,
                corloc: share(class.found as f64, class.images),
                jaccard: share(class.jaccard, class.masks),
            };
            (name.clone(), scores)
        };
        Scores {
            images: self.images,
            corloc: share(self.found as f64, self.images).unwrap_or(0.0),
            masked_images: self.masked_images,
            jaccard: share(self.jaccard, self.masked_images),
            per_head: self.per_head.iter().filter_map(|sum| share(*sum, self.labels)).collect(),
            per_class: self.classes.iter().map(class).collect(),
        }
    }

    fn class(&mut self, name: &str) -> &mut ClassTally {
        self.classes.entry(name.to_owned()).or_default()
    }
}
