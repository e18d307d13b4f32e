//! The whole command, from figshare.

use crate::server::Reply;
use crate::transfer::content;
use crate::world::{World, ended, signal, until};
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn tours_come_with_all_that_belongs_to_them_and_once() {
    let world = World::new(|_, _| None);
    let run = world.run("venice Zurich");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "data/Walking_Tour_Venice.mp4\ndata/Walking_Tour_Zurich.mp4\n");
    assert!(run.stderr.contains("venice: this copy runs 3:40:00 and is blank after 1:50:00"));
    let next = "next: cargo xtask ingest data/Walking_Tour_Venice.mp4 --end 1:50:00\n\
                next: cargo xtask ingest data/Walking_Tour_Zurich.mp4\n";
    assert!(run.stderr.ends_with(next), "{}", run.stderr);
    assert!(fs::read(world.path("data/Walking_Tour_Zurich.mp4")).unwrap() == content(1));
    assert!(fs::read(world.path("data/Walking_Tour_Venice.mp4")).unwrap() == content(2));
    let expected = [
        ".walking_tours.lock",
        "Walking_Tour_Venice.mp4",
        "Walking_Tour_Venice.toml",
        "Walking_Tour_Zurich.mp4",
        "Walking_Tour_Zurich.toml",
        "Walking_Tours_ATTRIBUTION.md",
        "Walking_Tours_CC-BY-4.0.txt",
    ];
    assert_eq!(world.data(), expected);
    let attribution = world.read("data/Walking_Tours_ATTRIBUTION.md");
    for part in [
        "Shashanka Venkataramanan",
        "## Walking_Tour_Venice.mp4",
        "https://www.youtube.com/watch?v=fGX0Te6pFvk",
        "Licence as stated there: CC BY 4.0 https://creativecommons.org/licenses/by/4.0/",
    ] {
        assert!(attribution.contains(part), "{attribution}");
    }
    let licence = world.read("data/Walking_Tours_CC-BY-4.0.txt");
    assert!(licence.starts_with("Creative Commons Attribution 4.0 International"));

    let requests = world.server.requests().len();
    let run = world.run("venice zurich");
    assert_eq!((run.status, run.stdout.lines().count()), (0, 2), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("venice: nothing to do, `data/Walking_Tour_Venice.mp4` is here")
    );
    assert_eq!(world.server.requests().len(), requests, "a second run asks nobody");

    let list = world.run("").stdout;
    assert_eq!(
        list.lines().filter(|line| line.ends_with(".mp4 (2.0 MB, figshare)")).count(),
        2,
        "{list}"
    );
    assert_eq!(list.lines().filter(|line| line.ends_with(" -")).count(), 8, "{list}");
}

#[test]
fn a_dry_run_lists_and_writes_nothing() {
    let world = World::new(|_, _| None);
    let run = world.run("venice zurich --dry-run");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(
        run.stdout.contains("venice           2.0 MB  data/Walking_Tour_Venice.mp4"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("together         4.0 MB  to fetch"), "{}", run.stdout);
    assert!(!world.path("data").exists());
}

#[test]
fn ctrl_c_keeps_what_came() {
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        let world = World::new(|request, before| {
            let whole = Reply::file(request, &content(2), "\"2\"");
            let first = request.path == "/v2/file/download/2" && before == 0;
            first.then(|| Reply { silence: Duration::from_secs(30), ..whole.cut(1_500_000) })
        });
        let child = world.command("venice").spawn().unwrap();
        let part = world.path("data/Walking_Tour_Venice.mp4.part");
        until("most of it comes", || fs::metadata(&part).is_ok_and(|data| data.len() == 1_500_000));
        let started = Instant::now();
        signal(name, child.id());
        let run = ended(child.wait_with_output().unwrap());
        assert_eq!(run.status, status, "{}", run.stderr);
        assert!(run.stderr.ends_with("run the same command again to go on\n"), "{}", run.stderr);
        assert!(started.elapsed() < Duration::from_secs(10), "it waited for a silent server");

        let run = world.run("venice");
        assert_eq!(run.status, 0, "{}", run.stderr);
        assert!(run.stderr.contains("venice: going on after 1.5 MB"), "{}", run.stderr);
        assert!(fs::read(world.path("data/Walking_Tour_Venice.mp4")).unwrap() == content(2));
        let last = world.server.requests().pop().unwrap();
        assert_eq!(last.start(), Some(1_500_000));
    }
}

#[test]
fn wrong_words_are_told_before_anything_is_asked() {
    let world = World::new(|_, _| None);
    fs::write(world.path("file"), "").unwrap();
    for (line, expected) in [
        ("venise", "error: there is no tour `venise`; did you mean `venice`?\n"),
        ("venice --max-height 1080", "add `--source youtube`\n"),
        ("venice -- --cookies x", "what follows `--` is for yt-dlp; add `--source youtube`\n"),
        ("venice --out file", "error: `file` is no folder; give one with `--out DIR`\n"),
        ("venice --blur-faces", "error: there is no `deface`, which blurs faces; `python3 -m pip"),
        ("venice --source youtube", "error: there is no `yt-dlp`, which fetches from YouTube"),
    ] {
        let run = world.run(line);
        assert_eq!(run.status, 2, "{line}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{line}: {}", run.stderr);
    }
    assert!(world.server.requests().is_empty());
}

#[test]
fn without_a_network_the_way_out_is_said() {
    let world = World::new(|_, _| None);
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = ended(
        world.command("venice").args(["--figshare", &format!("http://{free}")]).output().unwrap(),
    );
    assert_eq!(run.status, 1, "{}", run.stderr);
    for part in ["127.0.0.1 cannot be reached", "HTTPS_PROXY", "--source youtube"] {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn one_that_fails_leaves_the_others_alone() {
    let world = World::new(|request, _| {
        (request.path == "/v2/file/download/2").then(|| Reply::status(500))
    });
    let run = world.run("venice zurich bangkok");
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert_eq!(run.stdout, "data/Walking_Tour_Zurich.mp4\n");
    assert!(
        run.stderr.contains("error: venice: 127.0.0.1 has trouble (500), 2 times"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("error: bangkok: figshare has no file `Walking_Tour_Bangkok.mp4`"));
}

#[test]
fn answers_that_cannot_be_trusted_are_refused() {
    for (answer, expected) in [
        ("[1,2]", "something else than was asked for"),
        (
            "{\"files\":[{\"id\":\"../../x\",\"name\":\"Walking_Tour_Venice.mp4\",\"size\":1}]}",
            "something else",
        ),
        (
            "{\"files\":[{\"id\":1,\"name\":\"Walking_Tour_Venice.mp4\",\"size\":5,\"computed_md5\":\"../x\\u001b[2J\"}]}",
            "with `../x [2J` for an MD5",
        ),
        (
            "{\"files\":[{\"id\":1,\"name\":\"Walking_Tour_Venice.mp4\",\"size\":0,\"computed_md5\":\"900150983cd24fb0d6963f7d28e17f72\"}]}",
            "without a size",
        ),
        (
            "{\"files\":[{\"id\":1,\"name\":\"Walking_Tour_Venice.mp4\",\"size\":9,\"is_link_only\":true}]}",
            "only links to",
        ),
    ] {
        let body = answer.as_bytes().to_vec();
        let world = World::new(move |_, _| Some(Reply::whole(&body)));
        let run = world.run("venice");
        assert_eq!(run.status, 1, "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
        assert!(!run.stderr.contains('\x1b'));
    }
    let world = World::new(|_, _| Some(Reply::whole(&vec![b' '; 9 << 20])));
    let run = world.run("venice");
    assert!(
        run.status == 1 && run.stderr.contains("with more than 8388608 bytes"),
        "{}",
        run.stderr
    );
}

#[test]
fn no_room_is_told_before_the_first_byte() {
    let world = World::new(|request, _| {
        request.path.starts_with("/v2/articles").then(|| {
            Reply::whole(
                br#"{"files":[{"id":1,"name":"Walking_Tour_Venice.mp4","size":9000000000000000000,
                    "computed_md5":"900150983cd24fb0d6963f7d28e17f72"}]}"#,
            )
        })
    });
    let run = world.run("venice");
    assert_eq!(run.status, 2, "{}", run.stderr);
    assert!(run.stderr.contains("this takes 9000000000.0 GB in `data`"), "{}", run.stderr);
    assert_eq!(world.server.requests().len(), 1);
}

#[test]
fn a_file_that_somebody_put_there_stays() {
    let world = World::new(|_, _| None);
    fs::create_dir(world.path("data")).unwrap();
    fs::write(world.path("data/Walking_Tour_Venice.mp4"), content(2)).unwrap();
    fs::write(world.path("data/Walking_Tour_Zurich.mp4"), "mine").unwrap();
    let run = world.run("venice zurich");
    assert_eq!(run.status, 2, "{}", run.stderr);
    assert_eq!(run.stdout, "data/Walking_Tour_Venice.mp4\n");
    let expected =
        "zurich: `data/Walking_Tour_Zurich.mp4` is here and stays, but it is not figshare's copy";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    assert_eq!(world.read("data/Walking_Tour_Zurich.mp4"), "mine");

    let requests = world.server.requests().len();
    assert_eq!(world.run("venice").status, 0);
    assert_eq!(world.server.requests().len(), requests, "it is known by now");

    fs::write(world.path("data/Walking_Tour_Venice.mp4"), "cut").unwrap();
    let run = world.run("venice");
    assert_eq!(run.status, 2, "{}", run.stderr);
    assert!(
        run.stderr.contains("has 3 bytes, but 2000000 were fetched; move it away"),
        "{}",
        run.stderr
    );
    assert_eq!(world.read("data/Walking_Tour_Venice.mp4"), "cut");
}

#[test]
fn two_at_once_do_not_write_the_same_file() {
    let world = World::new(|request, _| {
        let whole = Reply::file(request, &content(2), "\"2\"");
        (request.path == "/v2/file/download/2")
            .then(|| Reply { silence: Duration::from_secs(30), ..whole.cut(1_000_000) })
    });
    let child = world.command("venice").spawn().unwrap();
    until("the first one downloads", || world.path("data/Walking_Tour_Venice.mp4.part").exists());
    let run = world.run("zurich");
    assert_eq!(run.status, 2, "{}", run.stderr);
    assert!(run.stderr.contains("another download writes into `data`"), "{}", run.stderr);
    signal("-KILL", child.id());
    child.wait_with_output().unwrap();
    assert_eq!(world.run("zurich").status, 0);
}

#[test]
fn faces_are_blurred_once_beside_the_original() {
    let world = World::new(|_, _| None);
    world.script("bin/deface", r#"echo "$*" >>"$WORLD/log"; printf blurred >"$3""#);
    let run = world.run("zurich --blur-faces");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "data/Walking_Tour_Zurich.blurred.mp4\n");
    assert_eq!(world.read("data/Walking_Tour_Zurich.blurred.mp4"), "blurred");
    assert!(
        world
            .read("data/Walking_Tours_ATTRIBUTION.md")
            .contains("Changes: faces blurred with deface")
    );
    assert!(run.stderr.contains("--video data/Walking_Tour_Zurich.blurred.mp4"), "{}", run.stderr);

    // The original may go.
    fs::remove_file(world.path("data/Walking_Tour_Zurich.mp4")).unwrap();
    let run = world.run("zurich --blur-faces");
    assert_eq!((run.status, world.read("log").lines().count()), (0, 1), "{}", run.stderr);
    assert!(run.stderr.contains("zurich: nothing to do"), "{}", run.stderr);
    assert!(!world.path("data/Walking_Tour_Zurich.mp4").exists());
}

#[test]
fn a_blurring_that_breaks_off_leaves_nothing_half_done() {
    let world = World::new(|_, _| None);
    world.script("bin/deface", "printf half >\"$3\"; echo 'no model' >&2; exit 1");
    let run = world.run("zurich --blur-faces");
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    assert!(
        run.stderr.contains("could not blur `data/Walking_Tour_Zurich.mp4` (no model)"),
        "{}",
        run.stderr
    );

    world.script("bin/deface", "printf half >\"$3\"; echo $$ >\"$WORLD/pid\"; exec sleep 60");
    let child = world.command("zurich --blur-faces").spawn().unwrap();
    until("it blurs", || !world.read("pid").is_empty());
    signal("-INT", child.id());
    let run = ended(child.wait_with_output().unwrap());
    assert_eq!(run.status, 130, "{}", run.stderr);
    assert!(!world.data().iter().any(|name| name.contains("blurred")), "{:?}", world.data());
    let pid = world.read("pid");
    until("deface ends", || !fs::exists(format!("/proc/{}", pid.trim())).unwrap());
}
