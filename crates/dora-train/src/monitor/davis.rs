//! `monitor.davis`: video object segmentation by label propagation.

use dora_eval::{
    encoder::Encoder,
    video_segmentation::{
        dataset::{Dataset, DatasetArgs, Sequence},
        follow,
        metrics::{ObjectScores, score_frame},
        report::Report,
    },
};

use super::{Protocol, Watch};
use crate::recipe::Recipe;

/// The figures that are kept, by davis2017-evaluation's names.
const FIGURES: [&str; 3] = ["J&F-Mean", "J-Mean", "F-Mean"];

/// The sequences and how objects are followed through them.
#[derive(Debug)]
pub(super) struct Davis {
    dataset: Dataset,
    protocol: follow::Protocol,
}

impl Davis {
    /// Lists the sequences, and checks them.
    pub(super) fn open(recipe: &Recipe) -> anyhow::Result<Self> {
        let dataset = Dataset::open(&DatasetArgs::of(&recipe.monitor.davis))?;
        let short_side_px = recipe.monitor.davis_short_side_px;
        let protocol = follow::Protocol { short_side_px, ..follow::Protocol::default() };
        for sequence in &dataset.sequences {
            protocol.scaled_size(sequence, recipe.model.patch_px)?;
        }
        Ok(Self { dataset, protocol })
    }

    /// Scores of a sequence's objects; `None` if `goes_on` said to stop.
    fn score(
        &self,
        encoder: &Encoder,
        sequence: &Sequence,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Option<Vec<ObjectScores>>> {
        let mut scores = vec![ObjectScores::default(); sequence.objects];
        let (mut is_whole, mut failed) = (true, None);
        self.protocol.follow(encoder, sequence, |frame| {
            // The first and the last frame do not count.
            if (1..sequence.frames.len() - 1).contains(&frame.index) {
                match sequence.annotation(&sequence.frames[frame.index]) {
                    Ok(annotation) => {
                        let (found, width) = (&frame.mask.labels, annotation.width);
                        let of_frame =
                            score_frame(&annotation.labels, found, width, sequence.objects);
                        for (object, (j, f)) in scores.iter_mut().zip(of_frame) {
                            object.j.push(j);
                            object.f.push(f);
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            is_whole = goes_on();
            is_whole && failed.is_none()
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(is_whole.then_some(scores)),
        }
    }
}

impl Protocol for Davis {
    fn name(&self) -> &'static str {
        "davis"
    }

    fn judge(
        &self,
        encoder: &Encoder,
        watch: Watch<'_>,
    ) -> anyhow::Result<Option<Vec<(&'static str, f64)>>> {
        let (total, mut done) = (self.dataset.frame_count() as u64, 0);
        let mut goes_on = || {
            done += 1;
            watch(done, total)
        };
        let mut scores = Vec::new();
        for sequence in &self.dataset.sequences {
            match self.score(encoder, sequence, &mut goes_on)? {
                Some(of_sequence) => scores.push(of_sequence),
                None => return Ok(None),
            }
        }
        let figures = Report::new(&encoder.name, &self.dataset, scores, None).figures();
        let named =
            FIGURES.into_iter().filter_map(|name| Some((name, figures.get(name)?.as_f64()?)));
        Ok(Some(named.collect()))
    }
}
