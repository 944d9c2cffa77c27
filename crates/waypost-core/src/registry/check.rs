//! Checks that every backend makes before it sends a request.

use std::time::Duration;

use super::{Error, RegisterOptions, Result};
use crate::record::{NodeId, RecordLimits, Service, ServiceName};

/// Shortest lifetime of a record. Registries count in whole seconds.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Longest lifetime of a record: the longest lease of etcd (`MaxLeaseTTL`).
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Checks that `name` is a valid service name: one level of a registry's tree.
///
/// # Errors
/// [`Error::Invalid`] describes the names that are allowed.
pub fn check_name(name: &str) -> Result<()> {
    name.parse::<ServiceName>()?;
    Ok(())
}

/// Checks that `service` identifies its records: a valid name, at least one node, and valid node
/// ids.
///
/// # Errors
/// [`Error::Invalid`] names the invalid part.
pub fn check_keys(service: &Service) -> Result<()> {
    check_name(&service.name)?;
    if service.nodes.is_empty() {
        return Err(Error::invalid(
            format!("service {:?}", service.name),
            "has no node: name at least one",
        ));
    }
    for node in &service.nodes {
        node.id.parse::<NodeId>()?;
    }
    Ok(())
}

/// Checks that `service` may be registered ([`Service::check_within`]), and that the TTL is from
/// 1 s to 9 000 000 000 s.
///
/// # Errors
/// [`Error::Invalid`] names the invalid part.
pub fn check_registration(
    service: &Service,
    options: &RegisterOptions,
    limits: &RecordLimits,
) -> Result<()> {
    service.check_within(limits)?;
    if options.ttl < SHORTEST_TTL {
        return Err(Error::invalid(
            "ttl",
            format!("{:?} is too short: give at least 1 s", options.ttl),
        ));
    }
    if options.ttl > LONGEST_TTL {
        return Err(Error::invalid(
            "ttl",
            format!(
                "{:?} is too long: give at most {LONGEST_TTL:?}",
                options.ttl
            ),
        ));
    }
    Ok(())
}
