//! The whole command, from YouTube: a stand-in prints what `yt-dlp` prints.

use crate::world::{World, ended, signal, until};
use std::fs;
use std::path::PathBuf;

/// A description as `yt-dlp --dump-json` prints it, cut to what is read and some of what is not.
const VENICE: &str = r#"{"id": "fGX0Te6pFvk", "title": "Venice", "formats": [], "duration": 6600, "uploader": "A Walker",
    "license": "Creative Commons Attribution license (reuse allowed)", "format_id": "315", "ext": "webm",
    "vcodec": "vp9", "acodec": "none", "width": 3840, "height": 2160, "fps": 60, "filesize": 12,
    "protocol": "https", "filename": "Venice [fGX0Te6pFvk].webm"}"#;

/// The stand-in: describes with `$WORLD/json`; fetches by `fetch`, where `$out` is what to write.
fn yt_dlp(world: &World, json: &str, fetch: &str) {
    fs::write(world.path("json"), json.replace('\n', " ")).unwrap();
    world.script(
        "bin/yt-dlp",
        &format!(
            r#"[ "$1" = --version ] && {{ echo 2026.08.19; exit; }}
echo "$*" >>"$WORLD/log"
case "$*" in *--dump-json*) cat "$WORLD/json"; echo; exit;; esac
while [ "$1" != --output ]; do shift; done
out=$2
{fetch}"#
        ),
    );
}

/// What a whole fetch prints.
const WHOLE: &str = r#"echo "[youtube] Extracting URL: https://www.youtube.com/watch?v=fGX0Te6pFvk"
echo "[info] fGX0Te6pFvk: Downloading 1 format(s): 315"
echo "[download] Destination: $out"
echo "at 4"; echo "at NA"; echo "at 12"
printf '0123456789ab' >"$out""#;

#[test]
fn the_best_format_comes_and_is_recorded() {
    let world = World::new(|_, _| None);
    yt_dlp(&world, VENICE, WHOLE);
    let run = world.run("venice --source youtube --max-height 1440 -- --cookies jar.txt");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "data/Walking_Tour_Venice.webm\n");
    assert!(run.stderr.contains("--video data/Walking_Tour_Venice.webm\n"), "{}", run.stderr);
    let record = world.read("data/Walking_Tour_Venice.toml");
    for part in [
        "source = \"youtube\"",
        "author = \"A Walker\"",
        "id = \"315\"",
        "codec = \"vp9\"",
        "height_px = 2160",
        "by = \"yt-dlp 2026.08.19\"",
    ] {
        assert!(record.contains(part), "{record}");
    }
    let log = world.read("log");
    assert!(log.lines().next().unwrap().contains("[height<=1440]"), "{log}");
    assert!(
        log.lines()
            .nth(1)
            .unwrap()
            .contains("--format 315 --output data/Walking_Tour_Venice.f315.webm")
    );
    let cookies = log.lines().filter(|line| line.contains("--cookies jar.txt")).count();
    assert_eq!(cookies, 2, "{log}");
    assert!(world.server.requests().is_empty());

    let run = world.run("venice");
    assert_eq!((run.status, world.read("log").lines().count()), (0, 2), "{}", run.stderr);
    assert!(run.stderr.contains("nothing to do") && run.stderr.contains("(from youtube)"));
}

#[test]
fn a_dry_run_names_the_format() {
    let world = World::new(|_, _| None);
    yt_dlp(&world, VENICE, WHOLE);
    let run = world.run("venice --source youtube --dry-run");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(
        run.stdout.contains("YouTube, 3840x2160, 60 frames/s, vp9, format 315"),
        "{}",
        run.stdout
    );
    assert!(!world.path("data").exists());
}

#[test]
fn what_breaks_off_is_gone_on_with() {
    let world = World::new(|_, _| None);
    let fetch = r#"case $(cat "$out.part" 2>/dev/null) in
'') printf 012345 >"$out.part"; echo "ERROR: [download] Got error: 6 bytes read, 6 more expected" >&2; exit 1;;
esac
mv "$out.part" "$out"; printf 6789ab >>"$out""#;
    yt_dlp(&world, VENICE, fetch);
    fs::create_dir(world.path("data")).unwrap();
    fs::write(world.path("data/Walking_Tour_Venice.f299.mp4.part"), "other").unwrap();
    let run = world.run("venice --source youtube");
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert_eq!(world.read("data/Walking_Tour_Venice.webm"), "0123456789ab");
    assert!(run.stderr.contains("6 bytes read, 6 more expected"), "{}", run.stderr);
    assert!(run.stderr.contains("removed `Walking_Tour_Venice.f299.mp4.part`"), "{}", run.stderr);
    let left = world.data().into_iter().filter(|name| name.contains(".f")).count();
    assert_eq!(left, 0, "{:?}", world.data());
}

#[test]
fn a_refusal_comes_with_the_way_out() {
    let world = World::new(|_, _| None);
    for (complaint, expected) in [
        (
            "ERROR: [youtube] fGX0Te6pFvk: Sign in to confirm you are not a bot.",
            "venice: yt-dlp 2026.08.19: [youtube] fGX0Te6pFvk: Sign in to confirm you are not a bot.; let it \
             use your browser's session with `-- --cookies-from-browser firefox`",
        ),
        (
            "ERROR: [youtube] fGX0Te6pFvk: Requested format is not available",
            "`cargo xtask download-wt --upgrade-yt-dlp` brings the newest yt-dlp",
        ),
        ("ERROR: unable to write data: [Errno 28] No space left on device", "make room"),
    ] {
        yt_dlp(&world, VENICE, &format!("echo '{complaint}' >&2; exit 1"));
        let run = world.run("venice --source youtube");
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
    world.script(
        "bin/yt-dlp",
        "echo 'ImportError: You are using an unsupported version of Python' >&2; exit 1",
    );
    let run = world.run("venice --source youtube");
    assert_eq!(run.status, 2, "{}", run.stderr);
    assert!(run.stderr.contains("--version` fails (ImportError: You are using"), "{}", run.stderr);
}

#[test]
fn a_cut_file_is_not_taken_for_whole() {
    let world = World::new(|_, _| None);
    yt_dlp(&world, VENICE, r#"printf 0123 >"$out""#);
    let run = world.run("venice --source youtube");
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert!(run.stderr.contains("left 4 bytes where YouTube lists 12"), "{}", run.stderr);
    yt_dlp(&world, VENICE, "exit 0");
    let run = world.run("venice --source youtube");
    assert!(run.stderr.contains("ended well but left no `data/Walking"), "{}", run.stderr);
    assert!(!world.path("data/Walking_Tour_Venice.webm").exists());
}

#[test]
fn a_description_is_not_trusted() {
    let world = World::new(|_, _| None);
    for (from, to, expected) in [
        ("\"ext\": \"webm\"", "\"ext\": \"/../../x\"", "container `/../../x`"),
        ("\"format_id\": \"315\"", "\"format_id\": \"--exec\"", "format `--exec`"),
        ("\"id\": \"fGX0Te6pFvk\"", "\"id\": \"another\"", "id `another`"),
        ("{\"id\"", "{{\"id\"", "in an unknown way"),
    ] {
        assert!(VENICE.contains(from));
        yt_dlp(&world, &VENICE.replacen(from, to, 1), WHOLE);
        let run = world.run("venice --source youtube");
        assert_eq!(run.status, 1, "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
    assert!(!world.read("log").contains("--output"));
}

#[test]
fn yt_dlp_ends_with_us() {
    for (name, status) in [("-INT", 130), ("-KILL", -1)] {
        let world = World::new(|_, _| None);
        let fetch = r#"printf 0123 >"$out.part"; echo $$ >"$WORLD/pid"; exec sleep 60"#;
        yt_dlp(&world, VENICE, fetch);
        let child = world.command("venice --source youtube").spawn().unwrap();
        until("it fetches", || !world.read("pid").is_empty());
        signal(name, child.id());
        let run = ended(child.wait_with_output().unwrap());
        assert_eq!(run.status, status, "{}", run.stderr);
        let pid = world.read("pid");
        until("yt-dlp ends", || !fs::exists(format!("/proc/{}", pid.trim())).unwrap());
        assert_eq!(world.read("data/Walking_Tour_Venice.f315.webm.part"), "0123");
    }
}

/// Formats as YouTube offers them: id, codec, height, container.
const OFFERED: &[(&str, &str, u32, &str)] = &[
    ("140", "none", 0, "m4a"),
    ("299", "avc1.64002a", 1080, "mp4"),
    ("303", "vp9", 1080, "webm"),
    ("399", "av01.0.09M.08", 1080, "mp4"),
    ("315", "vp9", 2160, "webm"),
    ("401", "av01.0.13M.08", 2160, "mp4"),
    ("571", "hev1.1.6.L183", 4320, "mp4"),
];

#[test]
fn the_real_yt_dlp_chooses_by_our_rules() {
    let Some(program) = real_yt_dlp() else {
        eprintln!(
            "skipped: no yt-dlp on PATH and none brought by `cargo xtask download-wt --upgrade-yt-dlp`"
        );
        return;
    };
    let formats = OFFERED.iter().map(|(id, codec, height, container)| {
        let (video, sound) = if *codec == "none" { ("none", "mp4a") } else { (*codec, "none") };
        format!(
            r#"{{"format_id":"{id}","url":"http://127.0.0.1:9/x","protocol":"https","ext":"{container}","fps":60,
               "vcodec":"{video}","acodec":"{sound}","height":{height},"width":{},"filesize":12}}"#,
            height * 16 / 9
        )
    });
    let formats = formats.collect::<Vec<_>>().join(",");
    let world = World::new(|_, _| None);
    let json = format!(
        r#"{{"id":"fGX0Te6pFvk","title":"x","extractor":"youtube","extractor_key":"Youtube",
           "webpage_url":"https://www.youtube.com/watch?v=fGX0Te6pFvk","formats":[{formats}]}}"#
    );
    fs::write(world.path("info.json"), json).unwrap();
    for (options, expected) in [
        ("", "3840x2160, 60 frames/s, vp9, format 315"),
        ("--max-height 4320", "3840x2160, 60 frames/s, vp9, format 315"),
        ("--max-height 1440", "1920x1080, 60 frames/s, vp9, format 303"),
    ] {
        let line = format!("venice --source youtube --dry-run {options}");
        let mut command = world.command(&line);
        command.arg("--yt-dlp").arg(&program).args(["--", "--load-info-json", "info.json"]);
        let run = ended(command.output().unwrap());
        assert_eq!(run.status, 0, "{}", run.stderr);
        assert!(run.stdout.contains(expected), "{}", run.stdout);
    }
}

fn real_yt_dlp() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cached = cache.map(|cache| cache.join("dora/yt-dlp"));
    let folders = std::env::split_paths(&path).chain(cached);
    folders.map(|folder| folder.join("yt-dlp")).find(|program| program.is_file())
}
