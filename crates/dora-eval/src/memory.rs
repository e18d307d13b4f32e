//! Whether memory holds what is about to be put into it, and how much was taken.

use std::{fmt, fs};

/// More bytes than the machine can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is to be put into memory.
    pub needed_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// What is short if `needed_bytes` are put into memory; nothing where the system tells not how much it has.
pub fn shortage(needed_bytes: u64) -> Option<Shortage> {
    let free_bytes = free_bytes()?;
    (needed_bytes >= free_bytes).then_some(Shortage { needed_bytes, free_bytes })
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let (needed, free) = (gib(self.needed_bytes), gib(self.free_bytes));
        write!(f, "{needed:.1} GiB of memory, and {free:.1} GiB are free")
    }
}

/// What Linux says it can still give.
fn free_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Begins to count the most memory anew, from what is held now; on systems that cannot, goes on as before.
pub fn reset_peak_memory() {
    // What Linux calls a reset of the peak.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that this process has held so far, in bytes; nothing where the system does not tell.
pub fn peak_memory_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
