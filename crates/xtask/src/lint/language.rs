//! Language that a script can hold: first words of doc comments, words that have given way to the
//! field's terms, one spelling of backoff.

use super::Finding;
use crate::source::{doc_comments, tokens};
use crate::workspace::{Result, Workspace};

/// First words of a sentence that hide its subject: question words and pronouns.
const HIDDEN_SUBJECT: &[&str] = &[
    "what",
    "whatever",
    "whether",
    "how",
    "who",
    "whom",
    "whose",
    "whoever",
    "which",
    "when",
    "where",
    "why",
    "it",
    "its",
    "they",
    "their",
    "he",
    "she",
    "we",
    "our",
    "you",
    "your",
    "i",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "this",
    "that",
    "these",
    "those",
];

/// Words that have given way, and the terms to use.
const GONE: &[(&str, &str)] = &[
    ("nobody", "name the subject, or use the passive"),
    (
        "somebody",
        "name the subject: the caller, the client, another process",
    ),
    ("whoever", "name the subject: the caller, the client"),
    ("anew", "again"),
    ("hindrance", "exclusion"),
    ("back-off", "backoff (noun), back off (verb)"),
    ("backs-off", "backs off"),
];

/// Words that are not part of a name in the code.
const GONE_FROM_NAMES: &[&str] = &[
    "tell", "tells", "told", "hear", "hears", "heard", "news", "say", "says", "said", "stands",
    "anew", "nobody", "somebody", "whoever",
];

/// Files that quote the words that are gone: this one.
const EXEMPT: &[&str] = &["crates/xtask/src/lint/language.rs", "CHANGELOG.md"];

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in workspace.tracked()? {
        let is_text = file.ends_with(".rs") || file.ends_with(".md");
        // A tracked file may be deleted in the work tree.
        let Ok(text) = workspace.read(&file) else {
            continue;
        };
        if !is_text || EXEMPT.contains(&file.as_str()) {
            continue;
        }
        if file.ends_with(".rs") {
            findings.extend(first_words(&file, &text));
            findings.extend(gone_words(&file, &comments(&text)));
            findings.extend(gone_names(&file, &text));
        } else {
            findings.extend(gone_words(&file, &text));
        }
    }
    Ok(findings)
}

fn first_words(file: &str, text: &str) -> Vec<Finding> {
    let hidden = doc_comments(text)
        .into_iter()
        .filter(|comment| hides_subject(&comment.text));
    hidden
        .map(|comment| {
            let what = format!(
                "a doc comment begins with `{}`",
                first_word(&comment.text).unwrap_or_default()
            );
            let remedy =
                "begin with a verb in the third person (function) or a noun phrase (type, field)";
            Finding::new(format!("{file}:{}", comment.line), what, remedy)
        })
        .collect()
}

/// Returns the comments of a source, each on its line.
fn comments(source: &str) -> String {
    let comment = |line: &str| line.find("//").map_or("", |at| &line[at..]).to_owned();
    source.lines().map(comment).collect::<Vec<_>>().join("\n")
}

fn gone_words(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for (word, term) in GONE.iter().filter(|(word, _)| has_word(&lower, word)) {
            let place = format!("{file}:{}", index + 1);
            findings.push(Finding::new(
                place,
                format!("the word `{word}`"),
                format!("use: {term}"),
            ));
        }
    }
    findings
}

/// Finds names with a word that is gone.
fn gone_names(file: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for token in tokens(source) {
        let gone = |part: &&str| GONE_FROM_NAMES.contains(part);
        if let Some(word) = token.text.split('_').find(gone) {
            findings.push(Finding::new(
                format!("{file}:{}", token.line),
                format!("the name `{}`", token.text),
                format!("use a term of the field instead of `{word}`"),
            ));
        }
    }
    findings
}

/// Returns true if the sentence begins with a question word or a pronoun.
pub(crate) fn hides_subject(sentence: &str) -> bool {
    first_word(sentence).is_some_and(|word| HIDDEN_SUBJECT.contains(&word.to_lowercase().as_str()))
}

/// Returns the first word of a sentence; none if it begins with code.
fn first_word(sentence: &str) -> Option<&str> {
    let start = sentence.trim_start_matches([' ', '*', '(', '"']);
    let end = start
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(start.len());
    (end > 0).then_some(&start[..end])
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doc_comments_that_hide_their_subject_are_reported() {
        let source = "/// What it is.\nfn a() {}\n/// Returns it.\nfn b() {}\n/// [`It`] is a type.\nfn c() {}";
        let found = first_words("a.rs", source);
        assert_eq!(
            found
                .iter()
                .map(|finding| finding.place.as_str())
                .collect::<Vec<_>>(),
            ["a.rs:1"]
        );
    }

    #[test]
    fn names_with_a_word_that_is_gone_are_reported() {
        let source = "fn tell_all() {}\nfn teller() { \"tell\" } // say\nlet (said, b) = c;";
        let places: Vec<_> = gone_names("a.rs", source)
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(places, ["a.rs:1", "a.rs:3"]);
    }

    #[test]
    fn words_that_are_gone_are_reported_whole() {
        let found = gone_words("a.md", "Anew.\nrenewed anewer\nthe Back-off of nobody");
        let found: Vec<_> = found
            .iter()
            .map(|finding| (finding.place.as_str(), finding.what.as_str()))
            .collect();
        let expected = [
            ("a.md:1", "the word `anew`"),
            ("a.md:3", "the word `nobody`"),
            ("a.md:3", "the word `back-off`"),
        ];
        assert_eq!(found, expected);
    }
}
