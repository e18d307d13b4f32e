//! Files of `torch.save`: what they hold is read right, and nothing that they say does harm.

use std::{fs, io::Cursor};

use dora_model::pth::{PthError, PthFile};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::{fixture, ramp};

type Read = Vec<(String, Result<Tensor, PthError>)>;

/// Every tensor of a file under its keys, joined by slashes.
fn read(bytes: Vec<u8>) -> Result<Read, PthError> {
    let mut file = PthFile::new(Cursor::new(bytes))?;
    let stored: Vec<_> = file
        .dicts()
        .iter()
        .flat_map(|dict| {
            let path = dict.path.join("/");
            dict.tensors
                .iter()
                .map(move |tensor| (format!("{path}/{}", tensor.name), tensor.clone()))
        })
        .collect();
    Ok(stored.into_iter().map(|(name, tensor)| (name, file.read(&tensor))).collect())
}

fn read_fixture(name: &str) -> Read {
    read(fs::read(fixture(name)).unwrap()).unwrap()
}

fn get<'a>(read: &'a Read, name: &str) -> &'a Tensor {
    let (_, tensor) = read.iter().find(|(found, _)| found == name).unwrap();
    tensor.as_ref().unwrap()
}

#[track_caller]
fn check(tensor: &Tensor, shape: &[i64], expected: impl Fn(i64) -> f64) {
    assert_eq!(tensor.size(), shape);
    let values: Vec<f64> = tensor.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap();
    let expected: Vec<f64> = (0..values.len() as i64).map(expected).collect();
    assert_eq!(values, expected);
}

#[test]
fn views_have_their_own_values() {
    let read = read_fixture("views.pth");
    let at = |row: i64, column: i64| ramp(6 * row + column);
    check(get(&read, "/whole"), &[4, 6], |i| at(i / 6, i % 6));
    check(get(&read, "/transposed"), &[6, 4], |i| at(i % 4, i / 4));
    check(get(&read, "/column"), &[4], |i| at(i, 2));
    check(get(&read, "/inner"), &[2, 3], |i| at(1 + i / 3, 2 + i % 3));
    check(get(&read, "/steps"), &[5], |i| ramp(1 + 5 * i));
    check(get(&read, "/scalar"), &[], |_| 2.5);
    check(get(&read, "/parameter"), &[6], |i| at(0, i));
    for (name, fault) in [("/expanded", "names a value more than once"), ("/empty", "is empty")] {
        let (_, refused) = read.iter().find(|(found, _)| found == name).unwrap();
        let message = refused.as_ref().unwrap_err().to_string();
        assert!(message.contains(fault), "{message}");
    }
}

#[test]
fn every_floating_dtype_protocol_and_container_reads_the_same() {
    for (name, path) in [
        ("dtypes.pth", "state_dict"),
        ("protocol3.pth", ""),
        ("protocol4.pth", ""),
        ("protocol5.pth", ""),
        ("legacy.pth", "model"),
    ] {
        let read = read_fixture(name);
        assert_eq!(read.len(), 5, "{name}");
        for (dtype, kind) in [
            ("float16", Kind::Half),
            ("bfloat16", Kind::BFloat16),
            ("float32", Kind::Float),
            ("float64", Kind::Double),
        ] {
            let tensor = get(&read, &format!("{path}/{dtype}"));
            assert_eq!(tensor.kind(), kind, "{name}");
            check(tensor, &[2, 3], ramp);
        }
        let (_, refused) = &read[4];
        let message = refused.as_ref().unwrap_err().to_string();
        assert_eq!(message, "its tensor `int64` holds long values, not floating point");
    }
}

#[test]
fn a_checkpoint_of_dino_is_seen_whole() {
    let read = read_fixture("dino_full.pth");
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "student/module.backbone.cls_token",
        "teacher/backbone.blocks.1.mlp.fc2.bias",
        "dino_loss/center",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    // Keys of the optimiser's states are numbers, so that they have no names.
    assert_eq!(read.len(), 30 + 30 + 2 + 1);
    check(get(&read, "teacher/head.mlp.0.weight"), &[2, 4], ramp);
    check(get(&read, "teacher/head.last_layer.weight_g"), &[2], ramp);
    check(get(&read, "teacher/backbone.pos_embed"), &[1, 5, 64], |i| ramp(1 + i));
    check(get(&read, "student/module.backbone.pos_embed"), &[1, 5, 64], |i| ramp(4 + i));
}

#[test]
fn what_a_file_would_run_is_not_run() {
    let trace = std::path::Path::new("pth-was-executed");
    let read = read_fixture("malicious.pth");
    check(get(&read, "/a"), &[3], ramp);
    assert_eq!(read.len(), 1);
    let file = PthFile::open(&fixture("malicious_root.pth")).unwrap();
    assert!(file.dicts().is_empty());
    assert!(file.top_level().starts_with("a Python object `posix.system`"), "{}", file.top_level());
    let file = PthFile::open(&fixture("module.pth")).unwrap();
    assert!(file.top_level().contains("`torch.nn.modules.linear.Linear`"), "{}", file.top_level());
    assert!(!trace.exists());
}

#[test]
fn what_is_no_file_of_torch_is_named() {
    for (bytes, expected) in [
        (vec![], "no file of `torch.save`"),
        (b"\x93NUMPY and more bytes".to_vec(), "no file of `torch.save`"),
        (b"PK\x03\x04".to_vec(), "zip archive is damaged or cut off"),
        (archive(&[("x/other.txt", b"a")]), "no pickle of values"),
        (archive(&[("x/data.pkl", b"")]), "cut off after 0 bytes"),
        (archive(&[("x/data.pkl", b"\x80\x02cos\nsystem\nI1\n.")]), "opcode 0x49 at byte 13"),
        (archive(&[("x/data.pkl", b"\x80\x02h\x05.")]), "damaged at byte 2"),
        (archive(&[("x/data.pkl", b"}."), ("x/byteorder", b"big")]), "other byte order"),
        (archive(&[("x/data.pkl", b"}."), ("x/constants.pkl", b")")]), "program of `torch.jit`"),
        (fs::read(fixture("packed.pth")).unwrap(), "compressed or encrypted"),
    ] {
        let message = read(bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

/// A tensor of 4 float32 values, described by 8-byte numbers.
fn described(offset: i64, sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    pickle.extend(b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ");
    let number = |value: i64| [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat();
    pickle.extend(number(offset));
    for numbers in [sizes, strides] {
        pickle.push(b'(');
        numbers.iter().for_each(|value| pickle.extend(number(*value)));
        pickle.push(b't');
    }
    pickle.extend(b"\x89NtRs.");
    archive(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 16])])
}

#[test]
fn no_tensor_is_larger_than_its_values_in_the_file() {
    let tensor = |bytes| read(bytes).unwrap().remove(0).1;
    assert_eq!(tensor(described(1, &[3], &[1])).unwrap().size(), [3]);
    const HUGE: i64 = i64::MAX;
    for (offset, sizes, strides) in [
        (2, vec![3], vec![1]),
        (HUGE, vec![1], vec![1]),
        (-1, vec![1], vec![1]),
        (0, vec![HUGE], vec![1]),
        (0, vec![HUGE, HUGE], vec![0, 0]),
        (0, vec![1 << 40], vec![0]),
        (0, vec![2, 2], vec![HUGE, 1]),
        (0, vec![0, HUGE], vec![1, 1]),
        (0, vec![-1], vec![1]),
        (0, vec![2], vec![-1]),
        (0, vec![2], vec![]),
        (0, vec![1; 20], vec![1; 20]),
    ] {
        assert!(tensor(described(offset, &sizes, &strides)).is_err(), "{offset} {sizes:?}");
    }
}

#[test]
fn tensors_share_values_within_reason() {
    // 40 names for the same values, in a file that is little longer than they are.
    let mut pickle = b"\x80\x02}(".to_vec();
    for index in 0..40_u8 {
        pickle.extend(b"U\x01");
        pickle.push(b'0' + index);
        if index == 0 {
            pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
            pickle.extend(b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuM\x00\x40tQ");
            pickle.extend(b"K\x00(M\x00\x40t(K\x01t\x89NtRq\x00");
        } else {
            pickle.extend(b"h\x00");
        }
    }
    pickle.extend(b"u.");
    let values = vec![0; 4 << 14];
    let read = read(archive(&[("x/data.pkl", &pickle), ("x/data/0", &values)])).unwrap();
    let refused: Vec<bool> = read.iter().map(|(_, tensor)| tensor.is_err()).collect();
    assert_eq!(refused.iter().filter(|refused| **refused).count(), 40 - 16);
    assert!(!refused[0] && refused[39]);
}

#[test]
fn small_files_cannot_ask_for_much_memory() {
    const MANY: &str = "more than 524288 instructions, which no checkpoint has";
    let pickle = |body: &[u8]| [b"\x80\x02", body, b"."].concat();
    let zip = |body: &[u8]| archive(&[("x/data.pkl", &pickle(body))]);
    for instructions in [
        &b"N\x85"[..], // tuples
        b"]\x94",      // lists, remembered
        b"(",          // marks
        b"N22222222",  // the stack's
        b"](NNNNe",    // items
    ] {
        let body = instructions.repeat((1 << 19) / instructions.len() + 1);
        assert!(read(zip(&body)).unwrap_err().to_string().ends_with(MANY), "{instructions:?}");
    }
    // What the magic number of the old container is, in which all pickles count together.
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let (fits, not) = (pickle(&b"N\x85".repeat(1 << 16)), pickle(&b"N\x85".repeat(1 << 17)));
    let old =
        |skipped: &[u8]| [&magic[..], skipped, skipped, &pickle(b"}"), &pickle(b"]")].concat();
    assert!(read(old(&fits)).unwrap().is_empty());
    assert!(read(old(&not)).unwrap_err().to_string().ends_with(MANY));
    // Names of one tensor, and a name that is too long for one.
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n)Rq\x00";
    let names = b"U\x01ah\x00".repeat(1 << 14);
    let many = [b"}(U\x01a", &tensor[..], &names, b"u"].concat();
    let message = read(zip(&many)).unwrap_err().to_string();
    assert_eq!(message, "it names more than 16384 tensors, which no checkpoint does");
    let long = [b"}X\x01\x01\x00\x00", "a".repeat(257).as_bytes(), &tensor[..], b"s"].concat();
    assert!(read(zip(&long)).unwrap().is_empty());
}

/// A zip archive of stored records; checksums and dates are 0.
pub(super) fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in records {
        let place = bytes.len() as u32;
        let [name_len, len] = [name.len() as u32, content.len() as u32];
        // Version, flags, method, time, date, checksum; both lengths; the name's and none of more.
        let head = [[0; 14].as_slice(), &len.to_le_bytes(), &len.to_le_bytes()].concat();
        let head = [head, name_len.to_le_bytes().to_vec()].concat();
        bytes.extend([b"PK\x03\x04", head.as_slice(), name.as_bytes(), content].concat());
        let more = [[0; 10].as_slice(), &place.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\x00\x00", head.as_slice(), &more].concat());
    }
    let count = (records.len() as u16).to_le_bytes();
    let [len, place] = [directory.len(), bytes.len()].map(|number| (number as u32).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0", count.as_slice(), &count, &len, &place, &[0, 0]].concat();
    [bytes, directory, end].concat()
}

/// Reads all that is there, and fails if what is wrong is not said in one line.
fn read_or_one_sentence(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let one_sentence = |error: PthError| {
        let message = error.to_string();
        prop_assert!(!message.is_empty() && !message.trim().contains('\n'), "{message}");
        Ok(())
    };
    match read(bytes) {
        Ok(tensors) => tensors.into_iter().filter_map(|(_, t)| t.err()).try_for_each(one_sentence),
        Err(error) => one_sentence(error),
    }
}

const FIXTURES: [&str; 6] =
    ["dino_full.pth", "views.pth", "dtypes.pth", "legacy.pth", "protocol5.pth", "malicious.pth"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn cut_files_are_refused(name in prop::sample::select(&FIXTURES), share in 0.0..1.0) {
        let mut bytes = fs::read(fixture(name)).unwrap();
        bytes.truncate((bytes.len() as f64 * share) as usize);
        prop_assert!(read(bytes.clone()).is_err());
        read_or_one_sentence(bytes)?;
    }

    #[test]
    fn changed_files_do_no_harm(
        name in prop::sample::select(&FIXTURES),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = fs::read(fixture(name)).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_or_one_sentence(bytes)?;
    }

    #[test]
    fn changed_pickles_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        sizes in prop::collection::vec(any::<i64>(), 0..4),
    ) {
        let mut bytes = described(0, &sizes, &sizes);
        // Only the pickle, so that the archive stays sound and every change reaches it.
        let start = bytes.windows(3).position(|window| window == b"\x80\x02}").unwrap();
        let end = bytes.windows(3).position(|window| window == b"Rs.").unwrap();
        for (at, byte) in changes {
            bytes[start + at.index(end - start)] = byte;
        }
        read_or_one_sentence(bytes)?;
    }

    #[test]
    fn bytes_of_no_meaning_do_no_harm(pickle in prop::collection::vec(any::<u8>(), 0..200)) {
        read_or_one_sentence(archive(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 16])]))?;
    }
}
