//! `dora-eval discovery` as users start it.

use std::{fs, path::Path, process::Command};

use dora_eval::discovery::data::{DataArgs, DataSet};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::workbench::{self, check_parts, dora_eval, path, read_json, refusal, succeed};

const WIDTH: u32 = 100;
const HEIGHT: u32 = 70;

/// A bright rectangle on stripes, another one in every image.
fn write_image(path: &Path, index: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let is_object = (20..60).contains(&x) && (16..50).contains(&y);
        if is_object {
            Rgb([250, 200 - 10 * index as u8, 40])
        } else {
            Rgb([(x * 3 % 97) as u8, (y * 5 % 89) as u8, 60])
        }
    });
    image.save(path).unwrap();
}

/// The label on the rectangle, whatever the size.
fn write_mask(path: &Path, size: (u32, u32), label: u8) {
    let is_object = |x, y| (20..60).contains(&x) && (16..50).contains(&y);
    let size = (size.0 as usize, size.1 as usize);
    workbench::write_mask(path, size, |x, y| if is_object(x, y) { label } else { 0 });
}

fn annotation(objects: &[(&str, u8, [u32; 4])]) -> String {
    let objects: String = objects
        .iter()
        .map(|(class, difficult, [x0, y0, x1, y1])| {
            format!(
                "<object><name>{class}</name><truncated>0</truncated><difficult>{difficult}</difficult>\
                 <bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>\
                 </object>"
            )
        })
        .collect();
    format!("<annotation><folder>VOC</folder>{objects}</annotation>")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Three images; the third has a difficult object alone, the first one a mask.
fn write_voc(root: &Path) {
    for index in 0..3 {
        write_image(&root.join(format!("JPEGImages/00000{index}.jpg")), index);
    }
    let person = ("person", 0, [21, 17, 60, 50]);
    let car = ("car", 0, [1, 1, 10, 10]);
    let far = ("car", 1, [90, 60, 100, 70]);
    write(&root.join("Annotations/000000.xml"), &annotation(&[person, car]));
    write(&root.join("Annotations/000001.xml"), &annotation(&[person]));
    write(&root.join("Annotations/000002.xml"), &annotation(&[far]));
    write_mask(&root.join("SegmentationClass/000000.png"), (WIDTH, HEIGHT), 15);
    write(&root.join("ImageSets/Main/trainval.txt"), "000000\n000001\n000002\n");
    write(&root.join("ImageSets/Main/none.txt"), "\n");
}

fn discovery(words: &[&str], threads: &str) -> Command {
    let mut command =
        dora_eval(&["discovery", "--random-init", "--arch", "vit_tiny", "--device", "cpu"]);
    command.args(words).env("OMP_NUM_THREADS", threads);
    command
}

#[track_caller]
fn figures(words: &[&str], threads: &str, json: &str) -> Value {
    succeed(discovery(words, threads).args(["--json", json]));
    read_json(json)
}

#[track_caller]
fn refused(words: &[&str], expected: &str) {
    let said = refusal(&mut discovery(words, "2"));
    assert!(said.starts_with("error:") && said.contains(expected), "{expected} is not in: {said}");
}

/// Words as `discovery` takes them, but only the data set is read: no process for each.
#[track_caller]
fn unreadable(words: &[&str], expected: &[&str]) {
    let value = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    let args = DataArgs {
        root: Path::new(value("--data").unwrap()),
        set: value("--set"),
        boxes: value("--boxes").map(Path::new),
        no_hard: false,
        every: 1,
    };
    let said = DataSet::read(&args).unwrap_err().to_string();
    check_parts(&said, expected);
}

#[test]
fn voc_gives_figures_boxes_and_pictures_whatever_the_threads() {
    let folder = TempDir::new().unwrap();
    let (root, out, json) = (path(&folder, "VOC"), path(&folder, "out"), path(&folder, "a.json"));
    write_voc(Path::new(&root));
    let words = ["--data", &root, "--out", &out, "--pictures", "2"];
    let mut one = figures(&words, "1", &json);
    let boxes = read_json(format!("{out}/boxes.json"));
    let mut two = figures(&words, "2", &json);
    let again = read_json(format!("{out}/boxes.json"));
    assert_eq!(boxes, again);
    for figures in [&mut one, &mut two] {
        assert!(figures["images_per_s"].as_f64().unwrap() > 0.0);
        for speed in ["images_per_s", "matrix_flops_per_s", "share_of_matrix_rate"] {
            figures[speed] = Value::Null;
        }
    }
    assert_eq!(one, two);
    assert_eq!((one["images"].as_u64(), one["masked_images"].as_u64()), (Some(3), Some(1)));
    assert_eq!(one["per_class"]["car"]["images"], json!(2));
    assert_eq!(one["per_class"]["person"]["images"], json!(2));
    assert_eq!(one["per_head"].as_array().unwrap().len(), 3);
    let jaccard = one["Jaccard"].as_f64().unwrap();
    assert_eq!(one["per_class"]["person"]["Jaccard"].as_f64(), Some(jaccard));
    assert!((0.0..=1.0).contains(&jaccard) && jaccard > 0.0);
    // An image is not of whole patches: boxes end where it does.
    for name in ["000000", "000001", "000002"] {
        let sides: [f64; 4] = serde_json::from_value(boxes[name][0].clone()).unwrap();
        assert!(sides[2] <= f64::from(WIDTH) && sides[3] <= f64::from(HEIGHT), "{sides:?}");
    }
    for name in ["000000", "000002"] {
        let picture = image::open(format!("{out}/{name}.png")).unwrap();
        assert_eq!((picture.width(), picture.height()), (2 * WIDTH + 4, HEIGHT));
    }
    assert!(!Path::new(&format!("{out}/000001.png")).exists());

    let scores = figures(&["--data", &root, "--no-hard"], "2", &json);
    assert_eq!(scores["images"], json!(2));
    assert_eq!(scores["images_without_objects"], json!(1));
    assert_eq!(scores["per_class"]["car"]["images"], json!(1));
}

#[test]
fn boxes_that_were_found_are_found_again() {
    let folder = TempDir::new().unwrap();
    let (root, json) = (path(&folder, "images"), path(&folder, "a.json"));
    for index in 0..3 {
        write_image(Path::new(&format!("{root}/sub/{index}.png")), index);
    }
    let anywhere = json!({
        "sub/0.png": [[0, 0, 3, 3]], "sub/1.png": [[0, 0, 3, 3.5]], "./sub/2.png": [[0, 0, 3, 3]],
    });
    let boxes = path(&folder, "boxes.json");
    write(Path::new(&boxes), &anywhere.to_string());
    let out = path(&folder, "out");
    let words = ["--data", &root, "--short-side", "96", "--out", &out];
    let first = figures(&[&words[..], &["--boxes", &boxes]].concat(), "2", &json);
    assert_eq!(first["CorLoc"], json!(0.0));
    assert_eq!(first.get("Jaccard"), None);
    let found = path(&folder, "found.json");
    fs::copy(format!("{out}/boxes.json"), &found).unwrap();
    let second = figures(&[&words[..], &["--boxes", &found]].concat(), "2", &json);
    assert_eq!(second["CorLoc"], json!(1.0));
}

#[test]
fn davis_gives_boxes_by_masks() {
    let folder = TempDir::new().unwrap();
    let (root, json) = (path(&folder, "davis"), path(&folder, "a.json"));
    let at = |kind: &str, frame: u32, end: &str| {
        folder.path().join(format!("davis/{kind}/480p/walk/{frame:05}.{end}"))
    };
    for frame in 0..7 {
        write_image(&at("JPEGImages", frame, "jpg"), frame);
        // Nothing is there at the end.
        write_mask(&at("Annotations", frame, "png"), (WIDTH, HEIGHT), u8::from(frame < 6));
    }
    write(Path::new(&format!("{root}/ImageSets/2017/val.txt")), "walk\n");
    let scores = figures(&["--data", &root, "--every", "3"], "2", &json);
    assert_eq!((&scores["images"], &scores["images_without_objects"]), (&json!(2), &json!(1)));
    assert!(scores["Jaccard"].as_f64().unwrap() > 0.0);
    assert_eq!(scores.get("per_class"), None);

    write_mask(&at("Annotations", 1, "png"), (WIDTH, HEIGHT - 1), 1);
    unreadable(&["--data", &root], &["00001.png has 100x69 px", "its frames have 100x70"]);
    fs::remove_file(at("Annotations", 1, "png")).unwrap();
    unreadable(&["--data", &root], &["00001.png is missing"]);
    fs::copy(at("JPEGImages", 1, "jpg"), at("Annotations", 1, "png")).unwrap();
    unreadable(&["--data", &root], &["cannot read", "00001.png"]);
    RgbImage::new(WIDTH, HEIGHT).save(at("Annotations", 1, "png")).unwrap();
    unreadable(&["--data", &root], &["expected a palette or grey PNG"]);
    unreadable(&["--data", &root, "--set", "test"], &["there is no split `test`", "it has val"]);
}

#[test]
fn labels_of_davis_mean_what_they_do_elsewhere() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("davis");
    let mask = |frame: u32| data.join(format!("Annotations/480p/walk/{frame:05}.png"));
    for frame in 0..3 {
        write_image(&data.join(format!("JPEGImages/480p/walk/{frame:05}.jpg")), frame);
        write_mask(&mask(frame), (WIDTH, HEIGHT), if frame < 2 { 255 } else { 0 });
    }
    let root = data.to_str().unwrap();
    let read = |set| {
        let args = DataArgs { root: &data, set: Some(set), boxes: None, no_hard: false, every: 1 };
        DataSet::read(&args).unwrap()
    };
    // Of 0 and 255 alone, as DAVIS was at first, with lists of files.
    let line = |frame| {
        format!("/JPEGImages/480p/walk/0000{frame}.jpg /Annotations/480p/walk/0000{frame}.png\n")
    };
    write(&data.join("ImageSets/480p/val.txt"), &(0..3).map(line).collect::<String>());
    let found = read("val");
    assert_eq!((found.examples.len(), found.without_objects), (2, 1));
    for example in &found.examples {
        let bounds: Vec<[f64; 4]> = example.objects.iter().map(|o| o.bounds.into()).collect();
        assert_eq!(bounds, [[20.0, 16.0, 60.0, 50.0]]);
        let labels = example.mask.as_ref().unwrap().read().unwrap().labels;
        assert_eq!(labels.iter().map(|label| u32::from(*label)).sum::<u32>(), 40 * 34);
    }
    // The year 2016 knows one object, whatever its parts are; others know each.
    let parts: Vec<u8> =
        (0..WIDTH * HEIGHT).map(|at| [0, 1, 4, 255][at as usize / 10 % 4]).collect();
    let size = (WIDTH as usize, HEIGHT as usize);
    (0..3).for_each(|frame| {
        workbench::write_mask(&mask(frame), size, |x, y| parts[y * size.0 + x]);
    });
    for (year, set, objects) in [("2016", "one", 1), ("2017", "each", 2)] {
        write(&data.join(format!("ImageSets/{year}/{set}.txt")), "walk\n");
        assert!(read(set).examples.iter().all(|example| example.objects.len() == objects));
    }
    write(&data.join("ImageSets/2017/out.txt"), "../walk/../0.jpg\n");
    unreadable(&["--data", root, "--set", "out"], &["out.txt has the line `../walk/../0.jpg`"]);
}

#[test]
fn a_wrong_input_gets_one_sentence() {
    let folder = TempDir::new().unwrap();
    let root = path(&folder, "VOC");
    write_voc(Path::new(&root));
    let empty = path(&folder, "empty");
    fs::create_dir(&empty).unwrap();
    unreadable(&["--data", &empty], &["neither as VOC", "nor as DAVIS", "nothing was found"]);
    unreadable(&["--data", &path(&folder, "no")], &["is no folder"]);
    unreadable(&["--data", &root, "--set", "nope"], &["nope.txt does not exist", "none, trainval"]);
    unreadable(&["--data", &root, "--set", "none"], &["none.txt is empty"]);
    refused(&["--data", &empty], "neither as VOC");
    refused(&["--data", &root, "--pictures", "1"], "--out");
    refused(&["--data", &root, "--json", &format!("{empty}/no/a.json")], "--json");

    write(Path::new(&format!("{root}/ImageSets/Main/one.txt")), "../escape\n");
    unreadable(&["--data", &root, "--set", "one"], &["`../escape`", "no name of an image"]);
    write(Path::new(&format!("{root}/ImageSets/Main/one.txt")), "000009\n");
    unreadable(&["--data", &root, "--set", "one"], &["000009.xml does not exist", "one.txt"]);

    let boxes = path(&folder, "boxes.json");
    let with_boxes = ["--data", &root, "--boxes", &boxes];
    for (text, expected) in [
        ("[1]", "is no map from images"),
        ("{\"JPEGImages/000000.jpg\": [[1, 2, 3]]}", "is no map from images"),
        ("{\"JPEGImages/000000.jpg\": [[5, 5, 5, 9]]}", "holds nothing"),
        ("{\"../x.jpg\": []}", "is not below"),
        ("{\"x.jpg\": []}", "does not exist"),
        ("{}", "no image with an object"),
        ("{\"JPEGImages/000000.jpg\": []}", "no image with an object"),
    ] {
        write(Path::new(&boxes), text);
        unreadable(&with_boxes, &[expected]);
    }
    let image = format!("{root}/JPEGImages/000001.jpg");
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() / 3]).unwrap();
    refused(&["--data", &root], "000001.jpg");
}

#[test]
fn an_annotation_is_never_believed() {
    let folder = TempDir::new().unwrap();
    let root = path(&folder, "VOC");
    write_voc(Path::new(&root));
    let deep = "<annotation>".to_owned() + &"<object>".repeat(150_000);
    let wide = format!("<annotation>{}</annotation>", "<object/>".repeat(150_000));
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbbbbbb\"><!ENTITY c \"&b;&b;&b;&b;\">]>
        <annotation><object><name>&c;</name></object></annotation>";
    let outside =
        "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><annotation>&b;</annotation>";
    let with_box =
        |sides: &str| format!("<annotation><object><bndbox>{sides}</bndbox></object></annotation>");
    for (text, expected) in [
        ("", "is no annotation of VOC"),
        ("<annotation><object>", "is no annotation of VOC"),
        ("<html/>", "holds <html>"),
        (bomb, "DTD"),
        (outside, "DTD"),
        (&deep, "is no annotation of VOC"),
        (&wide, "is no annotation of VOC"),
        (&"<annotation>".repeat(500_000), "are the most"),
        ("<annotation><object/></annotation>", "object 1 has no <bndbox>"),
        (&with_box(""), "has no <xmin>"),
        (&with_box("<xmin>a</xmin>"), "has `a` as its <xmin>"),
        (&with_box("<xmin>5</xmin><ymin>1</ymin><xmax>2</xmax><ymax>NaN</ymax>"), "holds nothing"),
    ] {
        write(Path::new(&format!("{root}/Annotations/000001.xml")), text);
        unreadable(&["--data", &root], &["000001.xml", expected]);
    }
    // Parts of an object have boxes of their own, sides may have fractions.
    let person = "<annotation><object><name>person</name>
        <part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>
        <bndbox><xmax>40.5</xmax><xmin> 1 </xmin><ymin>3</ymin><ymax>7</ymax></bndbox></object></annotation>";
    write(Path::new(&format!("{root}/Annotations/000001.xml")), person);
    let scores = figures(&["--data", &root], "2", &path(&folder, "a.json"));
    assert_eq!(scores["per_class"]["person"]["images"], json!(2));
}
