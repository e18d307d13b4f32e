//! `dora-eval export` and `import` as users start them, and what timm makes of an export.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use dora_data::rng::stream;
use dora_eval::encoder::Encoder;
use dora_model::{StateDict, Vit, VitConfig};
use tch::{Device, Kind, Tensor};

use crate::workbench::{dora_eval, encoder, refusal, stderr, succeed};

fn load(checkpoint: &Path) -> Encoder {
    encoder(&["--checkpoint", text(checkpoint)])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

/// Fails unless the program ends with status 2 and one line that has this in it.
#[track_caller]
fn check_refused(words: &[&str], expected: &str) {
    let text = refusal(&mut dora_eval(words));
    assert!(text.contains(expected) && text.trim().lines().count() == 1, "{text}");
    assert_eq!(text.matches(expected).count(), 1, "said twice: {text}");
}

#[track_caller]
fn run(words: &[&str]) -> (String, String) {
    let output = succeed(&mut dora_eval(words));
    (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
}

fn config(image_px: i64) -> VitConfig {
    VitConfig { image_px, ..VitConfig::standard(3, 16) }
}

/// Weights of the size that training gives, so that blocks do more than pass tokens on.
fn weights(config: &VitConfig, seed: u64) -> StateDict {
    let fresh = Vit::init(config, &mut stream(seed, "weights", &[]));
    fresh.iter().map(|(name, tensor)| (name.to_owned(), tensor * 2.5)).collect()
}

/// A run's folder with checkpoints after these steps.
fn write_run(folder: &Path, image_px: i64, steps: &[u64]) {
    for &step in steps {
        let checkpoint = folder.join(format!("checkpoints/step-{step}"));
        fs::create_dir_all(&checkpoint).unwrap();
        for (seed, name) in [(step, "teacher"), (step + 1, "student")] {
            let mut state = weights(&config(image_px), seed).with_prefix("backbone.");
            state.insert("head.mlp.0.bias", Tensor::zeros([4], (Kind::Float, Device::Cpu)));
            state.write(&checkpoint.join(format!("{name}.safetensors"))).unwrap();
        }
    }
    fs::write(folder.join("recipe.toml"), "[model]\n").unwrap();
}

fn images(image_px: i64) -> Tensor {
    let count = 2 * 3 * image_px * image_px;
    let waves = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.371).sin();
    waves.reshape([2, 3, image_px, image_px])
}

/// The Python with timm, or nothing and a line that says why.
fn python() -> Option<PathBuf> {
    let python = env::var_os("DORA_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!(
            "skipped: DORA_TEST_PYTHON names no Python with timm; `cargo xtask setup --test-tools` and \
             `cargo xtask test` see to it"
        );
    }
    python
}

/// Runs timm's side on images of these sizes in their folders, and compares its features with those of the
/// encoders that `load` gives for the folders then.
fn compare_with_timm(
    python: &Path,
    (job, file): (&str, &str),
    cases: &[(PathBuf, i64)],
    load: impl Fn(&Path) -> Encoder,
) {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/timm_side.py")).arg(job);
    for (folder, image_px) in cases {
        let named = [("images".to_owned(), images(*image_px))];
        StateDict::from_iter(named).write(&folder.join("images")).unwrap();
        command.args([file, "images", "features"].map(|name| folder.join(name)));
    }
    succeed(&mut command);
    for (folder, image_px) in cases {
        let theirs = StateDict::read(&folder.join("features")).unwrap();
        let (encoder, images) = (load(folder), images(*image_px));
        let (tokens, cls) =
            tch::no_grad(|| (encoder.vit.forward(&images, None), encoder.vit.cls(&images, None)));
        for (name, ours) in [("tokens", tokens), ("cls", cls)] {
            let theirs = theirs.get(name).unwrap();
            assert_eq!(ours.size(), theirs.size());
            let error = (&ours - &theirs).abs().max().double_value(&[]);
            let largest = theirs.abs().max().double_value(&[]);
            assert!(error <= 1e-5 * largest, "{name}: {error:.2e} of {largest:.2e}");
        }
    }
}

#[test]
fn timm_computes_the_same_from_an_export() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run_of =
        |out: &Path| out.with_file_name(format!("run-{}", out.file_name().unwrap().display()));
    // The size of the toy recipe, and the one that timm's own model has.
    let cases = [128, 224].map(|image_px| {
        let out = folder.path().join(image_px.to_string());
        write_run(&run_of(&out), image_px, &[4]);
        run(&["export", text(&run_of(&out)), "--out", text(&out)]);
        (out, image_px)
    });
    compare_with_timm(&python, ("load", "README.md"), &cases, |out| load(&run_of(out)));
}

#[test]
fn a_checkpoint_of_timm_computes_the_same_here() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.pth");
    let out = folder.path().join("out");
    let cases = [(folder.path().to_owned(), 112)];
    compare_with_timm(&python, ("save", "weights.pth"), &cases, |_| {
        let (table, said) = run(&["import", text(&file), "--out", text(&out)]);
        assert!(table.contains("under `state_dict/module.encoder`"), "{table}");
        assert!(said.contains("ignored 2 tensors that are not the encoder's"), "{said}");
        load(&out)
    });
    assert_eq!(load(&file).digest, load(&out).digest);
}

#[test]
fn an_export_holds_the_newest_checkpoint_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (run_dir, out) = (folder.path().join("walk"), folder.path().join("new/out"));
    write_run(&run_dir, 32, &[2, 10]);
    let words = ["export", text(&run_dir), "--checkpoint-key", "student", "--out", text(&out)];
    let (table, said) = run(&words);
    assert!(table.contains("width 192, depth 12, heads 3") && table.contains("32 px"), "{table}");
    assert!(said.contains("ignored `head.mlp.0.bias`, which is not the encoder's"), "{said}");
    let state = StateDict::read(&out.join("model.safetensors")).unwrap();
    let expected = weights(&config(32), 11);
    assert_eq!(state.iter().count(), expected.iter().count());
    for (name, tensor) in expected.iter() {
        assert_eq!(state.get(name).unwrap(), *tensor, "{name}");
    }
    let readme = fs::read_to_string(out.join("README.md")).unwrap();
    for part in [
        "# ViT-Ti/16",
        "`student.safetensors` (`backbone`) of the run `walk` after 10 steps; `recipe.toml` holds",
        "img_size=32, patch_size=16, embed_dim=192, depth=12, num_heads=3",
        "(0.485, 0.456, 0.406)",
    ] {
        assert!(readme.contains(part), "no `{part}` in\n{readme}");
    }
    assert!(out.join("recipe.toml").is_file());
    check_refused(&words, "exists already; give --out the name of a new folder");
    assert_eq!(load(&out).digest, load(&out.join("model.safetensors")).digest);
    // Nothing half-written stays beside it.
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
}

#[test]
fn an_import_serves_as_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dino");
    let file = fixture("dino_full.pth");
    let (table, said) = run(&["import", text(&file), "--out", text(&out)]);
    for part in ["under `teacher/backbone`", "width 64, depth 2, heads 1", "30, made float32"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(
        said.contains("ignored 2 tensors that are not the encoder's, such as `head."),
        "{said}"
    );
    let (teacher, imported) = (load(&file), load(&out));
    assert_eq!(teacher.digest, imported.digest);
    assert!(teacher.name.ends_with("dino_full.pth (teacher/backbone)"), "{}", teacher.name);
    assert!(imported.name.ends_with("model.safetensors"), "{}", imported.name);
    let student = folder.path().join("student");
    run(&["import", text(&file), "--checkpoint-key", "student", "--out", text(&student)]);
    assert_ne!(load(&student).digest, teacher.digest);
}

#[test]
fn a_run_s_own_head_is_no_news() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("walk");
    write_run(&run_dir, 32, &[2]);
    let (file, out) = (run_dir.join("recipe.toml"), folder.path().join("out"));
    let with = ["visualize", text(&file), "--out", text(&out), "--heads", "9", "--checkpoint"];
    check_refused(&[&with[..], &[text(&run_dir)]].concat(), "the encoder has the heads 0 to 2");
    let dino = fixture("dino_full.pth");
    let said = refusal(&mut dora_eval(&[&with[..], &[text(&dino)]].concat()));
    assert!(said.contains("ignored 2 tensors that are not the encoder's"), "{said}");
}

#[test]
fn what_is_no_encoder_gets_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = text(&out);
    let cut = folder.path().join("cut.pth");
    fs::write(&cut, &fs::read(fixture("dino_full.pth")).unwrap()[..9_000]).unwrap();
    // A zip archive would be longer to write than the container of before PyTorch 1.6.
    let many = folder.path().join("many.pth");
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    fs::write(&many, [&magic[..], b"N", &b"\x85".repeat(1 << 22)].concat()).unwrap();
    let weights = folder.path().join("weights.safetensors");
    let config = VitConfig { depth: 1, ..VitConfig::standard(1, 16) };
    let vit = Vit::init(&config, &mut stream(0, "test", &[]));
    let tensors = vit.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
    StateDict::from_iter(tensors).write(&weights).unwrap();
    let short = folder.path().join("short.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&short, &whole[..whole.len() - 100]).unwrap();
    let headed = |name: &str, header: &str| {
        let path = folder.path().join(name);
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&length[..], header.as_bytes(), &[0; 4]].concat()).unwrap();
        path
    };
    let tensor = |name: &str, dtype: &str, shape: &str| {
        format!(
            "{{\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[0,4]}}}}"
        )
    };
    for (file, expected) in [
        (short, "is no encoder: it is cut off, or longer than its tensors"),
        (
            headed("dtype.safetensors", &tensor("a", "F4", "1")),
            "its header is damaged, or has dtypes that are not known here",
        ),
        (
            headed("size.safetensors", &tensor("a", "F32", "4611686018427387904,4,0")),
            "its header gives a tensor a size that does not fit its values",
        ),
        (
            headed("name.safetensors", &tensor("a\\u001b[31m", "F32", "1")),
            "it has control characters in the name `a\\u{1b}[31m`",
        ),
        (many, "its pickles have more than 524288 instructions, which no checkpoint has"),
        (folder.path().join("absent.pth"), "it does not exist"),
        (
            folder.path().to_owned(),
            "expected teacher.safetensors, model.safetensors or checkpoints/step-N",
        ),
        (cut, "its zip archive is damaged or cut off"),
        (fixture("malicious_root.pth"), "a Python object `posix.system`, which is not unpacked"),
        (fixture("malicious.pth"), "no `patch_embed.proj.weight`, so no ViT, but a dictionary"),
        (fixture("make_pth.py"), "neither a safetensors file nor one of `torch.save`"),
    ] {
        check_refused(&["import", text(&file), "--out", out], expected);
        assert!(!Path::new(out).exists() && !Path::new("pth-was-executed").exists());
    }
}
