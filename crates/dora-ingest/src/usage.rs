//! What this process has used, as the system counts it.

use std::fs;

/// The most memory that was ever in use; nothing where the system does not tell.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Seconds of processor time, of this process and of its children that have ended.
pub(crate) fn cpu_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may hold anything, and ends with the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks =
        fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    // Linux counts in hundredths of a second wherever programs can see it.
    Some(ticks as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_rise_with_use() {
        let time_s = cpu_s().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        while cpu_s().unwrap() < time_s + 0.05 {
            std::hint::black_box(block.iter().map(|&b| u64::from(b)).sum::<u64>());
        }
        let peak_bytes = peak_memory_bytes().unwrap();
        assert!(peak_bytes >= 64 << 20, "{peak_bytes}");
    }
}
