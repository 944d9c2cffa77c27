//! `waypost register`: registers servers that cannot register themselves.

use std::net::SocketAddr;

use serde::Serialize;
use tokio::sync::watch;
use waypost::Registration;
use waypost::record::{Metadata, Node, Service, keys};
use waypost::registrar::State;

use crate::cli::Register;
use crate::error::CliError;
use crate::escape;
use crate::open_registry::OpenRegistry;
use crate::output::{self, Format, SCHEMA};
use crate::signals::Signals;

pub(crate) async fn run(opened: OpenRegistry, args: Register) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let format = args.show.format();
    let service = service(&args);
    let names_protocol = |node: &Node| node.metadata.contains_key(keys::PROTOCOL);
    if !service.nodes.iter().any(names_protocol) {
        output::note(
            "note: its metadata names no protocol, so Waypost's channels exclude it; add --metadata protocol=grpc",
        );
    }
    let registration = Registration::builder(opened.registry(), service)
        .ttl(args.ttl)
        .interval(args.interval)
        .allow_loopback(args.allow_loopback);
    let registration = match every_interface(&args.address) {
        Some(listener) => registration.start_on(listener).await?,
        None => registration.advertise(&args.address).start()?,
    };
    let service = registration.service();
    let node = service.nodes.first().cloned().unwrap_or_default();
    let printed = tokio::select! {
        printed = print_states(registration.watch(), &opened, &args.name, &node, format) => printed,
        () = signals.next() => Ok(()),
    };
    let left = registration
        .close()
        .await
        .map_err(|error| opened.failure(error));
    opened.close().await?;
    printed.and(left)?;
    print_event(format, "left", &args.name, &node)
}

/// Returns the address of a listener on every interface, if `address` is one: `:8080`,
/// `0.0.0.0:8080` or `[::]:8080`. The address of this host on the route to the registry is then
/// registered.
fn every_interface(address: &str) -> Option<SocketAddr> {
    let address = match address.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => address.to_owned(),
    };
    let bound: SocketAddr = address.parse().ok()?;
    (bound.ip().is_unspecified() && bound.port() != 0).then_some(bound)
}

fn service(args: &Register) -> Service {
    let mut node = match &args.id {
        Some(id) => Node::with_id(&args.name, id, ""),
        None => Node::new(&args.name, ""),
    };
    node.metadata = args.metadata.iter().cloned().collect::<Metadata>();
    let mut service = Service {
        version: args.version.clone(),
        ..Service::new(&args.name)
    };
    service.nodes.push(node);
    service
}

/// Reports the state of the registration until it has left: on stdout when it is registered, on
/// stderr when it fails.
async fn print_states(
    mut states: watch::Receiver<State>,
    opened: &OpenRegistry,
    name: &str,
    node: &Node,
    format: Format,
) -> Result<(), CliError> {
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            State::Registered { .. } => print_event(format, "registered", name, node)?,
            State::Failing { why, .. } => {
                output::note(&format!(
                    "not registered in {}, retrying: {}",
                    opened.url(),
                    escape::text(&why)
                ));
            }
            _ => {}
        }
        if states.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[derive(Serialize)]
struct RegisterOutput<'a> {
    schema: &'static str,
    event: &'a str,
    service: &'a str,
    id: &'a str,
    address: &'a str,
}

fn print_event(format: Format, event: &str, service: &str, node: &Node) -> Result<(), CliError> {
    let Node { id, address, .. } = node;
    let text = match format {
        Format::Table | Format::Wide => format!("{event} {id} at {address}"),
        Format::Json | Format::Jsonl => output::compact(&RegisterOutput {
            schema: SCHEMA,
            event,
            service,
            id,
            address,
        }),
        Format::Name if event == "left" => return Ok(()),
        Format::Name => id.clone(),
    };
    Ok(output::line(&text)?)
}
