//! Event files: their framing, and what TensorBoard's own reader finds in them.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
};

use dora_train::tensorboard::{Picture, TensorBoard};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::healthy;
use crate::test_python;

/// Checksum by Castagnoli's polynomial, bit by bit, masked as records have it.
fn masked_crc32c(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The whole records of a file; what is torn at its end is left out.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<12>() {
        let (len, crc) = head.split_at(8);
        assert_eq!(crc, masked_crc32c(len).to_le_bytes());
        let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
        if rest.len() < len + 4 {
            break;
        }
        let (data, rest) = rest.split_at(len);
        assert_eq!(rest[..4], masked_crc32c(data).to_le_bytes());
        records.push(data.to_vec());
        bytes = &rest[4..];
    }
    records
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

proptest! {
    #[test]
    fn records_hold_what_was_written(
        values in prop::collection::vec((any::<u32>(), any::<f32>()), 1..20),
        png in prop::collection::vec(any::<u8>(), 0..400),
        torn_bytes in 0_usize..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::resume(folder.path(), 0).unwrap();
        for (step, value) in &values {
            let figures = [("train/loss".to_owned(), f64::from(*value))];
            board.scalars(u64::from(*step), &figures).unwrap();
        }
        let picture = Picture { width_px: 300, height_px: 7, png: &png };
        board.picture("train/tracks", 1 << 40, picture).unwrap();
        let bytes = fs::read(board.path()).unwrap();
        let records = records(&bytes);
        prop_assert_eq!(records.len(), 2 + values.len() + 1);
        prop_assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        prop_assert!(records[1].ends_with(b"\x10\x01\x3a\x02\x08\x01"));
        for ((_, value), record) in values.iter().zip(&records[2..]) {
            prop_assert!(record.ends_with(&[b"\x15", value.to_le_bytes().as_slice()].concat()));
        }
        prop_assert!(records[records.len() - 1].ends_with(&png));
        let whole = self::records(&bytes[..bytes.len() - torn_bytes]);
        prop_assert_eq!(&whole[..2], &records[..2]);
        prop_assert!(whole.len() + (torn_bytes > 0) as usize <= records.len());
    }
}

#[test]
fn a_later_file_is_read_later() {
    let folder = tempfile::tempdir().unwrap();
    // As by a clock that was ahead, and something of others.
    let ahead = folder.path().join("events.out.tfevents.9000000000.elsewhere");
    fs::write(&ahead, "").unwrap();
    fs::write(folder.path().join("notes"), "").unwrap();
    let boards = [0, 1, 1].map(|step| TensorBoard::resume(folder.path(), step).unwrap());
    let mut expected = vec![ahead];
    expected.extend(boards.iter().map(|board| board.path().to_owned()));
    expected.push(folder.path().join("notes"));
    assert_eq!(files(folder.path()), expected);
}

#[test]
fn tensorboard_reads_each_step_once() {
    let Some(python) = test_python("tensorboard") else { return };
    let folder = tempfile::tempdir().unwrap();
    let png = [137, 80, 78, 71, 0, 255];
    let write = |step: u64, last: u64, loss: f64| {
        let mut board = TensorBoard::resume(folder.path(), step).unwrap();
        for step in step + 1..=last {
            let metrics = dora_train::metrics::StepMetrics { loss, ..healthy(step) };
            board.scalars(step, &metrics.scalars()).unwrap();
            let picture = Picture { width_px: 30, height_px: 20, png: &png };
            board.picture("train/tracks", step, picture).unwrap();
        }
    };
    // Killed after step 7 in the middle of a record, and resumed from step 5; once more from step 6.
    write(0, 7, 1.0);
    let first = &files(folder.path())[0];
    let len = fs::metadata(first).unwrap().len();
    OpenOptions::new().write(true).open(first).unwrap().set_len(len - 9).unwrap();
    write(5, 8, 2.0);
    write(6, 9, 3.0);

    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/train/tools/read_events.py"))
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let losses = json!([
        [1, 1.0],
        [2, 1.0],
        [3, 1.0],
        [4, 1.0],
        [5, 1.0],
        [6, 2.0],
        [7, 3.0],
        [8, 3.0],
        [9, 3.0]
    ]);
    assert_eq!(read["scalars"]["train/loss"], losses);
    assert_eq!(read["scalars"]["train/mask_area_1"][8], json!([9, 0.5]));
    assert_eq!(read["scalars"]["train/grad_norm"].as_array().unwrap().len(), 9);
    let pictures = read["images"]["train/tracks"].as_array().unwrap();
    assert_eq!(pictures.len(), 9);
    assert_eq!(pictures[8], json!([9, 30, 20, png]));
}
