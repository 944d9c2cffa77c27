//! What every backend checks before it writes or asks.

use std::time::Duration;

use super::{Error, RegisterOptions, Result};
use crate::record::{NodeId, Service, ServiceName};

/// Shortest lifetime of a record; registries count in whole seconds.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Longest lifetime of a record: the longest lease of etcd (`MaxLeaseTTL`).
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Whether `name` can be a service's name: one level of a registry's tree.
///
/// # Errors
/// [`Error::Invalid`], which says what a name may look like.
pub fn check_name(name: &str) -> Result<()> {
    name.parse::<ServiceName>()?;
    Ok(())
}

/// Whether `service` says which records it means: a good name, and nodes with good ids.
///
/// # Errors
/// [`Error::Invalid`], which names the part that is wrong.
pub fn check_keys(service: &Service) -> Result<()> {
    check_name(&service.name)?;
    if service.nodes.is_empty() {
        return Err(Error::invalid(format!("service {:?}", service.name), "has no node: name at least one"));
    }
    for node in &service.nodes {
        node.id.parse::<NodeId>()?;
    }
    Ok(())
}

/// Checks that `service` may be registered ([`Service::check`]), with a ttl of 1 s to 9 000 000 000 s.
///
/// # Errors
/// [`Error::Invalid`], which names the part that is wrong.
pub fn check_registration(service: &Service, options: &RegisterOptions) -> Result<()> {
    service.check()?;
    if options.ttl < SHORTEST_TTL {
        return Err(Error::invalid("ttl", format!("{:?} is too short: give at least 1 s", options.ttl)));
    }
    if options.ttl > LONGEST_TTL {
        return Err(Error::invalid("ttl", format!("{:?} is too long: give at most {LONGEST_TTL:?}", options.ttl)));
    }
    Ok(())
}
