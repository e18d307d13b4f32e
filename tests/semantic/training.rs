use std::{fs, time::SystemTime};

use dora_eval::semantic::{
    batches::{Batch, make_batch},
    checkpoint::{self, Identity},
    dataset::Dataset,
    patches::PatchBank,
    recipe::Recipe,
    test::starts,
    train::Trainer,
};
use tch::{Device, Kind, Tensor, no_grad};
use tempfile::TempDir;

use super::{LINEAR, encoder, made_set, recipe};

fn train(trainer: &mut Trainer, dataset: &Dataset, recipe: &Recipe, to: u64) -> Vec<f64> {
    (trainer.iteration..to)
        .map(|iteration| {
            let batch = make_batch(dataset, recipe, iteration).unwrap();
            trainer.step_on_images(&batch).unwrap()
        })
        .collect()
}

fn values(trainer: &Trainer) -> Vec<(String, Vec<f32>)> {
    let dicts = trainer.state();
    let named = dicts.iter().flat_map(|(file, dict)| {
        dict.iter().map(move |(name, tensor)| {
            let values =
                Vec::try_from(tensor.detach().flatten(0, -1).to_kind(Kind::Float)).unwrap();
            (format!("{file} {name}"), values)
        })
    });
    named.collect()
}

#[test]
fn a_training_that_was_interrupted_goes_on_bit_for_bit() {
    let (_folder, dataset) = made_set();
    let encoder = encoder();
    let linear: Vec<&str> = LINEAR.to_vec();
    for changes in [vec!["train.drop_path=0.3"], linear] {
        let recipe = recipe(&changes);
        let fresh = || Trainer::new(&encoder, &recipe, dataset.classes.len()).unwrap();
        let mut whole = fresh();
        let losses = train(&mut whole, &dataset, &recipe, 4);

        let mut first = fresh();
        train(&mut first, &dataset, &recipe, 2);
        let folder = TempDir::new().unwrap();
        let identity = Identity {
            recipe: recipe.to_toml(),
            encoder: "random".into(),
            encoder_width: 192,
            encoder_digest: "x".into(),
            data_digest: "y".into(),
        };
        checkpoint::save(folder.path(), &first, &identity).unwrap();
        drop(first);
        let (path, state) = checkpoint::newest(folder.path()).unwrap().unwrap();
        assert_eq!((state.iteration, &state.identity), (2, &identity));
        let mut second = fresh();
        checkpoint::load(&path, &state, &mut second).unwrap();
        assert_eq!(train(&mut second, &dataset, &recipe, 4), losses[2..]);
        assert!(values(&second) == values(&whole), "{changes:?}");

        // A damaged file is found before anything is taken from it.
        let head = path.join("head.safetensors");
        let mut bytes = fs::read(&head).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&head, bytes).unwrap();
        let message = checkpoint::load(&path, &state, &mut fresh()).unwrap_err().to_string();
        assert!(message.contains("is damaged"), "{message}");
    }
}

#[test]
fn a_frozen_encoder_keeps_its_parameters_and_another_learns_from_the_first_patch_on() {
    let (_folder, dataset) = made_set();
    let encoder = encoder();
    let before = encoder.state.get("patch_embed.proj.weight").unwrap().copy();
    for (changes, learns) in [(LINEAR.to_vec(), false), (vec![], true)] {
        let recipe = recipe(&changes);
        let mut trainer = Trainer::new(&encoder, &recipe, dataset.classes.len()).unwrap();
        train(&mut trainer, &dataset, &recipe, 1);
        let [_, (_, backbone), _] = trainer.state();
        match backbone.get("patch_embed.proj.weight") {
            Ok(after) => assert!(learns && after != before),
            Err(_) => assert!(!learns),
        }
    }
    assert_eq!(encoder.state.get("patch_embed.proj.weight").unwrap(), before);
}

#[test]
fn void_pixels_count_in_the_mean_and_add_nothing() {
    let (_folder, dataset) = made_set();
    let encoder = encoder();
    let recipe = recipe(&LINEAR);
    let batch = make_batch(&dataset, &recipe, 0).unwrap();
    let rows = batch.labels_NHW.size()[1];
    let loss = |void_from: i64, void_rows: i64| {
        let labels_NHW = batch.labels_NHW.copy();
        let _ = labels_NHW.narrow(1, void_from, void_rows).fill_(255);
        let batch = Batch { images_NCHW: batch.images_NCHW.shallow_clone(), labels_NHW };
        let mut trainer = Trainer::new(&encoder, &recipe, dataset.classes.len()).unwrap();
        trainer.step_on_images(&batch).unwrap()
    };
    let [whole, above, below] = [loss(0, 0), loss(0, rows / 2), loss(rows / 2, rows / 2)];
    assert!(whole > 0.5 && (above + below - whole).abs() < 1e-5, "{above} + {below}, {whole}");
    assert_eq!(loss(0, rows), 0.0);
}

#[test]
fn transposed_convolutions_begin_as_in_pytorch() {
    let trainer = Trainer::new(&encoder(), &recipe(&[]), 3).unwrap();
    let [(_, head), ..] = trainer.state();
    let limit = 1.0 / (192.0 * 4.0_f64).sqrt();
    for name in ["neck.fpn1.0", "neck.fpn1.3", "neck.fpn2.0"] {
        for part in ["weight", "bias"] {
            let values = head.get(&format!("{name}.{part}")).unwrap().detach();
            let most = values.abs().max().double_value(&[]);
            assert!((0.9 * limit..=limit).contains(&most), "{name}.{part}: {most}");
            let std = values.std(true).double_value(&[]);
            assert!(
                (std * 12.0_f64.sqrt() / (2.0 * limit) - 1.0).abs() < 0.2,
                "{name}.{part}: {std}"
            );
        }
    }
}

#[test]
fn windows_cover_every_pixel_and_end_with_the_image() {
    assert_eq!(starts(512, 512, 341), [0]);
    assert_eq!(starts(100, 512, 341), [0]);
    assert_eq!(starts(5000, 0, 341), [0]);
    assert_eq!(starts(513, 512, 341), [0, 1]);
    assert_eq!(starts(683, 512, 341), [0, 171]);
    assert_eq!(starts(1200, 512, 341), [0, 341, 682, 688]);
}

#[test]
fn a_window_that_covers_the_image_is_the_whole_image() {
    let encoder = encoder();
    let image_CHW = Tensor::randint(256, [3, 70, 90], (Kind::Uint8, Device::Cpu));
    let predict = |changes: &[&str]| {
        let recipe = recipe(changes);
        let trainer = Trainer::new(&encoder, &recipe, 3).unwrap();
        no_grad(|| trainer.segmenter().predict(&image_CHW))
    };
    let whole = predict(&["test.window_px=0"]);
    assert_eq!(whole.size(), [70, 90]);
    assert_eq!(predict(&["test.window_px=96", "test.stride_px=60"]), whole);
    // Others see less around each pixel.
    assert_eq!(predict(&["test.window_px=48", "test.stride_px=32"]).size(), [70, 90]);
}

#[test]
fn logits_are_the_mean_of_all_windows_over_a_pixel() {
    let encoder = encoder();
    let recipe = recipe(&["test.window_px=48", "test.stride_px=32"]);
    let trainer = Trainer::new(&encoder, &recipe, 3).unwrap();
    let segmenter = trainer.segmenter();
    let image_1CHW = Tensor::rand([1, 3, 40, 90], (Kind::Float, Device::Cpu));
    let (sum, windows) = (Tensor::zeros([1, 3, 40, 90], (Kind::Float, Device::Cpu)), [0, 32, 42]);
    let count = Tensor::zeros([90], (Kind::Float, Device::Cpu));
    no_grad(|| {
        for left in windows {
            let logits = segmenter.logits(&image_1CHW.narrow(3, left, 48));
            let _ = sum.narrow(3, left, 48).g_add_(&logits);
            let _ = count.narrow(0, left, 48).g_add_scalar_(1.0);
        }
        let worst = (segmenter.slide(&image_1CHW) - sum / count).abs().max();
        assert!(worst.double_value(&[]) < 1e-6, "{worst}");
    });
}

#[test]
fn sizes_that_no_patch_divides_and_tiny_images_work() {
    let encoder = encoder();
    let kinds: [Vec<&str>; 2] = [LINEAR.to_vec(), vec![]];
    for changes in kinds {
        let trainer = Trainer::new(&encoder, &recipe(&changes), 3).unwrap();
        let segmenter = trainer.segmenter();
        for (rows, columns) in [(1, 1), (16, 16), (17, 40), (33, 5)] {
            let image_CHW = Tensor::zeros([3, rows, columns], (Kind::Uint8, Device::Cpu));
            let predicted = no_grad(|| segmenter.predict(&image_CHW));
            assert_eq!(predicted.size(), [rows, columns]);
        }
    }
}

#[test]
fn patches_of_a_set_are_kept_and_come_back_the_same() {
    let (folder, dataset) = made_set();
    let encoder = encoder();
    let mut changes = LINEAR.to_vec();
    changes.extend(["train.patches=16", "augment.flip=true"]);
    let recipe = recipe(&changes);
    let cache = TempDir::new().unwrap();
    let open =
        || PatchBank::open(&encoder, &dataset, &recipe, Some(cache.path()), || false).unwrap();
    let (first, images_per_s) = open();
    assert!(images_per_s.is_some());
    let (second, images_per_s) = open();
    assert!(images_per_s.is_none());
    let (a, b) = (first.batch(&recipe, 1, Device::Cpu), second.batch(&recipe, 1, Device::Cpu));
    assert_eq!(a.features_BX, b.features_BX);
    assert_eq!(a.shares_BC, b.shares_BC);
    // A patch has at most one pixel for each pixel, less where the void column passes.
    let sums = a.shares_BC.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    assert!(sums.max().double_value(&[]) <= 1.001 && sums.min().double_value(&[]) > 0.9);

    // A file that has changed is not believed.
    let file = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(open().1.is_some());

    // Nor is a file of images that may have changed since.
    let image = fs::File::options().append(true).open(&dataset.train[0].image).unwrap();
    image.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let changed = Dataset::open(folder.path(), &recipe.data).unwrap();
    let opened = PatchBank::open(&encoder, &changed, &recipe, Some(cache.path()), || false);
    assert!(opened.unwrap().1.is_some());
}
