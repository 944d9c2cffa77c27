//! Progress on a terminal while a response is awaited: nothing at first, then the elapsed time.

use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Style;

/// Time before the first line. [`REDRAW`] is the time between two.
const PATIENCE: Duration = Duration::from_millis(300);
const REDRAW: Duration = Duration::from_millis(100);

/// Waits for `answer`. On a terminal, stderr shows `what` and counts the seconds.
pub(crate) async fn awaited<T>(what: &str, answer: impl Future<Output = T>) -> T {
    if Style::of_stderr().redraws() {
        counted(what, answer, &mut io::stderr()).await
    } else {
        answer.await
    }
}

async fn counted<T>(what: &str, answer: impl Future<Output = T>, terminal: &mut impl Write) -> T {
    let (mut answer, begun) = (std::pin::pin!(answer), Instant::now());
    let mut redraw = interval_at(begun + PATIENCE, REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut line = ProgressLine {
        terminal,
        drawn: false,
    };
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = redraw.tick() => line.draw(&format!("{what}: {:.1} s", begun.elapsed().as_secs_f64())),
        }
    }
}

/// Line that is redrawn in place, and removed on drop, however the wait ends.
struct ProgressLine<'a, W: Write> {
    terminal: &'a mut W,
    drawn: bool,
}

impl<W: Write> ProgressLine<'_, W> {
    /// Draws the line, truncated at the edge so that it stays one line. An error is ignored, since
    /// without stderr there is no reader.
    fn draw(&mut self, text: &str) {
        self.drawn = true;
        let _ = write!(self.terminal, "\r\u{1b}[?7l{text}\u{1b}[K\u{1b}[?7h");
        let _ = self.terminal.flush();
    }
}

impl<W: Write> Drop for ProgressLine<'_, W> {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(self.terminal, "\r\u{1b}[K");
            let _ = self.terminal.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    async fn shown(ms: u64) -> String {
        let mut terminal = Vec::new();
        counted(
            "reading it",
            sleep(Duration::from_millis(ms)),
            &mut terminal,
        )
        .await;
        String::from_utf8(terminal).unwrap().replace('\u{1b}', "^")
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_soon_there_shows_nothing() {
        assert_eq!(shown(299).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_seconds_are_counted_on_one_line_which_goes_away() {
        let line = |seconds: &str| format!("\r^[?7lreading it: {seconds} s^[K^[?7h");
        assert_eq!(
            shown(450).await,
            [line("0.3"), line("0.4"), "\r^[K".to_owned()].concat()
        );
    }
}
