//! The real downloads: library and binary against a server on this machine, and stand-ins for `yt-dlp`
//! and `deface`.

#![allow(clippy::unwrap_used)]

mod figshare;
mod server;
mod transfer;
mod world;
mod youtube;
