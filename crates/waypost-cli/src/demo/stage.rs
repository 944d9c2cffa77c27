//! Runner of the demo: counts its events, and shows them as they happen.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use waypost::Channel;

use super::call::Call;
use super::report::{Report, Setting};
use super::screen::{self, Screen};
use super::tally::Tally;
use crate::output::{self, Style};

/// Maximum number of events that wait to be counted.
pub(super) const NEWS: usize = 4096;

/// Time between two redraws.
const REDRAW: Duration = Duration::from_millis(250);

/// Event of the script or the load.
#[derive(Debug)]
pub(super) enum News {
    /// Start of a phase.
    Phase(&'static str, Instant),
    /// Action on a server.
    Act(String),
    /// Finished call.
    Call(Call),
    /// End of the load: no more calls start.
    End(Instant),
}

impl From<Call> for News {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

/// Counts and display of the demo.
pub(super) struct Stage {
    setting: Setting,
    channel: Channel,
    tally: Tally,
    act: String,
    start: Instant,
    style: Style,
}

impl Stage {
    pub(super) fn new(setting: Setting, channel: Channel) -> Self {
        let (tally, act) = (Tally::default(), String::new());
        Self { setting, channel, tally, act, start: Instant::now(), style: Style::of_stderr() }
    }

    /// Handles events until all senders are gone, and returns the report.
    pub(super) async fn follow(mut self, mut news: mpsc::Receiver<News>) -> Report {
        let mut screen = Screen::default();
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = redraw.tick(), if self.style.redraws() => screen.draw(&self.frame()),
                heard = news.recv() => match heard {
                    Some(news) => self.hear(news),
                    None => break,
                },
            }
        }
        screen.clear();
        Report::new(self.setting, self.tally)
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Call(call) => self.tally.count(&call),
            News::End(at) => self.tally.end(at),
            News::Act(act) => self.tell(act),
            News::Phase(name, at) => {
                self.tally.begin(name, at);
                self.tell(name.to_owned());
            }
        }
    }

    /// Shows an action: on a terminal as part of the view, elsewhere as a line.
    fn tell(&mut self, act: String) {
        if !self.style.redraws() {
            output::note(&format!("{:5.1} s  {act}", self.start.elapsed().as_secs_f64()));
        }
        self.act = act;
    }

    fn frame(&self) -> Vec<String> {
        screen::frame(&self.tally, &self.channel.snapshot().nodes, &self.act, self.start.elapsed(), self.style)
    }
}
