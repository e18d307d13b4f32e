//! DAVIS: sequences of frames, each with a mask that gives the boxes; the toy walk is one, too.

use rayon::prelude::*;

use super::{
    boxes_of,
    data::{DataArgs, DataError, DataSet, Example, MaskFile, Object},
};
use crate::video_segmentation::dataset::{Dataset, DatasetArgs, Frame, Sequence};

/// Reads every so many frames of the sequences of a list, with the labels that they are followed by.
pub(super) fn read(args: &DataArgs) -> Result<DataSet, DataError> {
    let dataset = Dataset::open(&DatasetArgs {
        split: args.set.map(str::to_owned),
        ..DatasetArgs::of(args.root)
    })?;
    let frames: Vec<(&Sequence, &Frame)> = dataset
        .sequences
        .iter()
        .flat_map(|sequence| sequence.frames.iter().step_by(args.every).map(move |f| (sequence, f)))
        .collect();
    let example = |&(sequence, frame): &(&Sequence, &Frame)| {
        let mask = MaskFile { path: frame.annotation.clone(), merge: Some(sequence.merge) };
        let object = |bounds| Object { class: None, is_hard: false, bounds };
        let objects = boxes_of(&mask.read()?).into_iter().map(object).collect();
        let name = format!("{}/{}", sequence.name, frame.name);
        Ok(Example { name, image: frame.image.clone(), objects, mask: Some(mask) })
    };
    Ok(DataSet {
        name: format!("{} {}", args.root.display(), dataset.list),
        examples: frames.par_iter().map(example).collect::<Result<_, DataError>>()?,
        without_objects: 0,
        label_classes: &[],
    })
}
