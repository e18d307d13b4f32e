//! The binary in a folder of its own, with a figshare on this machine.

use crate::server::{Reply, Request, Server};
use crate::transfer::{content, md5_of};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const MANIFEST: &str = "../../data/walking_tours.toml";

pub(crate) struct World {
    folder: TempDir,
    pub(crate) server: Server,
}

pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// One whose server answers like figshare, except where `answer` says something else.
    pub(crate) fn new(
        answer: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let server = Server::new(move |request, before| {
            answer(request, before).unwrap_or_else(|| figshare(request))
        });
        Self { folder: tempfile::tempdir().unwrap(), server }
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    /// A stand-in for a program.
    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `dora-download` in the folder; stand-ins in `bin` are found first.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-download"));
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(MANIFEST);
        command.args(["--manifest", manifest.to_str().unwrap()]);
        command.args(["--figshare", &self.server.url(""), "--tries", "2"]);
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        for variable in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("WORLD", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Ended {
        ended(self.command(line).output().unwrap())
    }

    /// What lies in `data`, sorted.
    pub(crate) fn data(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data")).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Two tours, under the names that figshare has.
fn figshare(request: &Request) -> Reply {
    let file = |id: u32, name: &str| {
        let (size, md5) = (content(id).len(), md5_of(&content(id)));
        format!(
            r#"{{"id":{id},"name":"{name}","size":{size},"is_link_only":false,"computed_md5":"{md5}",
               "supplied_md5":"","download_url":"http://127.0.0.1:9/{id}","mimetype":"video/mp4"}}"#
        )
    };
    let zurich = file(1, "Walking_Tour_Zurich.mp4");
    match request.path.as_str() {
        "/v2/articles/25189275" => Reply::whole(
            format!(
                r#"{{"id":25189275,"title":"x","files":[{zurich}],"tags":[],
                   "license":{{"value":1,"name":"CC BY 4.0","url":"https://creativecommons.org/licenses/by/4.0/"}}}}"#
            )
            .as_bytes(),
        ),
        "/v2/articles/25189275/files?page=1&page_size=1000" => {
            let venice = file(2, "walking tour VENICE.mp4");
            Reply::whole(format!("[{zurich},{venice}]").as_bytes())
        }
        "/v2/file/download/1" => Reply::file(request, &content(1), "\"1\""),
        "/v2/file/download/2" => Reply::file(request, &content(2), "\"2\""),
        _ => Reply::status(404),
    }
}

pub(crate) fn ended(output: Output) -> Ended {
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn signal(name: &str, process: u32) {
    Command::new("kill").args([name, "--", &process.to_string()]).status().unwrap();
}

/// Waits until something has happened.
pub(crate) fn until(what: &str, happened: impl Fn() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(10));
    }
}
