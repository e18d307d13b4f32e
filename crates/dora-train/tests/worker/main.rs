//! The worker as users and launchers start it.
#![allow(clippy::unwrap_used)]

mod alone;
mod faults;
mod hosts;
mod several;
mod workbench;
