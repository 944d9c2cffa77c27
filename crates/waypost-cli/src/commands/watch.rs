//! `waypost watch [NAME]`: prints changes as they happen.

use serde::Serialize;
use waypost::record::Entry;
use waypost::registry::{Event, NodeSet};

use super::get::NodeLine;
use crate::cli::Watch;
use crate::error::CliError;
use crate::escape;
use crate::open_registry::OpenRegistry;
use crate::output::{self, Format, SCHEMA, Style};
use crate::timestamp::Timestamp;

pub(crate) async fn run(opened: &OpenRegistry, args: &Watch) -> Result<(), CliError> {
    let mut watcher = opened.watch(args.name.as_deref()).await?;
    let mut states = NodeStates::default();
    let printer = Printer {
        format: args.show.format(),
        style: Style::of_stdout(),
    };
    printer.heading()?;
    while let Some(item) = watcher.next().await {
        match item {
            Ok(event) => printer.print(&states.on_event(event), Timestamp::now())?,
            Err(error) => output::note(
                &opened
                    .failure(error)
                    .continuing("still watching")
                    .to_string(),
            ),
        }
    }
    Err(CliError::registry("the registry was closed").next("watch again: waypost watch"))
}

/// Known nodes of the watcher, by which its events become changes.
#[derive(Default)]
struct NodeStates {
    picture: NodeSet,
    begun: bool,
}

/// One change of one node; no entry for the first reset.
struct NodeEvent {
    what: &'static str,
    entry: Option<Entry>,
    nodes: usize,
}

impl NodeStates {
    fn on_event(&mut self, event: Event) -> Vec<NodeEvent> {
        match event {
            Event::Reset(entries) if !std::mem::replace(&mut self.begun, true) => {
                self.begin(entries)
            }
            Event::Reset(entries) => {
                let changes = self.picture.events_to(&entries.into_iter().collect());
                changes
                    .into_iter()
                    .filter_map(|change| self.change(change))
                    .collect()
            }
            change => self.change(change).into_iter().collect(),
        }
    }

    fn begin(&mut self, entries: Vec<Entry>) -> Vec<NodeEvent> {
        self.picture = NodeSet::from_iter(entries);
        let nodes = self.picture.len();
        let present = self.picture.iter().map(|entry| NodeEvent {
            what: "present",
            entry: Some(entry.clone()),
            nodes,
        });
        std::iter::once(NodeEvent {
            what: "reset",
            entry: None,
            nodes,
        })
        .chain(present)
        .collect()
    }

    /// Applies an event. A node that was marked as leaving has left; one that was not is lost.
    fn change(&mut self, event: Event) -> Option<NodeEvent> {
        let (what, entry) = match &event {
            Event::Created(entry) => ("created", entry.clone()),
            Event::Updated(entry) if entry.node.is_leaving() => ("leaving", entry.clone()),
            Event::Updated(entry) => ("updated", entry.clone()),
            Event::Deleted(key) => {
                let entry = self.picture.get(key)?.clone();
                (
                    if entry.node.is_leaving() {
                        "left"
                    } else {
                        "lost"
                    },
                    entry,
                )
            }
            Event::Reset(_) => return None,
        };
        self.picture.apply(event);
        Some(NodeEvent {
            what,
            entry: Some(entry),
            nodes: self.picture.len(),
        })
    }
}

#[derive(Serialize)]
struct Reset {
    schema: &'static str,
    time: Timestamp,
    event: &'static str,
    nodes: usize,
}

struct Printer {
    format: Format,
    style: Style,
}

impl Printer {
    /// Prints the heading. Rows are printed as they come, so the columns have fixed widths.
    fn heading(&self) -> Result<(), CliError> {
        let time = match self.format {
            Format::Table => "TIME (UTC)",
            Format::Wide => "TIME",
            _ => return Ok(()),
        };
        let heading = self.row(time, ["EVENT", "NODE", "ADDRESS", "VERSION"]);
        Ok(output::line(&self.style.strong(&heading))?)
    }

    fn print(&self, events: &[NodeEvent], time: Timestamp) -> Result<(), CliError> {
        for event in events {
            if let Some(text) = self.text(event, time) {
                output::line(&text)?;
            }
        }
        Ok(())
    }

    fn text(&self, event: &NodeEvent, time: Timestamp) -> Option<String> {
        let json = matches!(self.format, Format::Json | Format::Jsonl);
        let Some(entry) = &event.entry else {
            return json.then(|| {
                output::compact(&Reset {
                    schema: SCHEMA,
                    time,
                    event: event.what,
                    nodes: event.nodes,
                })
            });
        };
        let node = &entry.node;
        let version = &entry.service.version;
        let cells = [event.what, &node.id, &node.address, version];
        Some(match self.format {
            Format::Table => self.row(&time.time_of_day(), cells),
            Format::Wide => self.row(&time.to_string(), cells),
            Format::Name => escape::text(&node.id),
            Format::Json | Format::Jsonl => {
                output::compact(&NodeLine::of(&entry.to_service(), node).event(event.what, time))
            }
        })
    }

    /// Formats a row. The columns fit `<service>-<uuid>` of a short name, and IPv4. On a terminal
    /// that is too narrow for them they are not padded.
    fn row(&self, time: &str, cells: [&str; 4]) -> String {
        let [event, node, address, version] = cells.map(escape::text);
        let time_width = match self.format {
            Format::Wide => 24,
            _ => 12,
        };
        let padded =
            format!("{time:<time_width$}  {event:<8}  {node:<44}  {address:<21}  {version}");
        let padded = padded.trim_end();
        if self.style.fits(padded.chars().count()) {
            return padded.to_owned();
        }
        format!("{time:<time_width$}  {event:<8}  {node}  {address}  {version}")
            .trim_end()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use waypost::record::{Node, Service, keys};

    use super::*;

    fn entry(id: &str, leaving: bool) -> Entry {
        let mut service = Service::new("greeter");
        let mut node = Node::with_id("greeter", id, "127.0.0.1:1");
        if leaving {
            node.metadata.insert(keys::STATE, keys::LEAVING);
        }
        service.nodes.push(node);
        service.entries().remove(0)
    }

    fn lines(states: &mut NodeStates, event: Event) -> Vec<String> {
        let word = |events: &NodeEvent| {
            events.entry.as_ref().map_or("all".to_owned(), |entry| {
                entry.node.id.replace("greeter-", "")
            })
        };
        states
            .on_event(event)
            .iter()
            .map(|events| format!("{} {}", events.what, word(events)))
            .collect()
    }

    #[test]
    fn a_leave_is_distinguished_from_a_loss_and_a_gap_reports_only_what_changed() {
        let mut states = NodeStates::default();
        let first = Event::Reset(vec![entry("a", false), entry("b", false)]);
        assert_eq!(
            lines(&mut states, first),
            ["reset all", "present a", "present b"]
        );
        assert_eq!(
            lines(&mut states, Event::Updated(entry("a", true))),
            ["leaving a"]
        );
        assert_eq!(
            lines(&mut states, Event::Deleted(entry("a", true).key())),
            ["left a"]
        );
        assert_eq!(
            lines(&mut states, Event::Reset(vec![entry("c", false)])),
            ["lost b", "created c"]
        );
        assert_eq!(
            lines(&mut states, Event::Deleted(entry("z", false).key())),
            Vec::<String>::new()
        );
    }
}
