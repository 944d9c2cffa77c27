//! `waypost list`: all services.

use serde::Serialize;
use waypost::record::{Service, keys};
use waypost::registry::SkippedRecords;

use crate::cli::List;
use crate::error::CliError;
use crate::open_registry::OpenRegistry;
use crate::output::{self, Document, Format, SCHEMA, Style, Table};

/// Output line of one version of a service.
#[derive(Serialize)]
struct ListLine<'a> {
    name: &'a str,
    version: &'a str,
    nodes: usize,
    endpoints: usize,
    protocols: Vec<&'a str>,
}

impl<'a> ListLine<'a> {
    fn of(service: &'a Service) -> Self {
        let mut protocols: Vec<_> = service
            .nodes
            .iter()
            .filter_map(|node| node.metadata.get(keys::PROTOCOL))
            .collect();
        protocols.sort_unstable();
        protocols.dedup();
        let (nodes, endpoints) = (service.nodes.len(), service.endpoints.len());
        Self {
            name: &service.name,
            version: &service.version,
            nodes,
            endpoints,
            protocols,
        }
    }
}

pub(crate) async fn run(opened: &OpenRegistry, args: &List) -> Result<(), CliError> {
    let services = opened.list().await?;
    let skipped = opened.skipped(None);
    if services.is_empty() {
        output::note(&format!(
            "no service is registered in {}; to see some: waypost demo",
            opened.url()
        ));
    }
    let lines: Vec<_> = services.iter().map(ListLine::of).collect();
    for text in show(&lines, &skipped, args.show.format(), Style::of_stdout()) {
        output::line(&text)?;
    }
    Ok(())
}

fn show(
    lines: &[ListLine<'_>],
    skipped: &SkippedRecords,
    format: Format,
    style: Style,
) -> Vec<String> {
    match format {
        Format::Table => table(lines, style),
        Format::Wide => wide(lines, style),
        Format::Json => vec![output::pretty(&Document::new(lines, skipped))],
        Format::Jsonl => lines.iter().map(jsonl).collect(),
        Format::Name => names(lines),
    }
}

fn table(lines: &[ListLine<'_>], style: Style) -> Vec<String> {
    let mut table = Table::new(&["NAME", "VERSION", ">NODES", ">ENDPOINTS"]);
    for line in lines {
        table.row([
            line.name.into(),
            line.version.into(),
            line.nodes.to_string(),
            line.endpoints.to_string(),
        ]);
    }
    table.lines(style)
}

fn wide(lines: &[ListLine<'_>], style: Style) -> Vec<String> {
    let mut table = Table::new(&["NAME", "VERSION", ">NODES", ">ENDPOINTS", "PROTOCOLS"]);
    for line in lines {
        let (nodes, endpoints) = (line.nodes.to_string(), line.endpoints.to_string());
        table.row([
            line.name.into(),
            line.version.into(),
            nodes,
            endpoints,
            line.protocols.join(","),
        ]);
    }
    table.lines(style)
}

fn jsonl(line: &ListLine<'_>) -> String {
    #[derive(Serialize)]
    struct Tagged<'a> {
        schema: &'static str,
        #[serde(flatten)]
        line: &'a ListLine<'a>,
    }
    output::compact(&Tagged {
        schema: SCHEMA,
        line,
    })
}

/// Returns the names of the services. A service with several versions has one name.
fn names(lines: &[ListLine<'_>]) -> Vec<String> {
    let mut names: Vec<_> = lines
        .iter()
        .map(|line| crate::escape::text(line.name))
        .collect();
    names.dedup();
    names
}
