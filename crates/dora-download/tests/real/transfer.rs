//! One file from a server that does what servers do.

use crate::server::{Reply, Request, Server};
use dora_download::http::{Client, Retry};
use dora_download::progress::Board;
use dora_download::stop::Stop;
use dora_download::transfer::{Md5, Wanted};
use md5::Digest;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far more than the buffers of a connection hold, so that a cut is felt where it is made.
pub(crate) fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()
    });
    words.take(500_000).flatten().collect()
}

pub(crate) fn md5_of(bytes: &[u8]) -> Md5 {
    let sum = md5::Md5::digest(bytes);
    let text: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    Md5::parse(&text).unwrap()
}

const RETRY: Retry =
    Retry { tries: 4, first_wait: Duration::from_millis(1), longest_wait: Duration::from_secs(5) };

struct Case {
    server: Server,
    folder: TempDir,
    size_bytes: u64,
    md5: Md5,
}

impl Case {
    /// A server, and a listing that names `content`.
    fn new(
        content: &[u8],
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (size_bytes, md5) = (content.len() as u64, md5_of(content));
        Self { server: Server::new(answer), folder, size_bytes, md5 }
    }

    fn to(&self) -> PathBuf {
        self.folder.path().join("walk.mp4")
    }

    fn fetch(&self) -> Result<(), String> {
        self.fetch_from(&["/walk"], RETRY)
    }

    fn fetch_from(&self, paths: &[&str], retry: Retry) -> Result<(), String> {
        let urls: Vec<String> = paths.iter().map(|path| self.server.url(path)).collect();
        let to = self.to();
        let (size_bytes, md5) = (self.size_bytes, self.md5);
        let wanted = Wanted { name: "walk", urls: &urls, size_bytes, md5, to: &to };
        let client = Client::with_silence(&urls[0], Duration::from_millis(400));
        let fetched = wanted.fetch(&client, retry, &Board::without_progress(), &Stop::default());
        fetched.map_err(|error| error.to_string())
    }

    fn starts(&self) -> Vec<Option<usize>> {
        self.server.requests().iter().map(Request::start).collect()
    }

    /// What lies in the folder, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn holds(&self, content: &[u8]) {
        assert!(fs::read(self.to()).unwrap() == content, "other bytes");
        assert_eq!(self.names(), ["walk.mp4"]);
    }
}

#[test]
fn a_file_comes_whole() {
    let walk = content(1);
    let case = Case::new(&walk.clone(), move |request, _| Reply::file(request, &walk, "\"a\""));
    case.fetch().unwrap();
    case.holds(&content(1));
    assert_eq!(case.starts(), [None]);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let walk = content(1);
    let fifth = walk.len() / 5;
    let case =
        Case::new(&walk.clone(), move |request, _| Reply::file(request, &walk, "\"a\"").cut(fifth));
    case.fetch().unwrap();
    case.holds(&content(1));
    // More breaks than tries in a row, but each brings something; and no byte comes twice.
    assert_eq!(
        case.starts(),
        [None, Some(fifth), Some(2 * fifth), Some(3 * fifth), Some(4 * fifth)]
    );
    let requests = case.server.requests();
    assert!(requests[1..].iter().all(|request| request.header("if-range") == Some("\"a\"")));
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let walk = content(1);
    let third = walk.len() / 3;
    let case = Case::new(&walk.clone(), move |request, before| {
        let reply = Reply::file(request, &walk, "\"a\"");
        if before > 0 {
            return reply;
        }
        Reply { silence: Duration::from_secs(30), ..reply.cut(third) }
    });
    let started = Instant::now();
    case.fetch().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    case.holds(&content(1));
    assert_eq!(case.starts(), [None, Some(third)]);
}

#[test]
fn an_earlier_run_is_gone_on_with() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |request, before| {
        let reply = Reply::file(request, &walk, "\"a\"");
        if before == 0 { reply.cut(half) } else { Reply::status(503) }
    });
    let message = case.fetch().unwrap_err();
    assert!(message.contains("has trouble (503), 4 times in a row"), "{message}");
    assert!(message.contains("run the same command again to go on (1.0 MB are kept)"), "{message}");
    assert_eq!(case.names(), ["walk.mp4.part", "walk.mp4.part.json"]);

    let walk = content(1);
    let answer = move |request: &Request, _| Reply::file(request, &walk, "\"a\"");
    let second = Case { server: Server::new(answer), ..case };
    second.fetch().unwrap();
    second.holds(&content(1));
    assert_eq!(second.starts(), [Some(half)]);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |_, before| {
        let reply = Reply::whole(&walk);
        if before == 0 { reply.cut(half) } else { reply }
    });
    case.fetch().unwrap();
    case.holds(&content(1));
    assert_eq!(case.starts(), [None, Some(half)]);
}

#[test]
fn a_page_of_a_captive_portal_costs_nothing() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |request, before| match before {
        0 => Reply::file(request, &walk, "\"a\"").cut(half),
        1 => Reply::whole(b"5\r\nLogin\r\n0\r\n\r\n").with("Transfer-Encoding", "chunked"),
        _ => Reply::file(request, &walk, "\"a\""),
    });
    case.fetch().unwrap();
    case.holds(&content(1));
    assert_eq!(case.starts(), [None, Some(half), Some(half)]);
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |_, _| Reply::whole(&walk).cut(half));
    let message = case.fetch().unwrap_err();
    assert!(message.contains("the connection broke after 1.0 MB"), "{message}");
    assert_eq!(case.starts().len(), 4);
}

#[test]
fn a_file_that_changes_on_the_way_is_fetched_anew() {
    for knows_if_range in [true, false] {
        let (old, new) = (content(1), content(2));
        let half = old.len() / 2;
        let case = Case::new(&new.clone(), move |request, before| match before {
            0 => Reply::file(request, &old, "\"old\"").cut(half),
            _ if knows_if_range => Reply::file(request, &new, "\"new\""),
            // It sends the rest of another file, and not all of it.
            _ => {
                let mut blind = request.clone();
                blind.forget("if-range");
                let reply = Reply::file(&blind, &new, "\"new\"");
                if request.start().is_some() { reply.cut(1000) } else { reply }
            }
        });
        case.fetch().unwrap();
        case.holds(&content(2));
        let expected = [None, Some(half), None];
        assert_eq!(case.starts(), expected[..if knows_if_range { 2 } else { 3 }]);
    }
}

#[test]
fn a_part_of_another_version_is_discarded() {
    let walk = content(1);
    let case = Case::new(&walk.clone(), move |request, _| Reply::file(request, &walk, "\"a\""));
    let part = case.folder.path().join("walk.mp4.part");
    let sidecar = case.folder.path().join("walk.mp4.part.json");
    let size = case.size_bytes;
    for text in [
        String::new(),
        "[".repeat(100_000),
        format!("{{\"size_bytes\":{size},\"md5\":\"{}\",\"etag\":null}}", "0".repeat(32)),
        format!("{{\"size_bytes\":1,\"md5\":\"{}\",\"etag\":null}}", case.md5),
    ] {
        fs::write(&part, content(3)).unwrap();
        fs::write(&sidecar, text).unwrap();
        case.fetch().unwrap();
        case.holds(&content(1));
        fs::remove_file(case.to()).unwrap();
    }
    assert!(case.starts().iter().all(Option::is_none));
}

#[test]
fn a_part_that_is_longer_than_the_file_is_discarded() {
    let walk = content(1);
    let case = Case::new(&walk.clone(), move |request, _| Reply::file(request, &walk, "\"a\""));
    fs::write(case.folder.path().join("walk.mp4.part"), [content(1), content(1)].concat()).unwrap();
    let text =
        format!("{{\"size_bytes\":{},\"md5\":\"{}\",\"etag\":null}}", case.size_bytes, case.md5);
    fs::write(case.folder.path().join("walk.mp4.part.json"), text).unwrap();
    case.fetch().unwrap();
    case.holds(&content(1));
}

#[test]
fn a_complete_part_needs_no_server() {
    let case = Case::new(&content(1), |_, _| Reply::status(500));
    fs::write(case.folder.path().join("walk.mp4.part"), content(1)).unwrap();
    let text =
        format!("{{\"size_bytes\":{},\"md5\":\"{}\",\"etag\":null}}", case.size_bytes, case.md5);
    fs::write(case.folder.path().join("walk.mp4.part.json"), text).unwrap();
    case.fetch().unwrap();
    case.holds(&content(1));
    assert!(case.starts().is_empty());
}

#[test]
fn a_wrong_checksum_is_tried_once_more() {
    let (good, bad) = (content(1), content(2));
    let case = Case::new(&good.clone(), move |request, before| {
        Reply::file(request, if before == 0 { &bad } else { &good }, "\"a\"")
    });
    case.fetch().unwrap();
    case.holds(&content(1));

    let bad = content(2);
    let case = Case::new(&content(1), move |request, _| Reply::file(request, &bad, "\"a\""));
    let message = case.fetch().unwrap_err();
    let (wrong, right) = (md5_of(&content(2)), md5_of(&content(1)));
    let expected = format!("walk came twice with the MD5 {wrong} instead of {right}");
    assert!(message.contains(&expected), "{message}");
    assert!(!case.to().exists() && case.starts() == [None, None]);
}

#[test]
fn a_range_that_the_server_does_not_have_is_started_over() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |request, before| match before {
        0 => Reply::file(request, &walk, "\"a\"").cut(half),
        1 => Reply::status(416).with("Content-Range", "bytes */7"),
        _ => Reply::file(request, &walk, "\"a\""),
    });
    case.fetch().unwrap();
    case.holds(&content(1));
    assert_eq!(case.starts(), [None, Some(half), None]);
}

#[test]
fn another_piece_than_asked_for_is_never_appended() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |request, before| {
        if before == 0 {
            return Reply::file(request, &walk, "\"a\"").cut(half);
        }
        let total = walk.len();
        Reply { status: 206, body: walk[half + 1..].to_vec(), ..Reply::default() }
            .with("Content-Range", format!("bytes {}-{}/{total}", half + 1, total - 1))
    });
    let message = case.fetch().unwrap_err();
    assert!(message.contains("sends another piece than was asked for, 4 times"), "{message}");
    assert_eq!(fs::metadata(case.folder.path().join("walk.mp4.part")).unwrap().len(), half as u64);
}

#[test]
fn a_file_of_another_size_is_refused() {
    let long = [content(1), vec![0]].concat();
    let case = Case::new(&content(1), move |request, _| Reply::file(request, &long, "\"a\""));
    let message = case.fetch().unwrap_err();
    assert!(message.contains("a file of 2000001 bytes where 2000000 are listed"), "{message}");

    // One that does not tell its length and never ends.
    let case = Case::new(&content(1), move |_, _| {
        let piece = content(1);
        let mut body = Vec::new();
        for _ in 0..3 {
            body.extend(format!("{:x}\r\n", piece.len()).bytes());
            body.extend(&piece);
            body.extend(b"\r\n");
        }
        Reply { status: 200, body, ..Reply::default() }.with("Transfer-Encoding", "chunked")
    });
    let message = case.fetch().unwrap_err();
    assert!(message.contains("where 2000000 are listed"), "{message}");
    assert!(fs::metadata(case.folder.path().join("walk.mp4.part")).unwrap().len() <= 2_000_000);
}

#[test]
fn what_is_there_is_never_overwritten() {
    let walk = content(1);
    let case = Case::new(&walk.clone(), move |request, _| Reply::file(request, &walk, "\"a\""));
    fs::write(case.to(), "mine").unwrap();
    let message = case.fetch().unwrap_err();
    assert!(message.contains("is here already; move it away"), "{message}");
    assert!(case.starts().is_empty());
    assert_eq!(fs::read(case.to()).unwrap(), b"mine");
}

/// figshare's way: the address in the API redirects to one that is good for a few seconds.
#[test]
fn an_expired_address_is_asked_for_again() {
    let walk = content(1);
    let half = walk.len() / 2;
    let case = Case::new(&walk.clone(), move |request, before| match request.path.as_str() {
        "/walk" => Reply::status(302).with("Location", format!("/signed?number={before}")),
        "/signed?number=0" if before == 0 => Reply::file(request, &walk, "\"a\"").cut(half),
        "/signed?number=1" => Reply::status(403),
        _ => Reply::file(request, &walk, "\"a\""),
    });
    case.fetch().unwrap();
    case.holds(&content(1));
    let requests = case.server.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    let expected =
        ["/walk", "/signed?number=0", "/walk", "/signed?number=1", "/walk", "/signed?number=2"];
    assert_eq!(paths, expected);
    // Range and tag survive the redirect.
    assert_eq!(requests[5].start(), Some(half));
    assert_eq!(requests[5].header("if-range"), Some("\"a\""));
}

#[test]
fn a_refusal_leads_to_the_other_address_and_then_to_the_user() {
    let walk = content(1);
    let case = Case::new(&walk.clone(), move |request, _| match request.path.as_str() {
        "/challenge" => Reply::status(202),
        "/gone" => Reply::status(404),
        "/forbidden" => Reply::status(403),
        _ => Reply::file(request, &walk, "\"a\""),
    });
    for (paths, expected) in [
        (&["/challenge"][..], "127.0.0.1 wants to see a browser (202); take the original"),
        (&["/gone"], "127.0.0.1 does not have it (404)"),
        (&["/gone", "/forbidden"], "127.0.0.1 refuses (403)"),
    ] {
        let message = case.fetch_from(paths, RETRY).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(case.starts().len(), 4);
    case.fetch_from(&["/challenge", "/walk"], RETRY).unwrap();
    case.holds(&content(1));
}

#[test]
fn a_server_is_left_alone_for_as_long_as_it_asks() {
    for status in [429, 503] {
        let walk = content(1);
        let case = Case::new(&walk.clone(), move |request, before| match before {
            0 => Reply::status(status).with("Retry-After", "1"),
            _ => Reply::file(request, &walk, "\"a\""),
        });
        let started = Instant::now();
        case.fetch().unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1));
        case.holds(&content(1));

        let case =
            Case::new(&content(1), move |_, _| Reply::status(status).with("Retry-After", "7200"));
        let message = case.fetch().unwrap_err();
        assert!(message.contains("and to come back in 7200 s"), "{message}");
        assert_eq!(case.starts().len(), 1);
    }
}
