//! Ranks killed at random moments, saves included: what is left always goes on, and ends as if
//! nothing had happened.

use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::workbench::{Ranks, Workbench};

const KILLS: usize = 20;
/// A save after every step, so that many kills meet one.
const OFTEN: &[&str] = &["output.checkpoint_every=1 steps"];

#[test]
fn runs_asked_to_end_at_random_moments_end_as_if_never_asked() {
    let (bench, whole, mut rng) = whole_run();
    let mut asked = 0;
    loop {
        let mut ranks = bench.start_ranks("asked", 2, OFTEN, impatient);
        // From before the ranks have met to within the last save.
        sleep(whole.mul_f64(rng.random_range(0.0..0.4)));
        if asked == 8 || ranks.children[0].try_wait().unwrap().is_some() {
            let ends = ranks.wait(120);
            assert!(ends.iter().all(|(status, _)| *status == 0), "{ends:?}");
            break;
        }
        asked += 1;
        for rank in 0..2 {
            ranks.signal(rank, "-TERM");
        }
        for (status, words) in ranks.wait(60) {
            assert!(is_good_end(status, &words, 143), "{status}: {words}");
            assert!(!words.contains("panicked"), "{words}");
        }
    }
    println!("{asked} times asked");
    bench.assert_same_end("whole", "asked");
}

#[test]
fn ranks_killed_at_random_moments_end_as_if_never_killed() {
    let (bench, whole, mut rng) = whole_run();

    let (mut kills, mut in_saves, mut runs) = (0, 0, 0);
    while kills < KILLS {
        runs += 1;
        let run = format!("killed-{runs}");
        loop {
            let mut ranks = bench.start_ranks(&run, 2, OFTEN, impatient);
            sleep(whole.mul_f64(rng.random_range(0.0..0.8)));
            let is_running =
                |rank: usize, ranks: &mut Ranks| ranks.children[rank].try_wait().unwrap().is_none();
            if kills == KILLS || !(is_running(0, &mut ranks) && is_running(1, &mut ranks)) {
                let ends = ranks.wait(120);
                assert!(ends.iter().all(|(status, _)| *status == 0), "{run}: {ends:?}");
                break;
            }
            let victims: &[usize] = [&[0][..], &[1], &[0, 1]][rng.random_range(0..3)];
            victims.iter().for_each(|rank| ranks.signal(*rank, "-KILL"));
            kills += 1;
            in_saves += usize::from(bench.is_saving(&run));
            for (rank, (status, words)) in ranks.wait(60).into_iter().enumerate() {
                assert_eq!(status == 137, victims.contains(&rank), "{run}, rank {rank}: {words}");
                assert!(is_good_end(status, &words, 137), "{run}, rank {rank}, {status}: {words}");
                assert!(!words.contains("panicked"), "{run}, rank {rank}: {words}");
            }
        }
        bench.assert_same_end("whole", &run);
    }
    println!("{kills} kills in {runs} runs, {in_saves} of them in a save");
}

/// A rank whose peer was killed before they met would wait for ten minutes.
fn impatient(_: usize, command: &mut Command) {
    command.args(["--timeout-s", "20"]);
}

/// Whether a rank ended as it was told to, or because it lost or never met the other.
fn is_good_end(status: i32, words: &str, told: i32) -> bool {
    match status {
        0 => true,
        1 => words.contains("a rank is gone"),
        2 => words.contains("did not meet") || words.contains("did not reach"),
        other => other == told,
    }
}

/// A workbench with a run that nothing disturbs, how long that took, and random numbers whose seed is
/// told.
fn whole_run() -> (Workbench, Duration, ChaCha8Rng) {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let bench = Workbench::new();
    let began = Instant::now();
    let ends = bench.start_ranks("whole", 2, OFTEN, |_, _| ()).wait(120);
    assert!(ends.iter().all(|(status, _)| *status == 0), "{ends:?}");
    (bench, began.elapsed(), ChaCha8Rng::seed_from_u64(seed))
}
