//! What a complete libtorch consists of. The wheels list every file with size and checksum (RECORD);
//! our manifest keeps the sizes of the libraries, so that each command can look for damage at the
//! cost of a few file look-ups.

use std::{
    fmt::Write as _,
    fs, io,
    io::Write as _,
    path::{Component, Path},
    process::{Command, Stdio},
    thread,
};

use anyhow::Context;

const FILE: &str = "manifest.txt";

/// How the manifest of a folder begins that holds changed files.
const CONDEMNED: &str = "unfit: ";

/// One file of a wheel, as its RECORD tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Relative to the folder that the wheel was unpacked into.
    pub(crate) path: String,
    pub(crate) sha256_hex: String,
    pub(crate) size_bytes: u64,
}

/// Reads the RECORD of every wheel in `folder`.
///
/// # Errors
/// None is there, or one cannot be read.
pub(crate) fn records(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "dist-info") {
            let file = path.join("RECORD");
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            records.extend(text.lines().filter_map(parse_record));
        }
    }
    anyhow::ensure!(!records.is_empty(), "no wheel lies in {}", folder.display());
    Ok(records)
}

/// Compares the sizes of all files in `folder` with their records; the error names the first that
/// differs.
pub(crate) fn check_sizes(folder: &Path, records: &[Record]) -> Result<(), String> {
    records.iter().try_for_each(|record| check_size(folder, &record.path, record.size_bytes))
}

/// Compares the checksums of all files in `folder`; gives those that differ, in `sha256sum`'s words.
pub(crate) fn check_sums(folder: &Path, records: &[Record]) -> anyhow::Result<Vec<String>> {
    let mut list = String::new();
    for record in records {
        let _ = writeln!(list, "{}  {}", record.sha256_hex, record.path);
    }
    let mut child = Command::new("sha256sum")
        .args(["--check", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start `sha256sum`")?;
    let mut stdin = child.stdin.take().context("`sha256sum` has no input")?;
    // It may stop reading before the end; its status tells that better than our write.
    let writer = thread::spawn(move || stdin.write_all(list.as_bytes()));
    let output = child.wait_with_output().context("cannot wait for `sha256sum`")?;
    let written = writer.join().is_ok_and(|result| result.is_ok());
    let differing: Vec<String> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    anyhow::ensure!(
        (written && output.status.success()) || !differing.is_empty(),
        "`sha256sum` failed ({})",
        output.status
    );
    Ok(differing)
}

/// Writes the manifest into `folder`: `title`, then size and path of every library.
pub(crate) fn write(folder: &Path, title: &str, records: &[Record]) -> io::Result<()> {
    let mut text = format!("{title}\n");
    for record in records.iter().filter(|record| is_library(&record.path)) {
        let _ = writeln!(text, "{} {}", record.size_bytes, record.path);
    }
    let file = fs::File::create(folder.join(FILE))?;
    (&file).write_all(text.as_bytes())?;
    file.sync_all()
}

/// Checks that `folder` holds the libraries that its manifest lists and that it is the one of `title`;
/// the error says what is wrong.
pub(crate) fn check(folder: &Path, title: &str) -> Result<(), String> {
    let text =
        fs::read_to_string(folder.join(FILE)).map_err(|_| "it was never finished".to_owned())?;
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if let Some(what) = first.strip_prefix(CONDEMNED) {
        return Err(what.to_owned());
    }
    if first != title {
        return Err("its manifest is of another kind".to_owned());
    }
    let mut libraries = 0;
    for line in lines {
        let (size, path) = line.split_once(' ').ok_or("its manifest is damaged")?;
        let size = size.parse().map_err(|_| "its manifest is damaged")?;
        check_size(folder, path, size)?;
        libraries += 1;
    }
    if libraries == 0 {
        return Err("its manifest is cut off".to_owned());
    }
    Ok(())
}

/// Marks `folder` as unfit; [`check`] then fails with `what`.
pub(crate) fn condemn(folder: &Path, what: &str) -> io::Result<()> {
    fs::write(folder.join(FILE), format!("{CONDEMNED}{what}\n"))
}

fn check_size(folder: &Path, path: &str, expected_bytes: u64) -> Result<(), String> {
    match fs::metadata(folder.join(path)) {
        Ok(data) if data.len() == expected_bytes => Ok(()),
        Ok(data) => Err(format!("{path} has {} of {expected_bytes} bytes", data.len())),
        Err(_) => Err(format!("{path} is missing")),
    }
}

/// A line `path,sha256=...,size`. Files without a checksum (the RECORD itself) and those that pip put
/// elsewhere (scripts) give nothing.
fn parse_record(line: &str) -> Option<Record> {
    let mut fields = line.rsplitn(3, ',');
    let size_bytes = fields.next()?.parse().ok()?;
    let sha256_hex = hex_of_base64url(fields.next()?.strip_prefix("sha256=")?)?;
    let path = fields.next()?;
    let path = match path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => path.to_owned(),
    };
    Path::new(&path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then_some(Record { path, sha256_hex, size_bytes })
}

fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".so") || name.contains(".so.")
}

fn hex_of_base64url(text: &str) -> Option<String> {
    let mut hex = String::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            let _ = write!(hex, "{:02x}", (bits >> count) & 0xff);
        }
    }
    (hex.len() == 64).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    // The checksum of "abc", as FIPS 180 prints it and as a wheel writes it.
    const ABC_HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC: &str = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";

    #[test]
    fn a_line_of_a_record_is_read() {
        let record = |path: &str| {
            Some(Record { path: path.to_owned(), sha256_hex: ABC_HEX.to_owned(), size_bytes: 3 })
        };
        let line = |path: &str| parse_record(&format!("{path},sha256={ABC},3"));
        assert_eq!(line("torch/lib/libc10.so"), record("torch/lib/libc10.so"));
        assert_eq!(line("\"a,b\"\"c\""), record("a,b\"c"));
        assert_eq!(line("../../bin/torchrun"), None);
        assert_eq!(line("/etc/passwd"), None);
        assert_eq!(parse_record("torch-2.11.0.dist-info/RECORD,,"), None);
        assert_eq!(parse_record(&format!("a,sha256={ABC},")), None);
        assert_eq!(parse_record("a,sha256=ungWv48,3"), None);
        assert_eq!(parse_record(""), None);
    }

    fn unpacked(name: &str) -> (Folder, Vec<Record>) {
        let folder = Folder::new(name);
        folder.write("torch/lib/libc10.so", "abc");
        folder.write("torch/lib/libgomp.so.1", "abc");
        folder.write("torch/version.py", "abc");
        let lines = ["lib/libc10.so", "lib/libgomp.so.1", "version.py"]
            .map(|path| format!("torch/{path},sha256={ABC},3\n"));
        folder.write("torch-2.11.0.dist-info/RECORD", &lines.concat());
        let records = records(folder.path()).unwrap();
        assert_eq!(records.len(), 3);
        write(folder.path(), "title", &records).unwrap();
        (folder, records)
    }

    #[test]
    fn a_cut_library_is_found() {
        let (folder, records) = unpacked("manifest-cut");
        assert_eq!(check(folder.path(), "title"), Ok(()));
        assert_eq!(check_sizes(folder.path(), &records), Ok(()));
        folder.write("torch/lib/libgomp.so.1", "ab");
        let expected = Err("torch/lib/libgomp.so.1 has 2 of 3 bytes".to_owned());
        assert_eq!(check(folder.path(), "title"), expected);
        assert_eq!(check_sizes(folder.path(), &records), expected);
        fs::remove_file(folder.path().join("torch/lib/libgomp.so.1")).unwrap();
        let expected = Err("torch/lib/libgomp.so.1 is missing".to_owned());
        assert_eq!(check(folder.path(), "title"), expected);
    }

    #[test]
    fn a_damaged_manifest_is_found() {
        let (folder, _) = unpacked("manifest-damaged");
        assert!(check(folder.path(), "other").is_err());
        condemn(folder.path(), "one file differs").unwrap();
        assert_eq!(check(folder.path(), "title"), Err("one file differs".to_owned()));
        for text in ["", "title\n", "title\n3\n", "title\nx torch/lib/libc10.so\n"] {
            folder.write(FILE, text);
            assert!(check(folder.path(), "title").is_err(), "{text:?}");
        }
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(check(folder.path(), "title").is_err());
    }

    #[test]
    fn changed_bytes_of_the_same_size_are_found() {
        let (folder, records) = unpacked("manifest-sums");
        assert_eq!(check_sums(folder.path(), &records).unwrap(), [""; 0]);
        folder.write("torch/version.py", "abd");
        let differing = check_sums(folder.path(), &records).unwrap();
        assert_eq!(differing, ["torch/version.py: FAILED"]);
    }
}
