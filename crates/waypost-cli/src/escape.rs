//! Escaping of text from a registry, which may contain anything. Characters that a terminal would
//! interpret or hide are made visible.

use std::fmt::Write;

/// Returns `text` with every character that a terminal interprets or hides written as `\u{…}`.
pub(crate) fn text(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut safe, c| {
            if is_dangerous(c) {
                safe.extend(c.escape_unicode());
            } else {
                safe.push(c);
            }
            safe
        })
}

/// Returns JSON with the same characters as `\uXXXX`, which leaves the data unchanged. Line breaks
/// between the data stay too; within it, JSON has already escaped them.
pub(crate) fn json(json: &str) -> String {
    json.chars()
        .fold(String::with_capacity(json.len()), |mut safe, c| {
            if c != '\n' && is_dangerous(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            } else {
                safe.push(c);
            }
            safe
        })
}

/// Returns true for control characters (C0, DEL, C1), line separators, and all characters that
/// reorder or hide the text around them: directional marks and overrides, zero-width and soft
/// characters, tags (Unicode's `Cf`, and UTS 39).
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "a\u{1b}[31mb\u{9b}2Jc\rd\ne\u{202e}f\u{2066}g\u{200b}h\u{e0041}i\u{7f}\"\\ é 名";

    #[test]
    fn what_a_terminal_would_obey_or_hide_is_shown() {
        let shown = r#"a\u{1b}[31mb\u{9b}2Jc\u{d}d\u{a}e\u{202e}f\u{2066}g\u{200b}h\u{e0041}i\u{7f}"\ é 名"#;
        assert_eq!(text(HOSTILE), shown);
    }

    #[test]
    fn json_stays_the_same_data_without_a_dangerous_character() {
        let safe = json(&serde_json::to_string_pretty(&[HOSTILE]).unwrap());
        assert!(
            safe.chars().all(|c| c == '\n' || !is_dangerous(c)),
            "{safe}"
        );
        assert_eq!(
            serde_json::from_str::<Vec<String>>(&safe).unwrap(),
            [HOSTILE]
        );
    }
}
