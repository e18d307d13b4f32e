//! `download-wt`: what it builds, what it brings, what it hands on.

use std::fs;

use crate::world::{World, ended};

/// A world whose `dora-download` only says that it was started.
fn world(name: &str) -> World {
    let world = World::new(name).with_programs();
    world.script("target/dora-download", r#"echo "dora-download $*" >>"$WORLD/log""#);
    world
}

fn build(world: &World) -> String {
    let manifest = world.path("checkout/Cargo.toml");
    format!("cargo build --manifest-path {} --package dora-download --bins", manifest.display())
}

#[test]
fn it_needs_neither_libtorch_nor_yt_dlp() {
    let world = world("download-wt");
    // What any other command would ask for first.
    fs::remove_file(world.path("bin/cmake")).unwrap();
    let (status, text) = world.run("download-wt venice all --jobs 3 --dry-run");
    assert_eq!(status, 0, "{text}");
    let expected = [
        build(&world),
        "dora-download --manifest data/walking_tours.toml --out data --jobs 3 --dry-run venice all"
            .to_owned(),
    ];
    assert_eq!(world.lines("log"), expected);
    assert_eq!(world.pip_calls(), 0);
    let (status, text) = world.run("download-wt --out /elsewhere");
    assert_eq!(status, 0, "{text}");
    let expected = "dora-download --manifest data/walking_tours.toml --out /elsewhere";
    assert_eq!(world.lines("log").last().unwrap(), expected);
}

#[test]
fn yt_dlp_is_brought_once_and_upgraded_when_asked() {
    let world = world("download-wt-youtube");
    let path = crate::world::path_with_system(&world);
    let run = |line: &str| ended(world.xtask(line).env("PATH", &path).output().unwrap());
    let script = world.path("cache/dora/yt-dlp/yt-dlp");
    let started = format!(
        "dora-download --manifest data/walking_tours.toml --out data --yt-dlp {} --source youtube \
         --max-height 1080 venice -- --cookies jar",
        script.display()
    );
    let line = "download-wt venice --source youtube --max-height 1080 -- --cookies jar";
    for _ in 0..2 {
        let (status, text) = run(line);
        assert_eq!(status, 0, "{text}");
        assert_eq!(world.lines("log").last().unwrap(), &started);
        assert_eq!(world.pip_calls(), 1, "{text}");
    }
    let version = world.lines("cache/dora/yt-dlp/site/yt_dlp/version");
    let builds = world.lines("log").len();
    let (status, text) = run("download-wt --upgrade-yt-dlp");
    assert_eq!((status, world.pip_calls(), world.lines("log").len()), (0, 2, builds), "{text}");
    let newer = world.lines("cache/dora/yt-dlp/site/yt_dlp/version");
    assert!(newer != version && text.contains(&newer[0]), "{text}");

    // Without a network the one that is there stays.
    world.write("no-network", "");
    let (status, text) = run("download-wt venice --upgrade-yt-dlp");
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains("ERROR: no network") && text.contains("pip could not fetch yt-dlp"),
        "{text}"
    );
    assert_eq!(world.lines("cache/dora/yt-dlp/site/yt_dlp/version"), newer);
    let left = fs::read_dir(world.path("cache/dora")).unwrap().count();
    assert_eq!(left, 1, "nothing half-done is left");
}

#[test]
fn a_yt_dlp_on_path_is_taken() {
    let world = world("download-wt-path");
    world.script("bin/yt-dlp", "echo 2026.08.19");
    let (status, text) = world.run("download-wt venice --source youtube");
    assert_eq!((status, world.pip_calls()), (0, 0), "{text}");
    let taken = format!("--yt-dlp {} ", world.path("bin/yt-dlp").display());
    assert!(world.lines("log").last().unwrap().contains(&taken));
}
