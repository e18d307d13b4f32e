//! `metrics.jsonl` of a run that goes on.

use std::fs;

use dora_train::metrics::MetricsFile;

use super::healthy;

#[test]
fn a_resumed_file_holds_each_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = MetricsFile::resume(folder.path(), 0).unwrap();
    for step in 1..=7 {
        file.write(&healthy(step)).unwrap();
    }
    let path = folder.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    // Killed in the middle of a line, and resumed from a checkpoint after step 5.
    fs::write(&path, &text[..text.len() - 30]).unwrap();
    let mut file = MetricsFile::resume(folder.path(), 5).unwrap();
    file.write(&healthy(6)).unwrap();
    let steps: Vec<u64> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
}
