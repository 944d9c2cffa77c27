//! `waypost get NAME`: one service, its nodes and its methods.

use serde::Serialize;
use waypost::record::{Endpoint, Metadata, Node, Service, Value, keys};
use waypost::registry::SkippedRecords;

use crate::cli::Get;
use crate::error::CliError;
use crate::open_registry::OpenRegistry;
use crate::output::{self, Document, Format, SCHEMA, Style, Table};
use crate::timestamp::Timestamp;

pub(crate) async fn run(opened: &OpenRegistry, args: &Get) -> Result<(), CliError> {
    let services = opened.get(&args.name).await?;
    let skipped = opened.skipped(Some(&args.name));
    print(&services, &skipped, args.show.format())
}

/// Prints one service, one record per version.
pub(super) fn print(
    services: &[Service],
    skipped: &SkippedRecords,
    format: Format,
) -> Result<(), CliError> {
    for text in show(services, skipped, format, Style::of_stdout()) {
        output::line(&text)?;
    }
    Ok(())
}

fn show(
    services: &[Service],
    skipped: &SkippedRecords,
    format: Format,
    style: Style,
) -> Vec<String> {
    match format {
        Format::Table => tables(services, Detail::Brief, style),
        Format::Wide => tables(services, Detail::Full, style),
        Format::Json => vec![output::pretty(&Document::new(services, skipped))],
        Format::Jsonl => pairs(services)
            .map(|(service, node)| output::compact(&NodeLine::of(service, node)))
            .collect(),
        Format::Name => pairs(services)
            .map(|(_, node)| crate::escape::text(&node.id))
            .collect(),
    }
}

fn pairs(services: &[Service]) -> impl Iterator<Item = (&Service, &Node)> {
    services
        .iter()
        .flat_map(|service| service.nodes.iter().map(move |node| (service, node)))
}

/// JSON line of one node.
#[derive(Serialize)]
pub(super) struct NodeLine<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    service: &'a str,
    version: &'a str,
    id: &'a str,
    address: &'a str,
    membership: &'static str,
    metadata: &'a Metadata,
}

impl<'a> NodeLine<'a> {
    pub(super) fn of(service: &'a Service, node: &'a Node) -> Self {
        let membership = membership(node);
        let (id, address, metadata) = (&node.id, &node.address, &node.metadata);
        let (service, version) = (&service.name, &service.version);
        Self {
            schema: SCHEMA,
            time: None,
            event: None,
            service,
            version,
            id,
            address,
            membership,
            metadata,
        }
    }

    /// Adds the event that concerns the node, and its time.
    pub(super) fn event(self, event: &'static str, time: Timestamp) -> Self {
        Self {
            time: Some(time),
            event: Some(event),
            ..self
        }
    }
}

fn membership(node: &Node) -> &'static str {
    if node.is_leaving() {
        "leaving"
    } else {
        "confirmed"
    }
}

/// Extent of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    /// Metadata without that which Waypost keeps for itself or which has a column, and the names of
    /// messages.
    Brief,
    /// All metadata, and the fields of messages.
    Full,
}

/// Returns the nodes, the metadata of the service, and its methods; empty tables are left out.
fn tables(services: &[Service], detail: Detail, style: Style) -> Vec<String> {
    let mut lines = nodes(services, detail).lines(style);
    if services.iter().any(|service| !service.metadata.is_empty()) {
        lines.push(String::new());
        lines.extend(metadata(services).lines(style));
    }
    if services.iter().any(|service| !service.endpoints.is_empty()) {
        lines.push(String::new());
        lines.extend(endpoints(services, detail).lines(style));
    }
    lines
}

fn nodes(services: &[Service], detail: Detail) -> Table {
    let columns = [
        "NODE",
        "ADDRESS",
        "VERSION",
        "PROTOCOL",
        "MEMBERSHIP",
        "METADATA",
    ];
    let mut table = Table::new(&columns);
    let is_shown = |key: &str| {
        let in_detail = [keys::PROTOCOL, keys::STATE, keys::INSTANCE, keys::INTERVAL];
        let has_column = in_detail.contains(&key);
        detail == Detail::Full || !has_column
    };
    for (service, node) in pairs(services) {
        let protocol = node.metadata.get(keys::PROTOCOL).unwrap_or_default();
        table.row([
            node.id.clone(),
            node.address.clone(),
            service.version.clone(),
            protocol.to_owned(),
            membership(node).into(),
            words(&node.metadata, is_shown),
        ]);
    }
    if detail == Detail::Brief {
        table.drop_if_empty("METADATA");
    }
    table
}

fn metadata(services: &[Service]) -> Table {
    let mut table = Table::new(&["SERVICE", "VERSION", "METADATA"]);
    for service in services {
        table.row([
            service.name.clone(),
            service.version.clone(),
            words(&service.metadata, |_| true),
        ]);
    }
    table
}

/// Returns the methods. A record that would have been too long has no messages.
fn endpoints(services: &[Service], detail: Detail) -> Table {
    let mut table = Table::new(&["ENDPOINT", "VERSION", "REQUEST", "RESPONSE", "METADATA"]);
    let message: fn(&Value) -> String = match detail {
        Detail::Brief => |value| value.kind.clone(),
        Detail::Full => shape,
    };
    for (service, endpoint) in services
        .iter()
        .flat_map(|service| service.endpoints.iter().map(move |e| (service, e)))
    {
        let Endpoint {
            name,
            request,
            response,
            metadata,
        } = endpoint;
        let [request, response] =
            [request, response].map(|value| value.as_ref().map(message).unwrap_or_default());
        table.row([
            name.clone(),
            service.version.clone(),
            request,
            response,
            words(metadata, |_| true),
        ]);
    }
    for column in ["REQUEST", "RESPONSE", "METADATA"] {
        table.drop_if_empty(column);
    }
    table
}

/// Formats a message as `HelloRequest{name string}`: one level, since more does not fit on a line.
fn shape(value: &Value) -> String {
    let fields: Vec<_> = value
        .values
        .iter()
        .map(|field| format!("{} {}", field.name, field.kind))
        .collect();
    format!("{}{{{}}}", value.kind, fields.join(", "))
}

fn words(metadata: &Metadata, is_shown: impl Fn(&str) -> bool) -> String {
    metadata
        .iter()
        .filter(|(key, _)| is_shown(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}
