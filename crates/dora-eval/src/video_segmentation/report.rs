//! Figures of video object segmentation, as a table and under the names of davis2017-evaluation.

use serde_json::{Map, Value, json};

use super::{
    dataset::Dataset,
    metrics::{ObjectScores, Statistics},
};
use crate::encoder::rate::matrix_rate;

/// How fast masks were found.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Frames of all sequences.
    pub frames: usize,
    /// From the first frame to the last mask written.
    pub wall_s: f64,
    /// In the encoder; on the CPU the sum of what cores spend side by side.
    pub encoder_s: f64,
    /// In the comparison of patches.
    pub propagation_s: f64,
    /// The device's rate of matrix products in float32.
    pub matrix_flops_per_s: f64,
}

/// Scores of a data set.
#[derive(Debug)]
pub struct Report {
    judged: String,
    list: String,
    sequences: Vec<SequenceReport>,
    speed: Option<Speed>,
}

#[derive(Debug)]
struct SequenceReport {
    name: String,
    /// Names of the frames that count.
    frames: Vec<String>,
    objects: Vec<ObjectReport>,
}

#[derive(Debug)]
struct ObjectReport {
    scores: ObjectScores,
    j: Statistics,
    f: Statistics,
}

impl Report {
    /// Sums up the scores of each sequence's objects, in the data set's order; `judged` says whose masks
    /// these are.
    pub fn new(
        judged: &str,
        dataset: &Dataset,
        scores: Vec<Vec<ObjectScores>>,
        speed: Option<Speed>,
    ) -> Self {
        let object = |scores: ObjectScores| {
            let (j, f) = (Statistics::of(&scores.j), Statistics::of(&scores.f));
            ObjectReport { scores, j, f }
        };
        let sequences = dataset.sequences.iter().zip(scores).map(|(sequence, scores)| {
            let frames = sequence.counted().iter().map(|frame| frame.name.clone()).collect();
            let objects = scores.into_iter().map(object).collect();
            SequenceReport { name: sequence.name.clone(), frames, objects }
        });
        let sequences = sequences.collect();
        Self { judged: judged.into(), list: dataset.list.clone(), sequences, speed }
    }

    /// A line for each figure, sequence and object.
    pub fn table(&self) -> Vec<(String, String)> {
        let frames: usize = self.sequences.iter().map(|sequence| sequence.frames.len()).sum();
        let (j, f) = summed_up(self.sequences.iter().flat_map(|sequence| &sequence.objects));
        let mut table = vec![
            ("masks of".to_owned(), self.judged.clone()),
            (
                "data".into(),
                format!("{}, {} sequences, {frames} frames count", self.list, self.sequences.len()),
            ),
            ("J&F".into(), format!("mean {}", percent((j.mean + f.mean) / 2.0))),
            ("J".into(), statistics(&j)),
            ("F".into(), statistics(&f)),
        ];
        for sequence in &self.sequences {
            let (j, f) = summed_up(&sequence.objects);
            table.push((sequence.name.clone(), means(&j, &f)));
            if sequence.objects.len() > 1 {
                for (object, number) in sequence.objects.iter().zip(1..) {
                    table.push((format!("  object {number}"), means(&object.j, &object.f)));
                }
            }
        }
        if let Some(speed) = &self.speed {
            let frame_ms = |seconds: f64| 1e3 * seconds / speed.frames as f64;
            table.push((
                "speed".into(),
                format!(
                    "{:.2} frames/s; encoder {:.1} ms a frame, propagation {:.1} ms",
                    speed.frames as f64 / speed.wall_s,
                    frame_ms(speed.encoder_s),
                    frame_ms(speed.propagation_s)
                ),
            ));
            table.push(("matrix rate".into(), matrix_rate(speed.matrix_flops_per_s)));
        }
        table
    }

    /// The same with the scores of each frame.
    pub fn figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        figures.insert("masks_of".into(), self.judged.clone().into());
        figures.insert("data".into(), self.list.clone().into());
        let (j, f) = summed_up(self.sequences.iter().flat_map(|sequence| &sequence.objects));
        figures.append(&mut named(&j, &f));
        let sequences = self.sequences.iter().map(|sequence| {
            let (j, f) = summed_up(&sequence.objects);
            let mut figures = named(&j, &f);
            figures.insert("frames".into(), sequence.frames.clone().into());
            let objects = sequence.objects.iter().zip(1..).map(|(object, number): (_, usize)| {
                let mut figures = named(&object.j, &object.f);
                figures.insert("J".into(), object.scores.j.clone().into());
                figures.insert("F".into(), object.scores.f.clone().into());
                (number.to_string(), figures.into())
            });
            figures.insert("per_object".into(), objects.collect::<Map<_, _>>().into());
            (sequence.name.clone(), figures.into())
        });
        figures.insert("per_sequence".into(), sequences.collect::<Map<_, _>>().into());
        if let Some(speed) = &self.speed {
            let speed = json!({
                "frames": speed.frames,
                "wall_s": speed.wall_s,
                "frames_per_s": speed.frames as f64 / speed.wall_s,
                "encoder_s": speed.encoder_s,
                "propagation_s": speed.propagation_s,
                "matrix_flops_per_s": speed.matrix_flops_per_s,
            });
            figures.insert("speed".into(), speed);
        }
        figures
    }
}

/// J and F of objects, each of which counts the same.
fn summed_up<'a>(objects: impl IntoIterator<Item = &'a ObjectReport>) -> (Statistics, Statistics) {
    let (j, f): (Vec<Statistics>, Vec<Statistics>) =
        objects.into_iter().map(|object| (object.j, object.f)).unzip();
    (Statistics::mean_of(&j), Statistics::mean_of(&f))
}

fn named(j: &Statistics, f: &Statistics) -> Map<String, Value> {
    let values = [
        ("J&F-Mean", (j.mean + f.mean) / 2.0),
        ("J-Mean", j.mean),
        ("J-Recall", j.recall),
        ("J-Decay", j.decay),
        ("F-Mean", f.mean),
        ("F-Recall", f.recall),
        ("F-Decay", f.decay),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn means(j: &Statistics, f: &Statistics) -> String {
    let both = (j.mean + f.mean) / 2.0;
    format!("J&F {}  J {}  F {}", percent(both), percent(j.mean), percent(f.mean))
}

fn statistics(values: &Statistics) -> String {
    let Statistics { mean, recall, decay } = *values;
    format!("mean {}  recall {}  decay {}", percent(mean), percent(recall), percent(decay))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
