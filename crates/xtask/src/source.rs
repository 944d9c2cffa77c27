//! Rust source as a stream of words and marks, as lines of code and as doc comments. Not a parser;
//! enough to follow paths and to count.

/// Word or mark, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Returns the tokens of a source: identifiers, `::`, and any other character by itself. Comments and
/// literals are left out.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let masked = mask(source, Literals::Blank);
    let mut found = Vec::new();
    for (index, line) in masked.lines().enumerate() {
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let length = token_length(rest);
            found.push(Token {
                text: rest[..length].to_owned(),
                line: index + 1,
            });
            rest = rest[length..].trim_start();
        }
    }
    found
}

fn token_length(text: &str) -> usize {
    let word: usize = text
        .chars()
        .take_while(|c| is_word(*c))
        .map(char::len_utf8)
        .sum();
    let mark = if text.starts_with("::") {
        2
    } else {
        text.chars().next().map_or(0, char::len_utf8)
    };
    if word > 0 { word } else { mark }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns for each line whether it holds code: anything but blanks and comments.
pub(crate) fn code_lines(source: &str) -> Vec<bool> {
    mask(source, Literals::Kept)
        .lines()
        .map(|line| !line.trim().is_empty())
        .collect()
}

/// A doc comment: its text without the marks, and the line that it starts on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DocComment {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Returns the doc comments of a source: each run of lines that begin with `///` or `//!`.
pub(crate) fn doc_comments(source: &str) -> Vec<DocComment> {
    let mut found: Vec<DocComment> = Vec::new();
    let mut open = false;
    for (index, line) in source.lines().enumerate() {
        let trimmed = line.trim_start();
        let text = trimmed
            .strip_prefix("///")
            .or_else(|| trimmed.strip_prefix("//!"));
        match (text, found.last_mut()) {
            (Some(text), Some(last)) if open => {
                last.text.push('\n');
                last.text.push_str(text.strip_prefix(' ').unwrap_or(text));
            }
            (Some(text), _) => {
                let text = text.strip_prefix(' ').unwrap_or(text).to_owned();
                found.push(DocComment {
                    text,
                    line: index + 1,
                });
            }
            (None, _) => {}
        }
        open = text.is_some();
    }
    found
}

/// Treatment of string and character literals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literals {
    Blank,
    Kept,
}

/// Returns the source with a blank for every character of a comment, and of a literal if wanted.
/// Line breaks stay.
fn mask(source: &str, literals: Literals) -> String {
    let mut masked = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let after_word = masked.chars().next_back().is_some_and(is_word);
        let in_comment = comment(rest);
        let prefixed = if after_word {
            0
        } else {
            prefixed_literal(rest)
        };
        let skip = if prefixed > 0 {
            prefixed
        } else {
            in_comment.max(literal(rest))
        };
        let blank = skip > 0 && (in_comment > 0 || literals == Literals::Blank);
        let length = skip.max(rest.chars().next().map_or(0, char::len_utf8));
        let kept = |c| if blank && c != '\n' { ' ' } else { c };
        masked.extend(rest[..length].chars().map(kept));
        rest = &rest[length..];
    }
    masked
}

/// The length of the comment that `text` begins with, or 0.
fn comment(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if !text.starts_with("/*") {
        return 0;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text[at..];
        match () {
            () if here.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            () if here.starts_with("*/") => (depth, at) = (depth - 1, at + 2),
            () => at += here.chars().next().map_or(1, char::len_utf8),
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` begins with, or 0; a lifetime is none.
fn literal(text: &str) -> usize {
    match text.chars().next() {
        Some('"') => closed(text, '"'),
        Some('\'') => {
            let mut inside = text[1..].chars();
            let first = inside.next();
            if first == Some('\\') || inside.next() == Some('\'') {
                closed(text, '\'')
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// The length of the literal with a prefix (`b"`, `c"`, `r#"`, `br"` …) that `text` begins with, or 0.
fn prefixed_literal(text: &str) -> usize {
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        let after = text[..]
            .strip_prefix(prefix)
            .unwrap_or_default()
            .trim_start_matches(['#']);
        text.starts_with(prefix)
            && (after.starts_with('"') || (*prefix == "b" && after.starts_with('\'')))
    });
    let Some(prefix) = prefix else { return 0 };
    let after = &text[prefix.len()..];
    if !prefix.contains('r') {
        return prefix.len() + literal(after);
    }
    let hashes = after.len() - after.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let body = &after[hashes + 1..];
    body.find(&end)
        .map_or(text.len(), |at| prefix.len() + hashes + 1 + at + end.len())
}

/// The length of the literal up to its closing `quote`, escapes passed over.
fn closed(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> String {
        tokens(source)
            .into_iter()
            .map(|token| token.text)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn comments_are_gone() {
        assert_eq!(
            words("a /* b /* c */ d */ e // f\n/// g\nh /* open"),
            "a e h"
        );
    }

    #[test]
    fn literals_are_gone_and_lifetimes_are_not() {
        assert_eq!(
            words(r##"a("b \" // c", 'd', '\'', b"e", b'f', r#"g " h"#, c"i") j"##),
            "a ( , , , , , , ) j"
        );
        assert_eq!(
            words("fn f<'a>(x: &'a str, r: u8) {}"),
            "fn f < ' a > ( x : & ' a str , r : u8 ) { }"
        );
    }

    #[test]
    fn words_that_only_end_like_a_prefix_are_no_literals() {
        assert_eq!(words("bar(r, b) str\"x\" y"), "bar ( r , b ) str y");
    }

    #[test]
    fn lines_of_code_hold_more_than_comments() {
        let source = "a // b\n\n/// c\n/* d\ne */ f\nlet g = \"\nh\n\";";
        assert_eq!(
            code_lines(source),
            [true, false, false, false, true, true, true, true]
        );
    }

    #[test]
    fn doc_comments_are_runs_of_lines() {
        let found = doc_comments("//! A.\n//!\n//! B.\nx\n    /// C\n    y // d\n// e");
        let texts: Vec<_> = found
            .iter()
            .map(|comment| (comment.text.as_str(), comment.line))
            .collect();
        assert_eq!(texts, [("A.\n\nB.", 1), ("C", 5)]);
    }

    #[test]
    fn paths_keep_their_lines() {
        let found = tokens("use\n\n  crate::record;");
        assert_eq!(
            found[1],
            Token {
                text: "crate".to_owned(),
                line: 3
            }
        );
        assert_eq!(found[2].text, "::");
    }
}
