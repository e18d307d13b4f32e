//! Several workers, each a shell script: what they are told, what is shown of them, and how all end.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use crate::world::{World, ended, path_with_system, until};

/// A worker that says its number and runs until it is told to end, or a failed test has left its world.
const UNTIL_TOLD: &str = r#"echo $$ >>"$WORLD/pids"
while [ -e "$WORLD/pids" ]; do sleep 0.02; done"#;

/// Counts each signal that it gets, without a sleep in which two would become one; ends with `end` at the second, or after the first if it `saves`.
fn counting(saves: bool, status: &str) -> String {
    let end = if saves { "1" } else { "2" };
    format!(
        r#"count=0
got() {{ echo "$1" >>"$WORLD/signals-$RANK"; count=$((count + 1)); [ $count -lt {end} ] || exit {status}; }}
trap 'got INT' INT; trap 'got TERM' TERM; trap 'got USR1' USR1
echo $$ >>"$WORLD/pids"
while [ -e "$WORLD/pids" ]; do :; done"#
    )
}

impl World {
    fn training(name: &str, body: &str) -> Self {
        let world = Self::new(name).with_programs();
        world.write("checkout/a.mp4", "");
        world.worker(body);
        world
    }

    /// `cargo xtask train` at the head of a process group of its own.
    fn train(&self, options: &str) -> Command {
        let mut command = self.own_libtorch(&format!("train {options}"));
        command.env("PATH", path_with_system(self)).process_group(0);
        command
    }

    fn trained(&self, options: &str) -> (i32, String) {
        finish(self.train(options).spawn().unwrap())
    }

    /// Starts it and waits until `count` workers are ready.
    fn start(&self, options: &str, count: usize) -> Child {
        let child = self.train(options).spawn().unwrap();
        until("all workers start", || self.lines("pids").len() == count);
        child
    }

    fn log_of(&self, rank: u64) -> String {
        fs::read_to_string(self.path(&format!("checkout/data/runs/toy/rank-{rank}.log"))).unwrap()
    }

    fn signals(&self, rank: u64) -> String {
        self.lines(&format!("signals-{rank}")).join(" ")
    }
}

fn signal(name: &str, target: String) {
    let status = Command::new("kill").args([name, "--", &target]).status().unwrap();
    assert!(status.success());
}

/// Waits for a launcher that should end soon, and kills it if it does not.
fn finish(child: Child) -> (i32, String) {
    let pid = child.id();
    let (done, waiting) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = waiting.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout);
        if late {
            signal("-KILL", pid.to_string());
        }
        late
    });
    let outcome = ended(child.wait_with_output().unwrap());
    drop(done);
    assert!(!watch.join().unwrap(), "not within 60 s: {}", outcome.1);
    outcome
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

const TELL_PLACE: &str = r#"echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $TORCHELASTIC_RESTART_COUNT" >>"$WORLD/places"
echo "$MASTER_PORT ${OMP_NUM_THREADS-unset} ${TORCHELASTIC_USE_AGENT_STORE-unset}" >>"$WORLD/ports""#;

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn each_rank_is_told_its_place() {
    let world = World::training("places", TELL_PLACE);
    let mut train = world.train("--nproc-per-node 3");
    train.env("TORCHELASTIC_USE_AGENT_STORE", "True");
    let (status, text) = finish(train.spawn().unwrap());
    assert_eq!((status, text.as_str()), (0, ""));
    let places = ["0 0 3 3 127.0.0.1 0", "1 1 3 3 127.0.0.1 0", "2 2 3 3 127.0.0.1 0"];
    assert_eq!(sorted(world.lines("places")), places);
    let ports = world.lines("ports");
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    let port = ports[0].strip_suffix(" unset unset").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);

    let (status, _) = world.trained("--nproc-per-node 1 --rdzv-endpoint host:1234");
    assert_eq!((status, world.lines("places")[3].as_str()), (0, "0 0 1 1 host 0"));
    assert_eq!(world.lines("ports")[3], "1234 unset unset");

    let (status, _) = world.trained("");
    assert_eq!((status, world.lines("places")[4].as_str()), (0, "     "));
}

#[test]
fn machines_meet_and_share_the_ranks() {
    let world = World::training("machines", TELL_PLACE);
    let endpoint = format!("localhost:{}", free_port());
    let line = |node: u64| {
        format!(
            "--fresh --nproc-per-node 2 --nnodes 2 --node-rank {node} --rdzv-endpoint {endpoint}"
        )
    };
    let children = [1, 0].map(|node| world.train(&line(node)).spawn().unwrap());
    for child in children {
        let (status, text) = finish(child);
        assert_eq!(status, 0, "{text}");
    }
    let places: Vec<String> =
        (0..4).map(|rank| format!("{rank} {} 4 2 localhost 0", rank % 2)).collect();
    assert_eq!(sorted(world.lines("places")), places);
    let ports = world.lines("ports");
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    let calls =
        |start: &str| world.lines("log").iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((calls("dora-ingest ingest"), calls("dora-train put-aside")), (2, 1));
}

#[test]
fn machines_that_differ_or_stay_away_are_named() {
    let world = World::training("strangers", "exit 0");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let line = |rank: u64, port: u16| {
        format!("--nnodes 2 --node-rank {rank} --rdzv-timeout 1 --rdzv-endpoint localhost:{port}")
    };
    let (status, text) = world.trained(&line(0, port));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains(&format!("cannot listen at port {port}")), "{text}");

    let (status, text) = world.trained(&line(0, free_port()));
    assert_eq!(status, 2, "{text}");
    assert!(
        text.contains("not all of 2 machines came within 1 s, missing --node-rank 1"),
        "{text}"
    );

    let (status, text) = world.trained(&line(1, free_port()));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("no machine 0 to start with at localhost:"), "{text}");

    let line = |node: u64, nproc: u64, port: u16| {
        format!(
            "--nnodes 2 --node-rank {node} --nproc-per-node {nproc} --rdzv-endpoint localhost:{port}"
        )
    };
    let port = free_port();
    let children = [(0, 2), (1, 3)]
        .map(|(node, nproc)| world.train(&line(node, nproc, port)).spawn().unwrap());
    for child in children {
        let (status, text) = finish(child);
        assert_eq!(status, 2, "{text}");
        let expected = "machine 0 was started with --nproc-per-node 2 and machine 1 with 3";
        assert!(text.contains(expected), "{text}");
    }
    assert!(!world.lines("log").iter().any(|line| line.starts_with("dora-train train")));
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    let world = World::training("refused", "exit 0");
    for (line, expected) in [
        ("--nproc-per-node 0", "is neither a number from 1 to 1024 nor gpu or auto"),
        ("--nnodes 2 --node-rank 0", "needs --rdzv-endpoint HOST:PORT"),
        ("--max-restarts many", "needs a whole number after `--max-restarts`"),
        ("--dry-run --nproc-per-node 2", "`--dry-run` tries one process once"),
    ] {
        let (status, text) = world.trained(line);
        assert_eq!(status, 2, "{text}");
        assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
    }
    assert!(world.lines("log").is_empty());

    world.write("checkout/file", "");
    let (status, text) = world.trained("--nproc-per-node 2 --run-dir file/run");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("cannot make the run folder file/run"), "{text}");
    fs::create_dir_all(world.path("checkout/run/rank-1.log")).unwrap();
    let (status, text) = world.trained("--nproc-per-node 2 --run-dir run");
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("cannot write the log run/rank-1.log"), "{text}");
}

#[test]
fn lines_are_shown_whole_behind_their_rank_and_kept() {
    let body = r#"for number in $(seq 200); do echo "out $number of rank $RANK"; echo "err $number of rank $RANK" >&2; done
printf '10 %%\r20 %%\r\n'
printf 'torn \303'; sleep 0.1; printf '\244\n'
printf 'no end'"#;
    let world = World::training("output", body);
    let (status, text) = world.trained("--nproc-per-node 2");
    assert_eq!(status, 0, "{text}");
    for rank in 0..2 {
        let prefix = format!("[rank {rank}] ");
        let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        let mut expected = Vec::new();
        for number in 1..=200 {
            expected.extend(["out", "err"].map(|pipe| format!("{pipe} {number} of rank {rank}")));
        }
        expected.extend(["20 %", "torn \u{e4}", "no end"].map(str::to_owned));
        assert_eq!(shown, expected);
        let log = world.log_of(rank);
        assert!(log.starts_with(&format!("== RANK={rank} ")) && log.contains("\n10 %\r20 %\r\n"));
        assert_eq!(log.lines().count(), 404);
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("[rank ")).count(), 2 * 403);
    world.trained("--nproc-per-node 2");
    assert_eq!(world.log_of(0).matches("== RANK=0").count(), 2);
}

#[test]
fn the_first_failure_stops_all_and_is_shown_last() {
    let body = format!(
        r#"if [ $RANK = 1 ]; then
  until [ "$(wc -l <"$WORLD/pids")" = 2 ]; do sleep 0.02; done
  for number in $(seq 30); do echo "reason $number"; done
  exit 3
fi
trap 'echo connection lost; sleep 0.3; echo much else; exit 2' TERM
{UNTIL_TOLD}"#
    );
    let world = World::training("failure", &body);
    let started = Instant::now();
    let (status, text) = world.trained("--nproc-per-node 3");
    assert_eq!(status, 3, "{text}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let end: Vec<&str> = text.lines().rev().take(22).collect();
    assert_eq!((end[0], end[19]), ("[rank 1] reason 30", "[rank 1] reason 11"), "{text}");
    assert_eq!(end[20], "its last lines, and all of them in data/runs/toy/rank-1.log:");
    assert_eq!(end[21], "error: rank 1 ended with status 3");
    assert_eq!(text.matches("much else").count(), 2);
}

#[test]
fn a_worker_that_does_not_stop_is_killed() {
    let body = format!(
        r#"if [ $RANK = 0 ]; then until [ -e "$WORLD/pids" ]; do sleep 0.02; done; kill -9 $$; fi
trap '' TERM
{UNTIL_TOLD}"#
    );
    let world = World::training("stubborn", &body);
    let started = Instant::now();
    let (status, text) = world.trained("--nproc-per-node 2");
    assert_eq!(status, 137, "{text}");
    assert!(text.contains("error: rank 0 was ended by signal 9"), "{text}");
    let elapsed = started.elapsed();
    assert!((10..16).contains(&elapsed.as_secs()), "{elapsed:?}");
    until("it is gone", || running(&world).is_empty());
}

#[test]
fn each_signal_reaches_each_worker_once() {
    for name in ["INT", "TERM"] {
        let world = World::training(&format!("twice-{name}"), &counting(false, "130"));
        let child = world.start("--nproc-per-node 2", 2);
        // As a terminal does it: the whole group.
        for count in 1..=2 {
            signal(&format!("-{name}"), format!("-{}", child.id()));
            let expected = [name].repeat(count).join(" ");
            until("each has its signal", || (0..2).all(|rank| world.signals(rank) == expected));
            thread::sleep(Duration::from_millis(100));
            assert_eq!([0, 1].map(|rank| world.signals(rank)), [&*expected, &*expected]);
        }
        let (status, text) = finish(child);
        assert_eq!(status, 130, "{text}");
        assert!(!text.contains("error"), "{text}");
    }
}

#[test]
fn workers_that_save_end_well() {
    for (name, status) in [("INT", 130), ("TERM", 143), ("USR1", 0)] {
        for options in ["--nproc-per-node 2 --max-restarts 2", "--max-restarts 2"] {
            let count = if options.starts_with("--nproc") { 2 } else { 1 };
            let world = World::training(
                &format!("saves-{name}-{count}"),
                &counting(true, &status.to_string()),
            );
            let child = world.start(options, count);
            // One process alone shares the terminal, which signals the whole group; it sends no SIGTERM.
            let group = if name == "INT" { "-" } else { "" };
            signal(&format!("-{name}"), format!("{group}{}", child.id()));
            let (ended_with, text) = finish(child);
            assert_eq!(ended_with, status, "{name} {options}: {text}");
            assert!(!text.contains("restart") && !text.contains("error"), "{text}");
        }
    }
}

#[test]
fn a_save_that_fails_after_a_signal_is_shown() {
    let body = format!("trap 'echo the disk is full; exit 2' USR1\n{UNTIL_TOLD}");
    let world = World::training("full-disk", &body);
    let child = world.start("--nproc-per-node 1 --max-restarts 3", 1);
    signal("-USR1", child.id().to_string());
    let (status, text) = finish(child);
    assert_eq!((status, last_line(&text)), (2, "[rank 0] the disk is full"), "{text}");
}

#[test]
fn the_ingest_makes_room_too() {
    let world = World::training("usr1-ingest", "exit 0");
    world.script(
        "target/dora-ingest",
        &format!(
            "[ $1 = ingest ] || {{ echo walk.mp4; exit; }}\ntrap 'exit 130' TERM\n{UNTIL_TOLD}"
        ),
    );
    let child = world.start("--nproc-per-node 2", 1);
    signal("-USR1", child.id().to_string());
    let (status, text) = finish(child);
    assert_eq!(status, 0, "{text}");
    assert!(!world.lines("log").iter().any(|line| line.starts_with("dora-train train")));
}

/// The workers that are still there.
fn running(world: &World) -> Vec<PathBuf> {
    let paths = world.lines("pids").into_iter().map(|pid| Path::new("/proc").join(pid).join("exe"));
    paths.filter(|path| fs::read_link(path).is_ok()).collect()
}

#[test]
fn nothing_outlives_a_killed_launcher() {
    for (options, count) in [("--nproc-per-node 3", 3), ("", 1)] {
        let world = World::training(&format!("orphans-{count}"), UNTIL_TOLD);
        let mut child = world.start(options, count);
        assert_eq!(running(&world).len(), count);
        signal("-KILL", child.id().to_string());
        child.wait().unwrap();
        until("all are gone", || running(&world).is_empty());
    }
    let world = World::training("orphan-ingest", "exit 0");
    world.script("target/dora-ingest", UNTIL_TOLD);
    let mut child = world.start("", 1);
    signal("-KILL", child.id().to_string());
    child.wait().unwrap();
    until("the ingest is gone", || running(&world).is_empty());
}

#[test]
fn all_start_again_after_a_failure() {
    let body = r#"echo "$RANK $TORCHELASTIC_RESTART_COUNT" >>"$WORLD/attempts"
if [ $TORCHELASTIC_RESTART_COUNT = 1 ]; then exit 0; fi
if [ $RANK = 1 ]; then
  until [ "$(wc -l <"$WORLD/attempts")" = 2 ]; do sleep 0.02; done
  kill -9 $$
fi
trap 'exit 143' TERM
while :; do sleep 0.02; done"#;
    let world = World::training("restarts", body);
    let (status, text) = world.trained("--fresh --nproc-per-node 2 --max-restarts 1");
    assert_eq!(status, 0, "{text}");
    assert_eq!(text.matches("restart 1 of 1").count(), 1, "{text}");
    assert_eq!(sorted(world.lines("attempts")), ["0 0", "0 1", "1 0", "1 1"]);
    let calls = world.lines("log");
    assert_eq!(calls.iter().filter(|line| line.contains("put-aside")).count(), 1);
    assert!(!calls.iter().any(|line| line.contains("--fresh")));

    world.worker("echo x >>\"$WORLD/tries\"; kill -9 $$");
    let (status, text) = world.trained("--nproc-per-node 1 --max-restarts 1");
    assert_eq!((status, world.lines("tries").len()), (137, 2), "{text}");
    let (status, text) = world.trained("--max-restarts 1");
    assert_eq!((status, world.lines("tries").len()), (137, 4), "{text}");
    assert!(text.contains("restart 1 of 1"), "{text}");
    for options in ["--nproc-per-node 1", ""] {
        world.worker("echo x >>\"$WORLD/wrong\"; exit 2");
        let (status, text) = world.trained(&format!("{options} --max-restarts 3"));
        assert_eq!(status, 2, "{text}");
        assert!(!text.contains("restart"), "{text}");
    }
    assert_eq!(world.lines("wrong").len(), 2);
}

#[test]
fn all_machines_start_again_together() {
    // Machine 1 fails at once; what machine 0 runs goes on for a while, and only then notices.
    let body = r#"echo "$RANK $TORCHELASTIC_RESTART_COUNT $MASTER_PORT" >>"$WORLD/attempts"
if [ $TORCHELASTIC_RESTART_COUNT = 1 ]; then exit 0; fi
if [ $RANK = 1 ]; then
  until [ "$(wc -l <"$WORLD/attempts")" = 2 ]; do sleep 0.02; done
  kill -9 $$
fi
trap '' TERM
sleep 5
exit 2"#;
    let world = World::training("restart-machines", body);
    let endpoint = format!("127.0.0.1:{}", free_port());
    let children = [0, 1].map(|node| {
        let line =
            format!("--nnodes 2 --node-rank {node} --rdzv-endpoint {endpoint} --max-restarts 2");
        world.train(&line).spawn().unwrap()
    });
    let [first, second] = children.map(finish);
    assert_eq!((first.0, second.0), (0, 0), "{}\n{}", first.1, second.1);
    assert!(first.1.contains("machine 1 failed; its own output says why"), "{}", first.1);
    assert!(second.1.contains("rank 1 was ended by signal 9"), "{}", second.1);
    let attempts: Vec<Vec<String>> = world
        .lines("attempts")
        .iter()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    assert_eq!(attempts.len(), 4);
    for rank in ["0", "1"] {
        let of_rank: Vec<&str> =
            attempts.iter().filter(|line| line[0] == rank).map(|line| line[1].as_str()).collect();
        assert_eq!(of_rank, ["0", "1"]);
    }
    assert_eq!(attempts[2][2], attempts[3][2]);
}

#[test]
fn a_machine_whose_launcher_was_killed_may_come_back() {
    let body = r#"echo "$RANK $TORCHELASTIC_RESTART_COUNT" >>"$WORLD/pids"
[ $TORCHELASTIC_RESTART_COUNT = 0 ] || exit 0
trap 'exit 143' TERM
while [ -e "$WORLD/pids" ]; do sleep 0.02; done"#;
    let world = World::training("come-back", body);
    let endpoint = format!("127.0.0.1:{}", free_port());
    let machine = |node: u64| {
        let line =
            format!("--nnodes 2 --node-rank {node} --rdzv-endpoint {endpoint} --max-restarts 1");
        world.train(&line).spawn().unwrap()
    };
    let (first, mut killed) = (machine(0), machine(1));
    until("both workers start", || world.lines("pids").len() == 2);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (status, text) = finish(machine(1));
    assert_eq!(status, 0, "{text}");
    let (status, text) = finish(first);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("machine 1 failed") && text.contains("restart 1 of 1"), "{text}");
    assert_eq!(sorted(world.lines("pids")), ["0 0", "0 1", "1 0", "1 1"]);
}

#[test]
fn a_signal_to_one_machine_ends_the_others_without_another_attempt() {
    // The worker of machine 0 ends because the other one was told to: with the same status, as workers
    // settle it, or because it has lost a peer that was told twice.
    let body = r#"trap 'touch "$WORLD/stop"; exit $STATUS' TERM
echo $$ >>"$WORLD/pids"
until [ -e "$WORLD/stop" ]; do sleep 0.02; done
exit $STATUS_0"#;
    for (name, status_1, status_0) in [("settled", 143, 143), ("lost", 130, 1)] {
        let world = World::training(&format!("stop-machines-{name}"), body);
        let endpoint = format!("127.0.0.1:{}", free_port());
        let children = [0, 1].map(|node| {
            let mut train = world.train(&format!(
                "--nnodes 2 --node-rank {node} --rdzv-endpoint {endpoint} --max-restarts 2"
            ));
            let statuses = [("STATUS", status_1), ("STATUS_0", status_0)];
            train.envs(statuses.map(|(name, status)| (name, status.to_string())));
            train.spawn().unwrap()
        });
        until("both workers start", || world.lines("pids").len() == 2);
        signal("-TERM", children[1].id().to_string());
        let [first, second] = children.map(finish);
        assert_eq!((first.0, second.0), (status_0, status_1), "{}\n{}", first.1, second.1);
        assert!(!second.1.contains("restart"), "{}", second.1);
        let refused = first.1.contains("no restart: another machine has ended for good");
        assert_eq!(refused, name == "lost", "{}", first.1);
        assert_eq!(world.lines("pids").len(), 2);
    }
}
