//! What the renderer and its folder promise.

use super::labels::{self, Depth};
use super::*;
use std::collections::{BTreeMap, BTreeSet};

const WIDTH: usize = 160;
const HEIGHT: usize = 90;

/// The pictures of `times_s`, drawn by `threads` threads in one world.
fn render_on(threads: usize, seed: u64, times_s: &[f32]) -> Vec<Frame> {
    use rayon::prelude::*;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let world = World::new(seed);
        times_s.par_iter().map(|&t| world.render(t, WIDTH, HEIGHT)).collect()
    })
}

fn share(frame: &Frame, class: Class) -> f64 {
    let count = frame.classes.iter().filter(|&&c| c == class as u8).count();
    count as f64 / frame.classes.len() as f64
}

#[test]
fn same_seed_gives_same_bytes_on_any_number_of_threads() {
    let times = [0.0, 3.1, 17.0, 42.0];
    let one = render_on(1, 5, &times);
    let mut backwards = render_on(2, 5, &[42.0, 17.0, 3.1, 0.0]);
    backwards.reverse();
    assert!(one == backwards, "pictures depend on threads or on what was drawn before");
    let other = render_on(2, 6, &times);
    assert!(one.iter().zip(&other).all(|(a, b)| a.bgr != b.bgr && a.classes != b.classes));
}

#[test]
fn an_instance_keeps_its_class_through_the_walk() {
    let times: Vec<f32> = (0..40).map(|k| 1.5 * k as f32).collect();
    let mut class_of: BTreeMap<u16, u8> = BTreeMap::new();
    for frame in render_on(2, 0, &times) {
        for (&id, &class) in frame.instance_ids.iter().zip(&frame.classes) {
            let stuff =
                [Class::Road as u8, Class::Pavement as u8, Class::Sky as u8].contains(&class);
            assert_eq!(id == 0, stuff, "only ground and sky have no instance");
            if id > 0 {
                assert_eq!(
                    *class_of.entry(id).or_insert(class),
                    class,
                    "instance {id} changed class"
                );
            }
        }
    }
    assert!(class_of.len() > 100, "a street has many things, found {}", class_of.len());
}

#[test]
fn the_street_is_full_of_things_to_find() {
    for seed in [0, 1] {
        let times: Vec<f32> = (0..60).map(|k| k as f32).collect();
        let frames = render_on(2, seed, &times);
        let mean =
            |class| frames.iter().map(|f| share(f, class)).sum::<f64>() / frames.len() as f64;
        for (class, low, high) in [
            (Class::Road, 0.03, 0.35),
            (Class::Pavement, 0.08, 0.45),
            (Class::Building, 0.15, 0.60),
            (Class::Tree, 0.02, 0.30),
            (Class::Car, 0.02, 0.25),
            (Class::Person, 0.01, 0.20),
            (Class::Sky, 0.005, 0.35),
            (Class::Furniture, 0.002, 0.15),
        ] {
            let mean = mean(class);
            assert!((low..high).contains(&mean), "seed {seed}: {class:?} fills {mean:.3}");
        }
        for class in [Class::Person, Class::Car, Class::Tree] {
            let present = frames.iter().filter(|f| share(f, class) > 0.002).count();
            assert!(
                present * 10 > frames.len() * 8,
                "seed {seed}: {class:?} in {present} of 60 frames"
            );
        }
    }
}

#[test]
fn the_picture_flows() {
    let times: Vec<f32> =
        (0..24).map(|k| 0.5 * (k / 2) as f32 * 5.0 + (k % 2) as f32 / 30.0).collect();
    let frames = render_on(2, 0, &times);
    let difference = |a: &Frame, b: &Frame| {
        let sum: u64 = a.bgr.iter().zip(&b.bgr).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / a.bgr.len() as f64
    };
    for pair in frames.chunks(2) {
        let neighbours = difference(&pair[0], &pair[1]);
        assert!((0.2..14.0).contains(&neighbours), "neighbouring frames differ by {neighbours:.2}");
        let agree = pair[0].classes.iter().zip(&pair[1].classes).filter(|(a, b)| a == b).count();
        assert!(agree * 10 > pair[0].classes.len() * 8, "labels jump: {agree} pixels agree");
    }
    let apart = difference(&frames[0], &frames[8]);
    assert!(apart > 15.0, "ten seconds on, the picture differs by {apart:.2} only");
}

#[test]
fn light_changes_but_never_goes_out() {
    let times: Vec<f32> = (0..30).map(|k| 2.0 * k as f32).collect();
    let levels: Vec<f64> = render_on(2, 0, &times)
        .iter()
        .map(|f| f.bgr.iter().map(|&c| f64::from(c)).sum::<f64>() / f.bgr.len() as f64)
        .collect();
    let (low, high) =
        (levels.iter().copied().fold(255.0, f64::min), levels.iter().copied().fold(0.0, f64::max));
    assert!(
        low > 45.0 && high < 205.0 && high - low > 12.0,
        "mean level runs from {low:.0} to {high:.0}"
    );
}

#[test]
fn palette_png_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let frame =
        Frame { width_px: 16, height_px: 4, bgr: vec![], instance_ids: vec![], classes: vec![] };
    let indices: Vec<u8> = (0..64).collect();
    let palette = labels::davis_palette();
    assert_eq!(palette[..15], [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]);
    assert_eq!(palette[3 * 8..3 * 9], [64, 0, 0]);
    labels::write_png(&path, &frame, Depth::Palette(&palette), &indices).unwrap();

    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    assert_eq!(reader.info().color_type, png::ColorType::Indexed);
    assert_eq!(reader.info().palette.as_deref(), Some(palette.as_slice()));
    let mut back = vec![0; 64];
    reader.next_frame(&mut back).unwrap();
    assert_eq!(back, indices);
}

fn small(out: PathBuf) -> Args {
    Args { out, seed: 3, seconds: 6.0, width: 96, height: 64, fps: 5.0 }
}

fn count(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn the_folder_holds_every_frame_and_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("walk");
    // A killed run's leavings do no harm and go away.
    std::fs::create_dir_all(folder.path().join(".walk.rendering/davis")).unwrap();
    let args = small(out.clone());
    let mp4 = run(&args).unwrap();
    assert_eq!(mp4, out.join("toy_walk.mp4"));
    assert_eq!(film::frame_count(&mp4).unwrap(), 30);
    assert_eq!(count(folder.path()), 1, "nothing but the walk is left");
    assert_eq!(count(&out.join("labels/classes")), 30);
    assert_eq!(count(&out.join("labels/instances")), 30);

    // Masks on disk are those that the renderer gives, and objects are those of the first frame.
    let world = World::new(3);
    let listed = std::fs::read_to_string(out.join("davis/ImageSets/2017/val.txt")).unwrap();
    assert!(listed.lines().count() > 0);
    for (number, (start, length)) in [(0_usize, 25_usize), (25, 5)].into_iter().enumerate() {
        let name = format!("toy_walk_{number:02}");
        let images = out.join("davis/JPEGImages/480p").join(&name);
        let masks = out.join("davis/Annotations/480p").join(&name);
        assert_eq!((count(&images), count(&masks)), (length, length));
        let first = world.render(start as f32 / 5.0, 96, 64);
        let mask = image_bytes(&masks.join("00000.png"));
        let objects: BTreeSet<u8> = mask.iter().copied().filter(|&i| i > 0).collect();
        assert_eq!(listed.lines().any(|line| line == name), !objects.is_empty());
        assert!(objects.len() <= 8 && objects.iter().copied().eq(1..=objects.len() as u8));
        for object in objects {
            let ids: BTreeSet<(u16, u8)> = (0..mask.len())
                .filter(|&k| mask[k] == object)
                .map(|k| (first.instance_ids[k], first.classes[k]))
                .collect();
            assert_eq!(ids.len(), 1, "object {object} is one thing");
            assert!(ids.iter().all(|(_, class)| [3, 4, 5].contains(class)));
        }
    }
    assert_eq!(
        image_bytes(&out.join("labels/classes/00012.png")),
        world.render(12.0 / 5.0, 96, 64).classes
    );

    // Every third frame; 70 % train, a gap, 25 % val.
    let trains = count(&out.join("semantic/train"));
    let vals = count(&out.join("semantic/val"));
    assert_eq!((trains, vals), (7, 2));
    assert_eq!(
        (count(&out.join("semantic/trainannot")), count(&out.join("semantic/valannot"))),
        (7, 2)
    );

    // Two at once take turns, and the second finds the work done.
    let both = small(folder.path().join("both"));
    std::thread::scope(|scope| {
        let runs = [scope.spawn(|| run(&both)), scope.spawn(|| run(&both))];
        runs.into_iter().for_each(|run| assert!(run.join().unwrap().is_ok()));
    });
    assert_eq!(film::frame_count(&both.out.join("toy_walk.mp4")).unwrap(), 30);

    // The same again does nothing; other options make it anew.
    let made = std::fs::metadata(&mp4).unwrap().modified().unwrap();
    run(&args).unwrap();
    assert_eq!(std::fs::metadata(&mp4).unwrap().modified().unwrap(), made);
    run(&Args { seconds: 2.0, ..args }).unwrap();
    assert_eq!(film::frame_count(&mp4).unwrap(), 10);
}

fn image_bytes(path: &std::path::Path) -> Vec<u8> {
    let mut decoder =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut data).unwrap();
    data
}

#[test]
fn what_cannot_be_rendered_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("walk");
    let good = small(out.clone());
    let cases = [
        (Args { seconds: 0.0, ..good.clone() }, "`--seconds 0` is not between 1 and 3600"),
        (Args { seconds: f64::NAN, ..good.clone() }, "`--seconds NaN` is not between 1 and 3600"),
        (Args { fps: 1000.0, ..good.clone() }, "`--fps 1000` is not between 1 and 120"),
        (
            Args { width: 97, ..good.clone() },
            "`--width 97` is not an even number between 64 and 3840",
        ),
        (
            Args { height: 0, ..good.clone() },
            "`--height 0` is not an even number between 64 and 2160",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(run(&args).unwrap_err().to_string(), message);
    }
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("thesis.txt"), "years of work").unwrap();
    let message = run(&good).unwrap_err().to_string();
    assert!(message.contains("holds something other than a toy walk"), "{message}");
    assert_eq!(std::fs::read_to_string(out.join("thesis.txt")).unwrap(), "years of work");
    let message = run(&Args { out: out.join("thesis.txt"), ..good }).unwrap_err().to_string();
    assert!(message.contains("is a file"), "{message}");
}
