//! `waypost get NAME`: one service, its nodes and its methods.

use serde::Serialize;
use waypost::record::{Endpoint, Metadata, Node, Service, Value, keys};

use crate::cli::Get;
use crate::error::CliError;
use crate::open_registry::OpenRegistry;
use crate::output::{self, Document, Format, SCHEMA, Style, Table};

pub(crate) async fn run(opened: &OpenRegistry, args: &Get) -> Result<(), CliError> {
    let services = opened.get(&args.name).await?;
    print(&services, args.show.format())
}

/// Prints one service, one record per version.
pub(super) fn print(services: &[Service], format: Format) -> Result<(), CliError> {
    for text in show(services, format, Style::of_stdout()) {
        output::line(&text)?;
    }
    Ok(())
}

fn show(services: &[Service], format: Format, style: Style) -> Vec<String> {
    match format {
        Format::Table => nodes(services, style),
        Format::Wide => wide(services, style),
        Format::Json => vec![output::pretty(&Document::new(services))],
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
            event: None,
            service,
            version,
            id,
            address,
            membership,
            metadata,
        }
    }

    /// Adds the event that concerns the node.
    pub(super) fn event(self, event: &'static str) -> Self {
        Self {
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

fn nodes(services: &[Service], style: Style) -> Vec<String> {
    let mut table = Table::new(&["NODE", "ADDRESS", "VERSION", "PROTOCOL", "MEMBERSHIP"]);
    for (service, node) in pairs(services) {
        let protocol = node
            .metadata
            .get(keys::PROTOCOL)
            .unwrap_or_default()
            .to_owned();
        table.row([
            node.id.clone(),
            node.address.clone(),
            service.version.clone(),
            protocol,
            membership(node).into(),
        ]);
    }
    table.lines(style)
}

fn wide(services: &[Service], style: Style) -> Vec<String> {
    let mut table = Table::new(&["NODE", "ADDRESS", "VERSION", "MEMBERSHIP", "METADATA"]);
    for (service, node) in pairs(services) {
        let metadata = words(&node.metadata);
        table.row([
            node.id.clone(),
            node.address.clone(),
            service.version.clone(),
            membership(node).into(),
            metadata,
        ]);
    }
    let mut lines = table.lines(style);
    if services.iter().any(|service| !service.endpoints.is_empty()) {
        lines.push(String::new());
        lines.extend(endpoints(services, style));
    }
    lines
}

fn endpoints(services: &[Service], style: Style) -> Vec<String> {
    let mut table = Table::new(&["ENDPOINT", "VERSION", "REQUEST", "RESPONSE", "METADATA"]);
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
            [request, response].map(|value| value.as_ref().map(shape).unwrap_or_default());
        table.row([
            name.clone(),
            service.version.clone(),
            request,
            response,
            words(metadata),
        ]);
    }
    table.lines(style)
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

fn words(metadata: &Metadata) -> String {
    metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}
