//! Several ranks, started by hand with torchrun's variables.

use std::{fs, net::TcpListener, process::Command, time::Instant};

use crate::hosts::Hosts;
use crate::workbench::{Ranks, SmallDisk, Workbench, assert_refused, assert_trained};

/// Long enough to be interrupted.
const LONG: &str = "train.length=500 steps";

#[track_caller]
fn assert_all(ranks: Ranks, status: i32) -> Vec<String> {
    let ends = ranks.wait(120);
    for (rank, (found, words)) in ends.iter().enumerate() {
        assert_eq!(*found, status, "rank {rank}: {words}");
        assert!(!words.contains("panicked"), "rank {rank}: {words}");
    }
    ends.into_iter().map(|(_, words)| words).collect()
}

fn train(bench: &Workbench, run: &str, world_size: usize, set: &[&str]) -> Vec<String> {
    assert_all(bench.start_ranks(run, world_size, set, |_, _| ()), 0)
}

/// A figure of every step, in order.
fn figures(bench: &Workbench, run: &str, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
    let figure =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_f64();
    text.lines().map(|line| figure(line).unwrap()).collect()
}

#[test]
fn two_ranks_train_and_only_the_first_speaks() {
    let bench = Workbench::new();
    let words = train(&bench, "run", 2, &[]);
    assert!(words[0].contains("checkpoints/step-10"), "{}", words[0]);
    assert_eq!(words[1], "");
    assert_eq!(figures(&bench, "run", "step").len(), 10);
    // Both have 2 clips a step.
    let alone = bench.train("alone", &["train.clips=4"]);
    assert_trained(&alone);
    assert_eq!(figures(&bench, "run", "lr"), figures(&bench, "alone", "lr"));
    assert_eq!(figures(&bench, "run", "epoch"), figures(&bench, "alone", "epoch"));
    let words = train(&bench, "run", 2, &[]);
    assert!(words[0].contains("this run is finished"), "{}", words[0]);
}

/// Variables by which rank 0 and the others meet as torchrun's ranks do.
const TORCHRUN: [&str; 6] =
    ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];

#[test]
fn tasks_of_slurm_train_together_and_a_batch_script_alone() {
    let bench = Workbench::new();
    train(&bench, "torchrun", 2, &[]);
    let as_tasks = |run: &str, by: &[&str; 4], more: &[(&str, &str)]| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ranks = bench.start_ranks(run, 2, &[], |rank, command| {
            for name in TORCHRUN {
                command.env_remove(name);
            }
            command.envs(by.iter().zip([
                rank.to_string(),
                "2".into(),
                rank.to_string(),
                "2".into(),
            ]));
            command.env("MASTER_PORT", port.to_string()).envs(more.iter().copied());
        });
        (assert_all(ranks, 0), port)
    };
    let slurm =
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"];
    let more = [("SLURM_NODEID", "0"), ("SLURM_STEP_NODELIST", "node[1-9]"), ("SLURM_NTASKS", "8")];
    let (words, port) = as_tasks("slurm", &slurm, &more);
    let line = format!("2 ranks by the variables of SLURM; rank 0 at 127.0.0.1:{port}\n");
    assert!(words[0].contains(&line), "{}", words[0]);
    assert_eq!(words[1], "");
    bench.assert_same_end("torchrun", "slurm");
    let open_mpi = ["RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"];
    let open_mpi = open_mpi.map(|name| format!("OMPI_COMM_WORLD_{name}"));
    let (words, _) = as_tasks(
        "mpi",
        &open_mpi.each_ref().map(String::as_str),
        &[("MASTER_ADDR", " tcp://[::1] ")],
    );
    assert!(words[0].contains("by the variables of Open MPI; rank 0 at [::1]:"), "{}", words[0]);
    bench.assert_same_end("torchrun", "mpi");

    let mut in_script = bench.command("script", &[]);
    in_script.envs([("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]);
    assert_trained(&in_script.output().unwrap());
    assert_trained(&bench.train("alone", &[]));
    bench.assert_same_end("alone", "script");
}

#[test]
fn compressed_gradients_change_the_run_a_little_and_alike_on_all_ranks() {
    let bench = Workbench::new();
    train(&bench, "plain", 2, &[]);
    let compressed = ["train.gradient_compression=bfloat16", "output.checkpoint_every=2 steps"];
    train(&bench, "compressed", 2, &compressed);
    let loss = |run: &str| figures(&bench, run, "loss");
    let (plain, found) = (loss("plain"), loss("compressed"));
    let differences: Vec<f64> = plain.iter().zip(&found).map(|(a, b)| (a - b).abs()).collect();
    // The first step begins at the same weights; bfloat16 has three decimal digits.
    assert_eq!(differences[0], 0.0);
    assert!(differences.iter().all(|difference| *difference < 0.02), "{differences:?}");
    assert!(differences[9] > 0.0, "{differences:?}");
    let mut ranks = bench.start_ranks("killed", 2, &compressed, |_, _| ());
    ranks.wait_for(&bench.path("killed/checkpoints/step-2"));
    (0..2).for_each(|rank| ranks.signal(rank, "-KILL"));
    ranks.wait(60);
    train(&bench, "killed", 2, &compressed);
    bench.assert_same_end("compressed", "killed");
    // There is nobody to send gradients to.
    assert_trained(&bench.train("alone", &[]));
    assert_trained(&bench.train("alone-compressed", &compressed[..1]));
    bench.assert_same_end("alone", "alone-compressed");
}

#[test]
fn one_process_may_be_a_world() {
    let bench = Workbench::new();
    assert_trained(&bench.train("alone", &[]));
    train(&bench, "world", 1, &[]);
    bench.assert_same_end("alone", "world");
}

#[test]
fn ranks_that_compute_blocks_again_train_the_same() {
    let bench = Workbench::new();
    train(&bench, "plain", 2, &[]);
    train(&bench, "again", 2, &["train.checkpoint_blocks=12"]);
    bench.assert_same_end("plain", "again");
}

#[test]
fn a_lost_rank_ends_the_others_and_the_run_goes_on_bit_for_bit() {
    let bench = Workbench::new();
    train(&bench, "whole", 2, &[]);
    for lost in [0, 1] {
        let run = format!("lost-{lost}");
        let mut ranks = bench.start_ranks(&run, 2, &[], |_, _| ());
        ranks.wait_for(&bench.path(&run).join("tracks/step-1.png"));
        ranks.signal(lost, "-KILL");
        let began = Instant::now();
        let ends = ranks.wait(60);
        assert!(began.elapsed().as_secs() < 20, "the other rank took {:?}", began.elapsed());
        assert_eq!(ends[lost].0, 137);
        let (status, words) = &ends[1 - lost];
        assert_eq!(*status, 1, "{words}");
        assert!(words.contains("a rank is gone"), "{words}");
        assert!(!words.contains("panicked"), "{words}");
        train(&bench, &run, 2, &[]);
        bench.assert_same_end("whole", &run);
    }
}

#[test]
fn three_ranks_in_parts_and_float16_go_on_bit_for_bit() {
    let bench = Workbench::new();
    let set = [
        "train.clips=1",
        "train.gradient_accumulation_steps=2",
        "train.precision=float16",
        "model.drop_path=0.2",
        "output.checkpoint_every=2 steps",
    ];
    train(&bench, "whole", 3, &set);
    let scales = figures(&bench, "whole", "loss_scale");
    let mut ranks = bench.start_ranks("killed", 3, &set, |_, _| ());
    ranks.wait_for(&bench.path("killed/checkpoints/step-2"));
    (0..3).for_each(|rank| ranks.signal(rank, "-KILL"));
    ranks.wait(60);
    train(&bench, "killed", 3, &set);
    bench.assert_same_end("whole", "killed");
    assert_eq!(figures(&bench, "killed", "loss_scale"), scales);
}

#[test]
fn a_length_in_steps_stays_with_another_number_of_ranks() {
    let bench = Workbench::new();
    let mut ranks = bench.start_ranks("run", 2, &["output.checkpoint_every=2 steps"], |_, _| ());
    ranks.wait_for(&bench.path("run/checkpoints/step-6"));
    (0..2).for_each(|rank| ranks.signal(rank, "-KILL"));
    ranks.wait(60);
    let words = train(&bench, "run", 1, &["output.checkpoint_every=2 steps"]);
    assert!(words[0].contains("trained 10 steps"), "{}", words[0]);
    assert_eq!(figures(&bench, "run", "step").len(), 10);
}

#[test]
fn a_signal_to_one_rank_saves_and_ends_all() {
    let bench = Workbench::new();
    for (rank, signal, status) in [(0, "-INT", 130), (1, "-TERM", 143), (1, "-USR1", 0)] {
        let run = format!("asked{signal}");
        let mut ranks = bench.start_ranks(&run, 2, &[LONG], |_, _| ());
        ranks.wait_for(&bench.path(&run).join("tracks/step-1.png"));
        ranks.signal(rank, signal);
        let words = assert_all(ranks, status);
        assert!(words[0].contains("the same command goes on"), "{}", words[0]);
        assert_eq!(bench.checkpoints(&run).len(), 1);
    }
}

#[test]
fn another_number_of_ranks_goes_on_with_the_next_clips() {
    let bench = Workbench::new();
    let stop_after_two = |run: &str| {
        let every = ["output.checkpoint_every=2 steps", LONG];
        let mut ranks = bench.start_ranks(run, 2, &every, |_, _| ());
        ranks.wait_for(&bench.path(run).join("checkpoints/step-2"));
        ranks.signal(0, "-TERM");
        assert_all(ranks, 143);
        figures(&bench, run, "step").len()
    };
    // The same clips a step: the same schedule, whether one process has them at once or in two parts.
    for (run, set) in
        [("at-once", "train.clips=4"), ("in-parts", "train.gradient_accumulation_steps=2")]
    {
        let taken = stop_after_two(run);
        let length = format!("train.length={} steps", taken + 3);
        // Another length is another recipe.
        assert_refused(&bench.train(run, &[set, &length]), &["`train.length`"]);
        let mut alone = bench.start_ranks(run, 1, &[set, LONG], |_, _| ());
        alone.wait_for(&bench.path(run).join(format!("checkpoints/step-{}", (taken / 5 + 1) * 5)));
        alone.signal(0, "-TERM");
        let words = assert_all(alone, 143);
        assert!(words[0].contains("with 2 process(es) and goes on with 1"), "{}", words[0]);
        let epochs = figures(&bench, run, "epoch");
        let stride = epochs[1] - epochs[0];
        for pair in epochs.windows(2) {
            assert!((pair[1] - pair[0] - stride).abs() < 1e-9, "{epochs:?}");
        }
    }
    // Half the clips a step: twice the steps for what is left of the epochs.
    let taken = stop_after_two("half");
    let mut alone = bench.start_ranks("half", 1, &[LONG], |_, _| ());
    alone.wait_for(&bench.path("half").join(format!("checkpoints/step-{}", (taken / 5 + 1) * 5)));
    alone.signal(0, "-TERM");
    assert_all(alone, 143);
    let epochs = figures(&bench, "half", "epoch");
    let stride = epochs[1] - epochs[0];
    for (index, pair) in epochs.windows(2).enumerate() {
        let expected = if index + 1 < taken { stride } else { stride / 2.0 };
        assert!((pair[1] - pair[0] - expected).abs() < 1e-9, "{index}, {taken}: {epochs:?}");
    }
}

#[test]
fn a_rank_without_data_ends_the_run_with_its_steps_saved() {
    let bench = Workbench::new();
    let status = Command::new("cp")
        .arg("-r")
        .args([bench.path("walk.store"), bench.path("own.store")])
        .status();
    assert!(status.unwrap().success());
    bench.damage("own.store");
    let set = [LONG, "output.checkpoint_every=1000 steps"];
    let ranks = bench.start_ranks("run", 2, &set, |rank, command| {
        if rank == 1 {
            *command = bench.with_store(command, "own.store");
        }
    });
    let words = assert_all(ranks, 2);
    assert!(
        words[0].contains("rank 1 ended the run") && words[0].contains("saved in"),
        "{words:?}"
    );
    assert!(words[1].contains("own.store"), "{words:?}");
    assert_eq!(bench.checkpoints("run").len(), 1);
}

#[test]
fn two_hosts_train_over_their_own_addresses() {
    let bench = Workbench::new();
    let hosts = match Hosts::new() {
        Ok(hosts) => hosts,
        Err(reason) => {
            println!("skipped: two hosts need network namespaces: {reason}");
            return;
        }
    };
    assert_trained(&bench.train("alone", &["train.clips=4"]));
    let ranks = bench.start_ranks("run", 2, &[], |rank, command| {
        command.env("MASTER_ADDR", hosts.address(0));
        command.env("LOCAL_RANK", "0").env("LOCAL_WORLD_SIZE", "1");
        *command = hosts.command(rank, command);
    });
    assert_all(ranks, 0);
    assert_eq!(figures(&bench, "run", "lr"), figures(&bench, "alone", "lr"));

    // As tasks of SLURM; the first host knows itself by an address that no other can reach.
    let ranks = bench.start_ranks("slurm", 2, &[], |rank, command| {
        for name in TORCHRUN {
            command.env_remove(name);
        }
        let first = if rank == 0 { "127.0.1.1".to_owned() } else { hosts.address(0) };
        let list = format!("{first},{}", hosts.address(1));
        command.env("SLURM_PROCID", rank.to_string()).env("SLURM_NODEID", rank.to_string());
        command.envs([("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_STEP_TASKS_PER_NODE", "1(x2)")]);
        command.env("SLURM_LOCALID", "0").env("SLURM_STEP_NODELIST", list);
        *command = hosts.command(rank, command);
    });
    let words = assert_all(ranks, 0);
    assert!(words[0].contains("SLURM; rank 0 at 127.0.1.1:20000"), "{}", words[0]);
    bench.assert_same_end("run", "slurm");
}

#[test]
fn a_disk_that_fills_in_a_save_ends_all_ranks_and_loses_no_checkpoint() {
    let bench = Workbench::new();
    let Some(disk) = SmallDisk::new(&bench) else { return };
    let words = assert_all(bench.start_ranks("small/run", 2, &[], |_, _| ()), 2);
    assert!(
        words[0].contains("No space left") && words[0].contains("free some space"),
        "{words:?}"
    );
    assert!(words[1].contains("rank 0 ended the run: cannot save a checkpoint"), "{words:?}");
    assert_eq!(bench.checkpoints("small/run"), ["step-5"]);
    disk.take_away();
}

#[test]
fn ranks_that_were_started_differently_refuse() {
    let bench = Workbench::new();
    let ranks = bench.start_ranks("run", 2, &[], |rank, command| {
        command.args(["--set", &format!("train.seed={rank}")]);
    });
    for words in assert_all(ranks, 2) {
        assert!(words.contains("rank 1 was started with another recipe than rank 0"), "{words}");
    }
    bench.add_store("other.store", 50);
    let ranks = bench.start_ranks("run", 2, &[], |rank, command| {
        if rank == 1 {
            command.arg("--store").arg(bench.path("other.store"));
        }
    });
    for words in assert_all(ranks, 2) {
        assert!(words.contains("rank 1 was started with other frame stores"), "{words}");
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn wrong_variables_and_addresses_get_one_sentence() {
    let bench = Workbench::new();
    let train = |variables: &[(&str, &str)]| {
        let mut command = bench.command("run", &[]);
        command.args(["--timeout-s", "3"]).envs(variables.iter().copied()).output().unwrap()
    };
    let whole = |rank, port| {
        [
            ("RANK", rank),
            ("LOCAL_RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", port),
        ]
    };
    let with = |name, value| {
        let mut variables = whole("0", "29400");
        variables.iter_mut().filter(|(key, _)| *key == name).for_each(|pair| pair.1 = value);
        variables
    };
    assert_refused(&train(&whole("0", "29400")[..4]), &["MASTER_ADDR and MASTER_PORT is not set"]);
    assert_refused(&train(&with("RANK", "2")), &["`RANK=2` does not lie below `WORLD_SIZE=2`"]);
    assert_refused(&train(&with("RANK", "one")), &["`RANK=one` is no number"]);
    assert_refused(&train(&with("MASTER_PORT", "70000")), &["`MASTER_PORT=70000` is no port"]);

    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_refused(&train(&whole("0", &port)), &["is in use", "choose another MASTER_PORT"]);
    drop(taken);
    // Nobody is there; nobody can be there (a name of RFC 2606 and an address of RFC 5737); somebody
    // is there and the other rank never comes.
    for variables in [
        whole("1", &port),
        {
            let mut v = whole("1", &port);
            v[4].1 = "rank-zero.invalid";
            v
        },
        {
            let mut v = whole("1", &port);
            v[4].1 = "192.0.2.1";
            v
        },
        whole("0", &port),
    ] {
        let began = Instant::now();
        let output = train(&variables);
        assert!(began.elapsed().as_secs() < 15, "{variables:?} took {:?}", began.elapsed());
        assert_refused(&output, &[" s: "]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(words.lines().count(), 1, "{words}");
    }
    // A rank on another machine could never come here.
    let mut lonely = whole("0", &port);
    lonely[3].1 = "1";
    assert_refused(&train(&lonely), &["`MASTER_ADDR=127.0.0.1` leads to 127.0.0.1"]);
    assert!(!bench.path("run").exists());
}
