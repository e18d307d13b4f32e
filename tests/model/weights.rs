//! The encoder of a file: found wherever it lies, refused where something of it is not known.

use std::{fs, path::Path};

use dora_data::rng::stream;
use dora_model::{
    StateDict, Vit, VitConfig,
    weights::{EncoderWeights, Which, read_encoder},
};
use tch::{Device, Kind, Tensor};

use super::{fixture, pth::archive, ramp};

const CONFIG: VitConfig = VitConfig {
    patch_px: 2,
    width: 64,
    depth: 2,
    heads: 1,
    mlp_ratio: 2,
    image_px: 4,
    norm_eps: 1e-6,
};

fn vit() -> StateDict {
    Vit::init(&CONFIG, &mut stream(1, "weights", &[]))
}

/// Writes tensors as safetensors and reads the encoder among them.
fn written(state: &StateDict) -> Result<EncoderWeights, String> {
    written_as(state, Which::Teacher)
}

fn written_as(state: &StateDict, which: Which) -> Result<EncoderWeights, String> {
    let folder = tempfile::tempdir().unwrap();
    // The name says nothing: content does.
    let path = folder.path().join("weights.pth");
    state.write(&path).unwrap();
    read_encoder(&path, which).map_err(|error| error.to_string())
}

fn same(a: &StateDict, b: &StateDict) -> bool {
    let names = |state: &StateDict| state.iter().map(|(n, _)| n.to_owned()).collect::<Vec<_>>();
    names(a) == names(b) && a.iter().all(|(name, tensor)| *tensor == b.get(name).unwrap())
}

#[test]
fn a_dino_checkpoint_gives_teacher_or_student() {
    for (which, place, shift) in
        [(Which::Teacher, "teacher/backbone", 0), (Which::Student, "student/module.backbone", 3)]
    {
        let found = read_encoder(&fixture("dino_full.pth"), which).unwrap();
        assert_eq!(found.place, place);
        assert_eq!(found.config, VitConfig { mlp_ratio: 1, ..CONFIG });
        assert!(!found.was_float32);
        let names: Vec<&str> = found.state.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 6 + 2 * 12);
        let pos_embed = found.state.get("pos_embed").unwrap();
        assert_eq!(pos_embed.kind(), Kind::Float);
        assert_eq!(pos_embed.double_value(&[0, 2, 1]), ramp(1 + 129 + shift));
        Vit::from_state(&found.config, &found.state).unwrap();
    }
    let found = read_encoder(&fixture("dino_full.pth"), Which::Teacher).unwrap();
    assert_eq!(found.ignored, ["head.mlp.0.weight", "head.last_layer.weight_g"]);
}

#[test]
fn prefixes_heads_and_dtypes_of_safetensors_are_seen_through() {
    let vit = vit();
    let read = written(&vit).unwrap();
    assert!(same(&read.state, &vit) && read.was_float32);
    assert_eq!((read.config, read.place.as_str()), (CONFIG, ""));
    let mut with_head = vit.with_prefix("module.encoder.");
    with_head.insert("module.head.weight", Tensor::ones([3, 64], (Kind::Float, Device::Cpu)));
    with_head.insert("module.encoder.fc.bias", Tensor::ones([3], (Kind::Float, Device::Cpu)));
    let read = written(&with_head).unwrap();
    assert!(same(&read.state, &vit));
    assert_eq!(read.ignored, ["module.encoder.fc.bias", "module.head.weight"]);
    for kind in [Kind::Half, Kind::BFloat16, Kind::Double] {
        let narrow = vit.copy_to(Device::Cpu, kind, false);
        let read = written(&narrow).unwrap();
        assert!(same(&read.state, &narrow.copy_to(Device::Cpu, Kind::Float, false)));
        assert!(!read.was_float32);
    }
}

#[test]
fn one_of_several_is_taken_by_its_name() {
    let (teacher, student) = (vit(), Vit::init(&CONFIG, &mut stream(2, "weights", &[])));
    for (ema, raw) in
        [("teacher.backbone.", "student.backbone."), ("momentum_encoder.", "base_encoder.")]
    {
        let both = teacher.with_prefix(ema).merge(student.with_prefix(raw));
        assert!(same(&written(&both).unwrap().state, &teacher));
    }
    let both = teacher.with_prefix("left.").merge(student.with_prefix("right."));
    assert_eq!(
        written(&both).unwrap_err(),
        "it holds several ViTs, under `left`, `right`, and none of them is named teacher"
    );
}

#[test]
fn one_network_is_never_taken_for_the_other() {
    let vit = vit();
    for (prefix, asked, found) in [
        ("teacher.backbone.", Which::Student, "teacher"),
        ("model.model_ema.", Which::Student, "teacher"),
        ("state_dict.student.", Which::Teacher, "student"),
    ] {
        let place = prefix.trim_end_matches('.');
        assert_eq!(
            written_as(&vit.with_prefix(prefix), asked).unwrap_err(),
            format!(
                "its ViT lies under `{place}` and is the {found}; give `--checkpoint-key {found}` to \
                 use it"
            )
        );
    }
    // Names that say nothing of it are both.
    for prefix in ["", "backbone.", "model.", "state_dict.module."] {
        for which in [Which::Teacher, Which::Student] {
            assert!(same(&written_as(&vit.with_prefix(prefix), which).unwrap().state, &vit));
        }
    }
}

#[test]
fn what_would_be_judged_wrongly_is_refused() {
    let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    for (name, expected) in [
        ("blocks.0.ls1.gamma", "its tensor `blocks.0.ls1.gamma` belongs to a ViT with LayerScale"),
        ("blocks.1.mlp.w12.weight", "belongs to a ViT with a gated MLP"),
        ("register_tokens", "belongs to a ViT with register tokens"),
        ("reg_token", "belongs to a ViT with register tokens"),
        ("fc_norm.weight", "belongs to a ViT with a norm of averaged tokens"),
        ("blocks.1.attn.rel_pos_h", "belongs to a ViT with relative positions"),
        ("blocks.0.attn.temperature", "its tensor `blocks.0.attn.temperature` is none of a plain"),
        ("blocks.3.norm2.weight", "its tensor `blocks.3.norm2.weight` is none of a plain"),
        ("adapter.weight", "its tensor `adapter.weight` is none of a plain"),
    ] {
        let mut state = vit();
        state.insert(name, ones(&[64]));
        let message = written(&state).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let without = |gone: &[&str]| -> StateDict {
        let kept = vit();
        let kept = kept.iter().filter(|(name, _)| !gone.contains(name));
        kept.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
    };
    for (gone, expected) in [
        (&["cls_token"][..], "the [CLS] token `cls_token` is missing"),
        (&["blocks.1.attn.qkv.bias"], "`blocks.1.attn.qkv.bias` is missing, which a ViT"),
        (&["norm.bias", "norm.weight"], "`norm.weight`, `norm.bias` are missing"),
        (&["pos_embed"], "`pos_embed` is missing"),
        (
            &["patch_embed.proj.weight"],
            "no `patch_embed.proj.weight`, so no ViT, but 29 tensors such as",
        ),
    ] {
        let message = written(&without(gone)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    for (name, shape, expected) in [
        ("norm.weight", vec![32], "`norm.weight` has the shape [32], but the model needs [64]"),
        ("patch_embed.proj.weight", vec![100, 3, 2, 2], "a width of whole heads of 64"),
        ("pos_embed", vec![1, 4, 64], "[1, 1 + side * side, width]"),
    ] {
        let mut state = vit();
        state.insert(name, ones(&shape));
        let message = written(&state).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let mut state = vit();
    state.insert("norm.bias", ones(&[64]) * f64::NAN);
    assert_eq!(
        written(&state).unwrap_err(),
        "its tensor `norm.bias` holds numbers that are not finite"
    );
    let wide = Vit::init(
        &VitConfig { width: 1280, depth: 1, heads: 20, mlp_ratio: 1, ..CONFIG },
        &mut stream(1, "", &[]),
    );
    assert!(written(&wide).unwrap_err().contains("its width of 1280"));
}

#[test]
fn more_names_than_a_vit_has_are_refused_before_their_values() {
    // All are one tensor, whose values are not even there.
    let mut pickle = b"\x80\x02}(".to_vec();
    let tensor =
        b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu\
        K\x01tQK\x00K\x01\x85K\x01\x85\x89NtRq\x00";
    pickle.extend(b"U\x17patch_embed.proj.weight");
    pickle.extend(tensor);
    for index in 0..10_000 {
        pickle.extend(format!("U\x05{index:05}h\x00").as_bytes());
    }
    pickle.extend(b"u.");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.pth");
    fs::write(&path, archive(&[("x/data.pkl", &pickle)])).unwrap();
    assert_eq!(
        read_encoder(&path, Which::Teacher).unwrap_err().to_string(),
        "it holds more than 966 tensors beside `patch_embed.proj.weight`, which no ViT has"
    );
}

#[test]
fn files_without_a_vit_say_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.safetensors");
    fs::write(&text, "not weights at all").unwrap();
    let message = |path: &Path| read_encoder(path, Which::Teacher).unwrap_err().to_string();
    assert_eq!(message(&text), "it is neither a safetensors file nor one of `torch.save`");
    fs::write(&text, "").unwrap();
    assert_eq!(message(&text), "it is neither a safetensors file nor one of `torch.save`");
    let cut = fs::read(fixture("dino_full.pth")).unwrap();
    fs::write(&text, &cut[..20_000]).unwrap();
    assert!(message(&text).contains("zip archive is damaged or cut off"), "{}", message(&text));
    assert!(
        message(&fixture("dtypes.pth")).ends_with("so no ViT, but a dictionary with `state_dict`")
    );
    assert!(
        message(&fixture("module.pth")).ends_with("is not unpacked here; save its `state_dict()`")
    );
    assert!(message(&fixture("malicious_root.pth")).contains("a Python object `posix.system`"));
}
