//! Output of a process: its lines, kept for readers and for failure messages.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;

/// Maximum number of lines kept of one stream; the oldest lines are dropped first.
const KEPT: usize = 200_000;
/// Maximum number of lines of each stream in a failure message.
const SHOWN: usize = 40;

/// Lines read from one stream so far.
#[derive(Debug, Default)]
pub(crate) struct Output {
    lines: VecDeque<String>,
    forgotten: usize,
    ended: bool,
}

impl Output {
    /// Returns true if line number `index`, counted from 0, was read or will never come.
    pub(crate) fn knows(&self, index: usize) -> bool {
        self.ended || index < self.forgotten + self.lines.len()
    }

    /// Returns true if the stream was closed, so that no line can follow.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns line number `index`, or `None` if it was not read or was dropped.
    pub(crate) fn line(&self, index: usize) -> Option<&str> {
        self.lines
            .get(index.checked_sub(self.forgotten)?)
            .map(String::as_str)
    }

    /// Returns all lines that are kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// Returns the last lines, for a failure message.
    pub(crate) fn tail(&self) -> String {
        let skipped = self.lines.len().saturating_sub(SHOWN);
        let note = match self.forgotten + skipped {
            0 => String::new(),
            more => format!("\n  … {more} lines before"),
        };
        self.lines
            .iter()
            .skip(skipped)
            .fold(note, |text, line| text + "\n  " + line)
    }

    fn push(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
            self.forgotten += 1;
        }
    }
}

/// Reads `stream` to its end into `output`.
pub(crate) async fn read(stream: impl AsyncRead + Unpin, output: watch::Sender<Output>) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        output.send_modify(|output| output.push(String::from_utf8_lossy(&line).into_owned()));
    }
    output.send_modify(|output| output.ended = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_to_the_end_and_known_by_number() {
        let (sender, receiver) = watch::channel(Output::default());
        assert!(!receiver.borrow().knows(0));
        read(&b"one\ntwo \xff\nthree"[..], sender).await;
        let output = receiver.borrow();
        assert_eq!(
            (output.line(0), output.line(2), output.line(3)),
            (Some("one"), Some("three"), None)
        );
        assert!(output.knows(3), "it has ended");
        assert_eq!(output.tail(), "\n  one\n  two \u{fffd}\n  three");
    }

    #[test]
    fn a_long_output_forgets_its_oldest_lines() {
        let mut output = Output::default();
        (0..KEPT + 5).for_each(|number| output.push(number.to_string()));
        assert_eq!((output.line(4), output.line(5)), (None, Some("5")));
        assert!(
            output
                .tail()
                .starts_with(&format!("\n  … {} lines before\n", KEPT + 5 - SHOWN))
        );
    }
}
