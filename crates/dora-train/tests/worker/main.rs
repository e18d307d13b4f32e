//! The worker as users and launchers start it.
#![allow(clippy::unwrap_used)]

mod alone;
mod curve;
mod faults;
mod feed;
mod hosts;
mod launcher;
mod monitor;
mod several;
mod workbench;
