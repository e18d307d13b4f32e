//! Sizes for people, and foreign words made safe to show.

/// Bytes for people: `28.1 GB`, `3.5 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let count = count as f64;
    if count >= 1e9 {
        format!("{:.1} GB", count / 1e9)
    } else if count >= 1e6 {
        format!("{:.1} MB", count / 1e6)
    } else {
        format!("{:.1} kB", count / 1e3)
    }
}

/// What a server or another program said, on one line, without control characters, not too long.
pub(crate) fn foreign(text: &str) -> String {
    const LONGEST_CHARS: usize = 300;
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect();
    let mut line: String = words.join(" ");
    if let Some((at, _)) = line.char_indices().nth(LONGEST_CHARS) {
        line.truncate(at);
        line.push_str("...");
    }
    line
}

/// Letters and digits alone, in lower case: how names are compared.
pub(crate) fn key(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_cannot_steer_a_terminal() {
        assert_eq!(foreign("a\x1b[31m\nb\r\tc\u{9b}2J "), "a [31m b c 2J");
        assert_eq!(foreign(&"ü".repeat(1000)), "ü".repeat(300) + "...");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(28_123_456_789), "28.1 GB");
        assert_eq!(bytes(3_500_000), "3.5 MB");
        assert_eq!(bytes(12), "0.0 kB");
    }
}
