//! Several processes take the steps that one process takes with all their clips.
//!
//! Ranks are real processes: a test starts this binary again with torchrun's variables, and each
//! writes what it ended with into a file.

mod nccl;

use std::{
    env,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dora_core::{
    loss::Reduction,
    tracker::{Threshold, TrackerSpec},
};
use dora_model::{Network, StateDict, TrackerLayer};
use dora_train::{
    engine::{Draws, Engine, Method, NonFinite, Scheduled, StepError, TrackerMethod},
    metrics::{StepRead, StepReadBack, Timing},
    notice::Notice,
    world::World,
};
use rand::{SeedableRng, rngs::ChaCha8Rng};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use torch_ext::{Reducer, clear_grads};

use super::method::{engine::CONFIG, largest_difference, uniform};

const STEPS: i64 = 4;
const CLIPS: i64 = 4;
const TOLERANCE: f64 = 1e-9;

/// How long ranks wait for one another in a test of waiting.
const SHORT: Duration = Duration::from_secs(4);

/// What the ranks of a test are told.
const SCENE: &str = "DORA_TEST_SCENE";
const OUT: &str = "DORA_TEST_OUT";

#[test]
fn two_and_four_processes_equal_one() {
    for reduction in ["mean", "released"] {
        let folder = TempDir::new().unwrap();
        let end = |world: usize, batches: usize| -> Vec<StateDict> {
            let scene = format!("train {reduction} {batches}");
            let out = folder.path().join(format!("{world}-{batches}"));
            run_all(&scene, world, &out);
            (0..world).map(|rank| StateDict::read(&out.join(rank.to_string())).unwrap()).collect()
        };
        let expected = &end(1, 1)[0];
        // With several processes alone, with several batches a step alone, and both.
        for (world, batches) in [(2, 1), (4, 1), (1, 4), (2, 2)] {
            for found in end(world, batches) {
                for (name, tensor) in expected.iter() {
                    let difference = largest_difference(tensor, &found.get(name).unwrap());
                    assert!(
                        difference < TOLERANCE,
                        "{reduction}, {world} processes, {batches} batches: {name} is off by {difference:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_in_bfloat16_are_averages_but_for_rounding() {
    let folder = TempDir::new().unwrap();
    for world in [2, 3] {
        run_all("compress", world, &folder.path().join(world.to_string()));
    }
}

#[test]
fn ranks_divide_the_cores_that_they_share() {
    let folder = TempDir::new().unwrap();
    run_all("cores shared", 2, &folder.path().join("shared"));
    if available_cores() < 2 || Command::new("taskset").arg("--version").output().is_err() {
        println!("skipped: ranks on cores of their own need two cores and the program `taskset`");
        return;
    }
    run_all("cores own", 2, &folder.path().join("own"));
}

#[test]
fn a_bad_number_on_one_rank_stops_all() {
    let folder = TempDir::new().unwrap();
    run_all("bad number", 2, folder.path());
}

#[test]
fn a_lost_rank_is_an_error_for_the_others() {
    let folder = TempDir::new().unwrap();
    run_all("lost rank", 2, folder.path());
}

#[test]
fn ranks_share_numbers_and_reasons() {
    let folder = TempDir::new().unwrap();
    run_all("words", 3, folder.path());
}

#[test]
fn ranks_share_faults_and_signals_with_a_step() {
    let folder = TempDir::new().unwrap();
    run_all("notices", 3, folder.path());
}

#[test]
fn ranks_wait_for_the_first_beyond_their_timeout() {
    let folder = TempDir::new().unwrap();
    run_all("wait", 2, folder.path());
}

/// Starts `world` ranks and waits for their good end.
fn run_all(scene: &str, world: usize, out: &Path) {
    std::fs::create_dir_all(out).unwrap();
    let port = free_port();
    let start = |rank: usize| -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "distributed::rank", "--ignored", "--nocapture"]);
        command.env(SCENE, scene).env(OUT, out.join(rank.to_string()));
        command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
        command.env("WORLD_SIZE", world.to_string()).env("LOCAL_WORLD_SIZE", world.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.env("OMP_NUM_THREADS", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ranks: Vec<Child> = (0..world).map(start).collect();
    for (rank, child) in ranks.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scene}, rank {rank}:\n{text}\n{errors}");
        assert!(text.contains("1 passed"), "{scene}, rank {rank} did nothing:\n{text}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn available_cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// One rank of a test above; only they start it.
#[test]
#[ignore = "a part of the other tests of this module, which start it"]
fn rank() {
    let scene = env::var(SCENE).expect("started by a test of this module");
    let timeout = if scene == "wait" { SHORT } else { Duration::from_secs(60) };
    let words: Vec<&str> = scene.split(' ').collect();
    if words == ["cores", "own"] && env::var("RANK").unwrap() == "1" {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let first = cores.unwrap().trim().split([',', '-']).next().unwrap();
        let pid = std::process::id().to_string();
        let bound = Command::new("taskset").args(["-acp", first, &pid]).output().unwrap();
        assert!(bound.status.success(), "{bound:?}");
    }
    let world = World::join(timeout).unwrap();
    match words[..] {
        ["cores", "shared"] => assert_eq!(world.cores(), (available_cores() / 2).max(1)),
        // The other rank is bound to a single core.
        ["cores", "own"] => assert_eq!(world.cores(), available_cores()),
        ["train", reduction, batches] => train(&world, reduction, batches.parse().unwrap()),
        ["compress"] => compress(&world),
        ["bad", "number"] => bad_number(&world),
        ["lost", "rank"] => lost_rank(&world),
        ["words"] => words_of(&world),
        ["notices"] => notices(&world),
        ["wait"] => wait_for_first(&world),
        _ => panic!("{scene}"),
    }
}

/// What one rank says with a step all ranks read of it; a fault keeps the step from changing anything.
fn notices(world: &World) {
    let rank = world.share.rank;
    let mut engine = engine(world, Reduction::Mean, 1);
    let (global, local) = views(0);
    let before = engine.student().state().get("backbone.norm.weight").unwrap().copy();
    let mut step = |notice| {
        let draws = Draws { head_ids: vec![0, 1], drop_path: None };
        engine.backward(&global, &local, &draws, &scheduled(1)).unwrap();
        let output = engine.update(&scheduled(1), notice).unwrap();
        let after = engine.student().state().get("backbone.norm.weight").unwrap();
        let has_moved = largest_difference(&before, &after.detach()) > 0.0;
        let timing = Timing { step_s: 1.0, data_s: 0.0, images: 1 };
        let read = StepReadBack::start(&output, &engine, &scheduled(1), (1, 0.0), timing).unwrap();
        let StepRead { metrics, notice } = read.wait().unwrap();
        assert_eq!(metrics.is_skipped, !has_moved);
        (notice, has_moved)
    };
    let fault = Notice { fault: true, signal: None };
    let said = if rank == 1 { fault } else { Notice::default() };
    assert_eq!(step(said), (fault, false));
    let signal = Notice { fault: false, signal: Some(15) };
    let said = if rank == 2 { signal } else { Notice::default() };
    assert_eq!(step(said), (signal, true));
}

/// The first rank works for longer than ranks wait for one another, and is heard meanwhile.
fn wait_for_first(world: &World) {
    let began = Instant::now();
    let result = world.wait_for_first(|still_here| {
        while began.elapsed() < SHORT * 2 {
            std::thread::sleep(Duration::from_millis(50));
            still_here().unwrap();
        }
        "done"
    });
    assert_eq!(result.unwrap(), world.is_first().then_some("done"));
    assert!(began.elapsed() > SHORT);
    world.all_ok(Ok(())).unwrap();
}

fn engine(world: &World, reduction: Reduction, batches: usize) -> Engine {
    let spec =
        TrackerSpec { eps: 0.05, iterations: 30, sinkhorn: true, threshold: Threshold::Sample };
    let method = Method {
        tracker: Some(TrackerMethod { spec, layer: TrackerLayer::Last }),
        reduction,
        student_temp: 0.1,
        center_momentum: 0.9,
        clip_grad: 0.3,
        norm_last_layer: false,
        autocast: None,
        autocast_tokens: false,
        autocast_head: false,
        gradient_accumulation_steps: batches,
    };
    let weights = Network::init(&CONFIG, &mut ChaCha8Rng::seed_from_u64(3));
    Engine::new(&CONFIG, method, &weights, Device::Cpu, Kind::Double, world.group.clone()).unwrap()
}

fn scheduled(step: i64) -> Scheduled {
    Scheduled {
        lr: 0.01,
        weight_decay: 0.1,
        momentum: 0.9,
        teacher_temp: 0.04,
        freeze_last_layer: step == 0,
    }
}

/// The views of a whole step, `[1, B, T, C, H, W]` and `[L, B, T, C, H, W]`.
fn views(step: i64) -> (Tensor, Tensor) {
    let seed = 2 * step as u64;
    let global = uniform(seed + 1, &[1, CLIPS, 2, 3, 32, 32], Kind::Double);
    let local = uniform(seed + 2, &[2, CLIPS, 2, 3, 16, 16], Kind::Double);
    (global, local)
}

fn train(world: &World, reduction: &str, batches: usize) {
    let reduction = if reduction == "mean" { Reduction::Mean } else { Reduction::Released };
    let mut engine = engine(world, reduction, batches);
    let shares = world.share.world_size as i64 * batches as i64;
    let mut end = StateDict::default();
    for step in 0..STEPS {
        let (global, local) = views(step);
        for batch in 0..batches as i64 {
            let clips = CLIPS / shares;
            let first = (world.share.rank as i64 * batches as i64 + batch) * clips;
            let own = |views: &Tensor| views.narrow(1, first, clips);
            // The heads are shared by design here; a run draws them for each rank.
            let draws = Draws { head_ids: vec![step % 3, (step + 1) % 3], drop_path: None };
            engine.backward(&own(&global), &own(&local), &draws, &scheduled(step)).unwrap();
        }
        let output = engine.update(&scheduled(step), Notice::default()).unwrap();
        assert_eq!(output.skipped.double_value(&[]), 0.0);
        let loss = output.loss;
        let figures = [
            loss.total,
            loss.global,
            loss.local,
            loss.teacher_entropy,
            loss.kl,
            output.teacher_mean_entropy,
        ];
        end.insert(format!("figures.{step}"), Tensor::stack(&figures, 0));
        end.insert(format!("grad_norms.{step}"), output.grad_norms);
    }
    end.insert("center", engine.center().shallow_clone());
    let end = end
        .merge(engine.student().state().with_prefix("student."))
        .merge(engine.teacher().state().with_prefix("teacher."))
        .merge(engine.training_state());
    end.write(Path::new(&env::var(OUT).unwrap())).unwrap();
}

/// Gradients of two buckets that are reduced in bfloat16, added up over two backwards, and those of a rank
/// that reduces in float32.
fn compress(world: &World) {
    let group = world.group.as_ref().unwrap();
    let ranks = world.share.world_size;
    let params = [5, 6].map(|seed| uniform(seed, &[700, 500], Kind::Float).set_requires_grad(true));
    let weights = |rank: u64, part: u64| {
        [1, 2].map(|param| uniform(100 * rank + 10 * part + param, &[700, 500], Kind::Float) * 1e-3)
    };
    let loss = |rank: u64, part: u64| {
        let weights = weights(rank, part);
        (&params[0] * &weights[0]).sum(Kind::Float) + (&params[1] * &weights[1]).sum(Kind::Float)
    };
    let reducer = Reducer::new(group, &[&params[1], &params[0]], 1 << 20).unwrap();
    reducer.compress(group).unwrap();
    for round in 0..2 {
        // The first backward of a round only adds to this rank's own gradients.
        loss(world.share.rank, 0).backward();
        reducer.prepare_for_backward().unwrap();
        loss(world.share.rank, 1).backward();
        for (index, param) in params.iter().enumerate() {
            let sums = (0..ranks).map(|rank| &weights(rank, 0)[index] + &weights(rank, 1)[index]);
            let sum = sums.reduce(|sum, other| sum + other).unwrap();
            let expected = sum / ranks as f64;
            // Each rank's part is rounded to 8 digits, and so is each sum on the way round the ring.
            let bound = (ranks as f64) * 2f64.powi(-8) * 2e-3;
            let difference = largest_difference(&expected, &param.grad());
            assert!(difference < bound, "round {round}: off by {difference:e} of {bound:e}");
            assert!(difference > bound / 100.0, "round {round}: no gradient was rounded");
            let gathered = group.all_gather(&param.grad()).unwrap();
            assert!(gathered.iter().all(|grad| grad.equal(&gathered[0])), "ranks differ");
            assert_eq!(param.grad().kind(), Kind::Float);
        }
        clear_grads(&[&params[0], &params[1]]).unwrap();
    }
}

fn bad_number(world: &World) {
    let mut engine = engine(world, Reduction::Mean, 1);
    let (global, local) = views(0);
    if world.share.rank == 1 {
        let _ = global.narrow(5, 0, 1).fill_(f64::NAN);
    }
    let before = engine.student().state().get("backbone.norm.weight").unwrap().copy();
    let draws = Draws { head_ids: vec![0, 1], drop_path: None };
    let output = engine.step(&global, &local, &draws, &scheduled(1)).unwrap();
    assert_eq!(output.skipped.double_value(&[]), 1.0);
    let NonFinite { what, tensor, capture } = engine.non_finite(&output);
    let expected = (world.share.rank == 1).then_some("global_views");
    assert_eq!((what, tensor.as_deref()), ("loss", expected));
    assert_eq!(capture.is_some(), expected.is_some(), "only the rank at fault keeps its batch");
    let after = engine.student().state().get("backbone.norm.weight").unwrap();
    assert_eq!(largest_difference(&before, &after.detach()), 0.0, "weights moved");
}

fn lost_rank(world: &World) {
    let mut engine = engine(world, Reduction::Mean, 1);
    let (global, local) = views(0);
    let draws = Draws { head_ids: vec![0, 1], drop_path: None };
    let mut step = |number| engine.step(&global, &local, &draws, &scheduled(number)).map(drop);
    step(0).unwrap();
    if world.share.rank == 1 {
        return;
    }
    let error = (1..3).find_map(|number| step(number).err()).expect("the other rank is gone");
    assert!(matches!(error, StepError::Backward(_) | StepError::Torch(_)), "{error}");
}

fn words_of(world: &World) {
    let rank = world.share.rank;
    assert_eq!(world.broadcast_numbers([rank as i64, 7]).unwrap(), [0, 7]);
    assert_eq!(world.on_first(|| Ok(5)).unwrap(), world.is_first().then_some(5));
    let own = (rank == 1).then(|| anyhow::anyhow!("no frames left"));
    let error = world.reason(own).to_string();
    let expected =
        if rank == 1 { "no frames left" } else { "rank 1 ended the run: no frames left" };
    assert_eq!(error, expected);
    world.check_same("another recipe", 1 << 40).unwrap();
    let error = world.check_same("another recipe", rank / 2).unwrap_err().to_string();
    assert!(error.starts_with("rank 2 was started with another recipe than rank 0"), "{error}");
}
