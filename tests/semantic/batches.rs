use std::collections::BTreeSet;

use dora_data::rng::stream;
use dora_eval::{
    images::{
        masks::{Mask, VOID},
        read_rgb,
    },
    semantic::{
        augment::{scaled_size, training_crop},
        batches::{make_batch, order},
    },
};
use rayon::ThreadPoolBuilder;
use tch::{Kind, Tensor};

use super::{made_set, recipe};

#[test]
fn batches_do_not_depend_on_threads() {
    let (_folder, dataset) = made_set();
    let recipe = recipe(&[]);
    let with = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| make_batch(&dataset, &recipe, 3).unwrap())
    };
    let (one, three) = (with(1), with(3));
    assert_eq!(one.images_NCHW, three.images_NCHW);
    assert_eq!(one.labels_NHW, three.labels_NHW);
    let other = make_batch(&dataset, &recipe, 4).unwrap();
    assert_ne!(one.images_NCHW, other.images_NCHW);
}

#[test]
fn an_epoch_sees_everything_once() {
    for epoch in 0..3 {
        let positions: Vec<u64> = (epoch * 7..(epoch + 1) * 7).collect();
        let seen: BTreeSet<u64> = order(5, &positions, 7).into_iter().collect();
        assert_eq!(seen, (0..7).collect());
    }
    let first: Vec<u64> = (0..14).collect();
    let all = order(5, &first, 7);
    assert_ne!(all[..7], all[7..]);
    assert_eq!(order(5, &[9], 7)[0], all[9]);
}

#[test]
fn images_fit_into_the_box() {
    let data = recipe(&["data.long_px=2048", "data.short_px=512"]).data;
    assert_eq!(scaled_size(480, 640, &data, 1.0), (512, 683));
    assert_eq!(scaled_size(640, 480, &data, 1.0), (683, 512));
    assert_eq!(scaled_size(100, 1000, &data, 1.0), (205, 2048));
    assert_eq!(scaled_size(480, 640, &data, 0.5), (256, 341));
    let as_is = recipe(&[]).data;
    assert_eq!(scaled_size(361, 480, &as_is, 1.0), (361, 480));
}

#[test]
fn crops_of_one_class_alone_are_drawn_anew() {
    let (height, width) = (16, 64);
    let label = |at: usize| if at % width < 48 { 0 } else { 1 + (at % 2) as u8 };
    let labels = Mask { width, height, labels: (0..width * height).map(label).collect() };
    let image_CHW = Tensor::zeros([3, 16, 64], (Kind::Uint8, tch::Device::Cpu));
    let mostly_one = |ratio: &str| {
        let recipe = recipe(&[
            "augment.scale_min=1.0",
            "augment.scale_max=1.0",
            "augment.crop_px=16",
            &format!("augment.cat_max_ratio={ratio}"),
        ]);
        let is_mostly_one = |seed: &u64| {
            let mut rng = stream(*seed, "crop", &[]);
            let (_, labels_HW) =
                training_crop(&image_CHW, &labels, &recipe.data, &recipe.augment, &mut rng);
            labels_HW.eq(0).sum(Kind::Int64).int64_value(&[]) >= 192
        };
        (0..200).filter(is_mostly_one).count()
    };
    // Three quarters of the places are too much of class 0; ten draws miss all others once in 18 times.
    let (as_drawn, chosen) = (mostly_one("1.0"), mostly_one("0.75"));
    assert!(as_drawn > 120 && chosen < 40, "{as_drawn} and {chosen} of 200");
}

#[test]
fn labels_follow_their_pixels_through_scale_crop_and_mirror() {
    let (_folder, dataset) = made_set();
    let recipe = recipe(&["augment.photometric=false", "augment.crop_px=96"]);
    let means = super::COLOURS.map(|colour| {
        let (mean, std) = dora_eval::images::MEAN_STD;
        [0, 1, 2].map(|c| (f64::from(colour[c]) / 255.0 - f64::from(mean[c])) / f64::from(std[c]))
    });
    let sample = &dataset.train[0];
    let (image_CHW, labels) = sample.read(&dataset.classes).unwrap();
    assert_eq!(image_CHW, read_rgb(&sample.image).unwrap());
    let mut voids = 0;
    for seed in 0..8 {
        let mut rng = stream(seed, "test", &[]);
        let (crop_CHW, labels_HW) =
            training_crop(&image_CHW, &labels, &recipe.data, &recipe.augment, &mut rng);
        assert_eq!(crop_CHW.size(), [3, 96, 96]);
        assert_eq!(labels_HW.size(), [96, 96]);
        let mut fits = 0;
        let labelled = labels_HW.not_equal(i64::from(VOID));
        for (class, mean) in (0..).zip(&means) {
            let mean = Tensor::from_slice(mean).reshape([3, 1, 1]);
            let distance = (&crop_CHW - mean).abs().amax([0i64].as_slice(), false);
            let is_class = labels_HW.eq(class);
            fits += distance.lt(0.02).logical_and(&is_class).sum(Kind::Int64).int64_value(&[]);
        }
        let all = labelled.sum(Kind::Int64).int64_value(&[]);
        // Bilinear pixels on borders of cells have mixed colours.
        assert!(fits as f64 > 0.85 * all as f64, "seed {seed}: {fits} of {all}");
        voids += 96 * 96 - all;
        // Beyond the image, pixels are 0.
        let outside = crop_CHW.abs().sum_dim_intlist([0i64].as_slice(), false, Kind::Float).eq(0.0);
        assert_eq!(outside.logical_and(&labelled).sum(Kind::Int64).int64_value(&[]), 0);
    }
    assert!(voids > 0);
}

#[test]
fn colours_change_and_stay_in_range() {
    let recipe = recipe(&["augment.scale_min=1.0", "augment.scale_max=1.0", "augment.flip=false"]);
    let image_CHW = Tensor::randint(256, [3, 64, 64], (Kind::Uint8, tch::Device::Cpu));
    let labels =
        Mask { width: 64, height: 64, labels: (0..64 * 64).map(|at| (at % 3) as u8).collect() };
    let crop = |seed: u64| {
        let mut rng = stream(seed, "test", &[]);
        training_crop(&image_CHW, &labels, &recipe.data, &recipe.augment, &mut rng).0
    };
    let (low, high) = (-0.485 / 0.229 - 1e-4, (1.0 - 0.406) / 0.225 + 1e-4);
    let plain = dora_eval::images::normalise(&image_CHW);
    let mut changed = 0;
    for seed in 0..12 {
        let crop_CHW = crop(seed);
        assert!(crop_CHW.min().double_value(&[]) > low && crop_CHW.max().double_value(&[]) < high);
        changed += usize::from((&crop_CHW - &plain).abs().max().double_value(&[]) > 0.05);
    }
    assert!(changed >= 8, "{changed} of 12");
}
