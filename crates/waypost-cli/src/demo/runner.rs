//! Runner of the demo: counts its events, and shows them as they happen.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use waypost::Channel;

use super::call::DemoCall;
use super::report::{DemoReport, DemoSetting};
use super::screen::{self, Screen};
use super::stats::Stats;
use crate::output::{self, Style};

/// Maximum number of events that wait to be counted.
pub(super) const QUEUE: usize = 4096;

/// Time between two redraws.
const REDRAW: Duration = Duration::from_millis(250);

/// Event of the script or the load.
#[derive(Debug)]
pub(super) enum DemoEvent {
    /// Start of a phase.
    DemoPhase(&'static str, Instant),
    /// Action on a server.
    Act(String),
    /// Finished call.
    DemoCall(DemoCall),
    /// A server serves the certificate that was replaced this long ago.
    CertificateServed(Duration),
    /// End of the load: no more calls start.
    End(Instant),
}

impl From<DemoCall> for DemoEvent {
    fn from(call: DemoCall) -> Self {
        Self::DemoCall(call)
    }
}

/// Counts and display of the demo.
pub(super) struct Runner {
    setting: DemoSetting,
    channel: Channel,
    stats: Stats,
    act: String,
    start: Instant,
    style: Style,
}

impl Runner {
    pub(super) fn new(setting: DemoSetting, channel: Channel) -> Self {
        let (stats, act) = (Stats::default(), String::new());
        Self {
            setting,
            channel,
            stats,
            act,
            start: Instant::now(),
            style: Style::of_stderr(),
        }
    }

    /// Handles events until all senders are gone, and returns the report.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<DemoEvent>) -> DemoReport {
        let mut screen = Screen::default();
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = redraw.tick(), if self.style.redraws() => screen.draw(&self.frame()),
                received = events.recv() => match received {
                    Some(events) => self.on_event(events),
                    None => break,
                },
            }
        }
        screen.clear();
        DemoReport::new(self.setting, self.stats)
    }

    fn on_event(&mut self, events: DemoEvent) {
        match events {
            DemoEvent::DemoCall(call) => self.stats.count(&call),
            DemoEvent::CertificateServed(after) => self.stats.certificate_served(after),
            DemoEvent::End(at) => self.stats.end(at),
            DemoEvent::Act(act) => self.log(act),
            DemoEvent::DemoPhase(name, at) => {
                self.stats.begin(name, at);
                self.log(name.to_owned());
            }
        }
    }

    /// Shows an action: on a terminal as part of the view, elsewhere as a line.
    fn log(&mut self, act: String) {
        if !self.style.redraws() {
            output::note(&format!(
                "{:5.1} s  {act}",
                self.start.elapsed().as_secs_f64()
            ));
        }
        self.act = act;
    }

    fn frame(&self) -> Vec<String> {
        screen::frame(
            &self.stats,
            &self.channel.snapshot().nodes,
            &self.act,
            self.start.elapsed(),
            self.style,
        )
    }
}
