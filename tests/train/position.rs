//! Where a run stands when it goes on at another pace.

use dora_train::position::{Pace, Position};
use proptest::prelude::*;

fn pace() -> impl Strategy<Value = Pace> {
    (1..500u64, 1..6u64, 1..64u64).prop_map(|(batches_per_epoch, batches_per_step, clips)| Pace {
        batches_per_epoch,
        batches_per_step,
        clips_per_batch: clips,
    })
}

proptest! {
    #[test]
    fn a_run_at_the_same_pace_goes_on_at_the_same_batch(pace in pace(), batches in 0..5000u64) {
        prop_assert_eq!(pace.batches_to(pace.position(batches)), batches);
    }

    #[test]
    fn another_pace_goes_on_at_the_first_batch_that_repeats_no_clip(
        before in pace(), now in pace(), batches in 0..5000u64,
    ) {
        let order = |position: Position| (position.epoch, position.clips);
        let reached = before.position(batches);
        let resumed = now.batches_to(reached);
        prop_assert!(order(now.position(resumed)) >= order(reached));
        if resumed > 0 {
            prop_assert!(order(now.position(resumed - 1)) < order(reached));
        }
    }
}

#[test]
fn half_the_ranks_take_twice_the_batches() {
    let two = Pace { batches_per_epoch: 10, batches_per_step: 1, clips_per_batch: 4 };
    let one = Pace { batches_per_epoch: 20, batches_per_step: 1, clips_per_batch: 2 };
    let parts = Pace { batches_per_step: 8, ..one };
    let reached = two.position(13);
    assert_eq!(reached, Position { epoch: 1, clips: 12 });
    assert_eq!(one.batches_to(reached), 26);
    assert_eq!(Pace { batches_per_step: 2, ..one }.clips_per_step(), two.clips_per_step());
    assert_eq!([two, one, parts].map(Pace::steps_per_epoch), [10.0, 20.0, 2.5]);
    // Three clips at a time: the batch that holds the twelfth clip of the epoch has been seen.
    let odd = Pace { batches_per_epoch: 13, batches_per_step: 1, clips_per_batch: 3 };
    assert_eq!(odd.batches_to(reached), 13 + 4);
}
