//! Rust source as a stream of tokens: comments and literals are removed, lines are kept. Not a
//! parser; sufficient to follow paths.

/// Word or mark, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// Returns the tokens of a source: identifiers, `::`, and any other character by itself.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let masked = mask(source);
    let mut found = Vec::new();
    for (index, line) in masked.lines().enumerate() {
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let length = token_length(rest);
            found.push(Token { text: rest[..length].to_owned(), line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    found
}

fn token_length(text: &str) -> usize {
    let word: usize = text.chars().take_while(|c| is_word(*c)).map(char::len_utf8).sum();
    let mark = if text.starts_with("::") { 2 } else { text.chars().next().map_or(0, char::len_utf8) };
    if word > 0 { word } else { mark }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the source with a blank for every character of a comment, string or character literal;
/// line breaks are kept.
fn mask(source: &str) -> String {
    let mut masked = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let after_word = masked.chars().next_back().is_some_and(is_word);
        let skip = if after_word { 0 } else { prefixed_literal(rest) };
        let skip = if skip == 0 { comment(rest).max(literal(rest)) } else { skip };
        if skip == 0 {
            let c = rest.chars().next().unwrap_or_default();
            masked.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            masked.extend(rest[..skip].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skip..];
        }
    }
    masked
}

/// Returns the length of the comment that `text` begins with, or 0.
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

/// Returns the length of the string or character literal that `text` begins with, or 0; a lifetime
/// is not a literal.
fn literal(text: &str) -> usize {
    match text.chars().next() {
        Some('"') => closed(text, '"'),
        Some('\'') => {
            let mut inside = text[1..].chars();
            let first = inside.next();
            if first == Some('\\') || inside.next() == Some('\'') { closed(text, '\'') } else { 0 }
        }
        _ => 0,
    }
}

/// Returns the length of the literal with a prefix (`b"`, `c"`, `r#"`, `br"` …) that `text` begins
/// with, or 0.
fn prefixed_literal(text: &str) -> usize {
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        let after = text[..].strip_prefix(prefix).unwrap_or_default().trim_start_matches(['#']);
        text.starts_with(prefix) && (after.starts_with('"') || (*prefix == "b" && after.starts_with('\'')))
    });
    let Some(prefix) = prefix else { return 0 };
    let after = &text[prefix.len()..];
    if !prefix.contains('r') {
        return prefix.len() + literal(after);
    }
    let hashes = after.len() - after.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let body = &after[hashes + 1..];
    body.find(&end).map_or(text.len(), |at| prefix.len() + hashes + 1 + at + end.len())
}

/// Returns the length of the literal up to its closing `quote`; escapes are skipped.
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
        tokens(source).into_iter().map(|token| token.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_are_gone() {
        assert_eq!(words("a /* b /* c */ d */ e // f\n/// g\nh /* open"), "a e h");
    }

    #[test]
    fn literals_are_gone_and_lifetimes_are_not() {
        assert_eq!(words(r##"a("b \" // c", 'd', '\'', b"e", b'f', r#"g " h"#, c"i") j"##), "a ( , , , , , , ) j");
        assert_eq!(words("fn f<'a>(x: &'a str, r: u8) {}"), "fn f < ' a > ( x : & ' a str , r : u8 ) { }");
    }

    #[test]
    fn words_that_only_end_like_a_prefix_are_no_literals() {
        assert_eq!(words("bar(r, b) str\"x\" y"), "bar ( r , b ) str y");
    }

    #[test]
    fn paths_keep_their_lines() {
        let found = tokens("use\n\n  crate::record;");
        assert_eq!(found[1], Token { text: "crate".to_owned(), line: 3 });
        assert_eq!(found[2].text, "::");
    }
}
