//! `waypost deregister NAME ID`: removes a node that its owner left behind.

use waypost::record::{NilableVec, Node, Service};
use waypost::registry::DeregisterOptions;

use crate::cli::Deregister;
use crate::error::CliError;
use crate::escape;
use crate::open_registry::OpenRegistry;
use crate::output;

pub(crate) async fn run(opened: &OpenRegistry, args: &Deregister) -> Result<(), CliError> {
    let services = opened.get(&args.name).await?;
    let record = find(&services, &args.name, &args.id).ok_or_else(|| not_found(opened, args))?;
    let removed = opened
        .registry()
        .deregister(&record, &DeregisterOptions::force())
        .await;
    removed.map_err(|error| opened.failure(error))?;
    let id = record
        .nodes
        .first()
        .map(|node| escape::text(&node.id))
        .unwrap_or_default();
    output::note(&format!(
        "removed {id}; if its owner lives, it will be back at its next beat: to end it, stop its process"
    ));
    Ok(())
}

/// Finds the record of one node, by its full id or by the part after the service's name.
fn find(services: &[Service], name: &str, id: &str) -> Option<Service> {
    let whole = format!("{name}-{id}");
    let by = |wanted: &str| {
        let of = |service: &Service| {
            service
                .nodes
                .iter()
                .find(|node| node.id == wanted)
                .cloned()
                .map(|node| alone(service, node))
        };
        services.iter().find_map(of)
    };
    by(id).or_else(|| by(&whole))
}

fn alone(service: &Service, node: Node) -> Service {
    Service {
        nodes: NilableVec::from(vec![node]),
        ..service.clone()
    }
}

fn not_found(opened: &OpenRegistry, args: &Deregister) -> CliError {
    let (name, id, url) = (
        escape::text(&args.name),
        escape::text(&args.id),
        opened.url(),
    );
    CliError::no(format!("service {name:?} has no node {id:?} in {url}")).next(format!(
        "see which it has: {}",
        opened.command(&format!("get {name}"))
    ))
}
