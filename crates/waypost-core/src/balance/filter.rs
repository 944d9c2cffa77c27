//! Filters of the nodes that a channel may use. Evaluated when the set changes, never per call.

use std::fmt;
use std::sync::Arc;

use crate::panics::{Panicked, contain};
use crate::peer::Exclusion;
use crate::record::{Entry, keys};

/// Condition on a node.
///
/// ```
/// use waypost_core::balance::{Filter, Filters};
/// use waypost_core::peer::Exclusion;
/// # use waypost_core::record::{Node, Service};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// # service.nodes[0].metadata.insert("zone", "eu-1");
/// # let entry = service.entries().remove(0);
///
/// let zone = |zone: &str| Filters::default().and(Filter::Label("zone".to_owned(), zone.to_owned()));
/// assert_eq!(entry.node.metadata.get("zone"), Some("eu-1"));
/// assert_eq!(zone("eu-1").check(&entry), Ok(()));
/// assert_eq!(zone("us-1").check(&entry), Err(Exclusion::Label));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Filter {
    /// Node metadata `protocol` has this value. A node without the key is excluded.
    Protocol(String),
    /// Node metadata [`waypost.tls`](keys::TLS) does not say that the node speaks TLS.
    Plaintext,
    /// Node metadata [`waypost.tls`](keys::TLS) says that the node speaks TLS.
    Tls {
        /// True if a node without the key is assumed to speak TLS too.
        assume: bool,
    },
    /// The version of the service equals this one.
    Version(String),
    /// Node metadata has this key with this value.
    Label(String, String),
    /// The record contains this endpoint, such as `Greeter.Hello`.
    Endpoint(String),
    /// The predicate of the user returns true. It must be quick, and always return the same for the
    /// same entry. A node on which it panics is excluded until the predicate is evaluated again,
    /// after 1 s to 60 s.
    Predicate(Arc<dyn Fn(&Entry) -> bool + Send + Sync>),
}

impl Filter {
    /// Creates a condition from a predicate.
    ///
    /// ```
    /// use waypost_core::balance::{Filter, Filters};
    /// use waypost_core::peer::Exclusion;
    /// # use waypost_core::record::{Node, Service};
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
    /// # service.nodes[0].metadata.insert("zone", "eu-1");
    /// # let entry = service.entries().remove(0);
    ///
    /// let is_private = Filter::predicate(|entry| entry.node.address.starts_with("10."));
    /// assert_eq!(Filters::default().and(is_private).check(&entry), Ok(()));
    ///
    /// let is_stable = Filter::predicate(|entry| entry.service.version != "latest");
    /// assert_eq!(Filters::default().and(is_stable).check(&entry), Err(Exclusion::Predicate));
    /// ```
    pub fn predicate(predicate: impl Fn(&Entry) -> bool + Send + Sync + 'static) -> Self {
        Self::Predicate(Arc::new(predicate))
    }

    fn check(&self, entry: &Entry) -> Result<Result<(), Exclusion>, Panicked> {
        let metadata = &entry.node.metadata;
        let (passes, exclusion) = match self {
            Self::Protocol(protocol) => (
                metadata.get(keys::PROTOCOL) == Some(protocol),
                Exclusion::Protocol,
            ),
            Self::Plaintext => (
                metadata.get(keys::TLS) != Some("true"),
                Exclusion::TlsRequired,
            ),
            Self::Tls { assume } => (
                metadata.get(keys::TLS).map_or(*assume, |tls| tls == "true"),
                Exclusion::Plaintext,
            ),
            Self::Version(version) => (entry.service.version == *version, Exclusion::Version),
            Self::Label(key, value) => (metadata.get(key) == Some(value), Exclusion::Label),
            Self::Endpoint(name) => (
                entry.service.endpoints.iter().any(|e| e.name == *name),
                Exclusion::Endpoint,
            ),
            Self::Predicate(predicate) => (contain(|| predicate(entry))?, Exclusion::Predicate),
        };
        Ok(if passes { Ok(()) } else { Err(exclusion) })
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "protocol={protocol}"),
            Self::Plaintext => f.write_str("plaintext"),
            Self::Tls { assume: false } => f.write_str("tls"),
            Self::Tls { assume: true } => f.write_str("tls or unspecified"),
            Self::Version(version) => write!(f, "version={version}"),
            Self::Label(key, value) => write!(f, "{key}={value}"),
            Self::Endpoint(name) => write!(f, "endpoint={name}"),
            Self::Predicate(_) => f.write_str("predicate"),
        }
    }
}

impl PartialEq for Filter {
    /// Compares conditions. A predicate equals only its own clones.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Protocol(a), Self::Protocol(b))
            | (Self::Version(a), Self::Version(b))
            | (Self::Endpoint(a), Self::Endpoint(b)) => a == b,
            (Self::Plaintext, Self::Plaintext) => true,
            (Self::Tls { assume }, Self::Tls { assume: other }) => assume == other,
            (Self::Label(key, value), Self::Label(other_key, other_value)) => {
                (key, value) == (other_key, other_value)
            }
            (Self::Predicate(a), Self::Predicate(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Conjunction of conditions.
///
/// A selector or channel with filters uses only the nodes that meet all of them:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::balance::{Config, Filter, Filters, SelectError, Selector};
/// # use waypost_core::static_list::StaticRegistry;
/// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?], "grpc");
///
/// let mut config = Config::default();
/// config.filters =
///     Filters::default().and(Filter::Protocol("grpc".to_owned())).and(Filter::Version("2.0.0".to_owned()));
/// let selector = Selector::uncached(registry, config);
/// let error = selector.select("greeter").await.unwrap_err();
/// assert!(matches!(error, SelectError::NoNode { known: 1, .. }));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters(Vec<Filter>);

impl Filters {
    /// Adds a condition.
    pub fn push(&mut self, filter: Filter) {
        self.0.push(filter);
    }

    /// Adds all conditions of `others`.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    /// Returns the filters with one more condition.
    #[must_use]
    pub fn and(mut self, filter: Filter) -> Self {
        self.push(filter);
        self
    }

    /// Returns the protocol that a node must speak; none if no [`Filter::Protocol`] is among the
    /// conditions.
    pub fn protocol(&self) -> Option<&str> {
        self.0.iter().find_map(|filter| match filter {
            Filter::Protocol(protocol) => Some(protocol.as_str()),
            _ => None,
        })
    }

    /// Checks that a node meets all conditions.
    ///
    /// # Errors
    /// Exclusion by the first condition that the node does not meet. A predicate that panics is not
    /// met.
    pub fn check(&self, entry: &Entry) -> Result<(), Exclusion> {
        self.try_check(entry).unwrap_or(Err(Exclusion::Predicate))
    }

    /// Checks as [`check`](Self::check) does, but returns a panic of a predicate separately, since
    /// it carries no information about the node.
    ///
    /// # Errors
    /// [`Panicked`] if a predicate panicked.
    pub fn try_check(&self, entry: &Entry) -> Result<Result<(), Exclusion>, Panicked> {
        for filter in &self.0 {
            if let Err(exclusion) = filter.check(entry)? {
                return Ok(Err(exclusion));
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Endpoint, Node, Service};

    fn entry() -> Entry {
        let mut service = Service::new("greeter");
        service.endpoints.push(Endpoint {
            name: "Greeter.Hello".into(),
            ..Endpoint::default()
        });
        let mut node = Node::with_id("greeter", "a", "127.0.0.1:1");
        node.metadata.insert("protocol", "grpc");
        node.metadata.insert("zone", "eu-1");
        service.nodes.push(node);
        service.entries().remove(0)
    }

    #[test]
    fn each_filter_has_its_reason() {
        let table = [
            (Filter::Protocol("grpc".into()), Ok(())),
            (Filter::Protocol("mucp".into()), Err(Exclusion::Protocol)),
            (Filter::Version("latest".into()), Ok(())),
            (Filter::Version("2".into()), Err(Exclusion::Version)),
            (Filter::Label("zone".into(), "eu-1".into()), Ok(())),
            (
                Filter::Label("zone".into(), "us".into()),
                Err(Exclusion::Label),
            ),
            (Filter::Endpoint("Greeter.Hello".into()), Ok(())),
            (
                Filter::Endpoint("Greeter.Bye".into()),
                Err(Exclusion::Endpoint),
            ),
            (
                Filter::predicate(|entry| entry.node.id.ends_with('a')),
                Ok(()),
            ),
            (Filter::predicate(|_| false), Err(Exclusion::Predicate)),
        ];
        for (filter, expected) in table {
            assert_eq!(filter.check(&entry()), Ok(expected), "{filter:?}");
        }
        let both = Filters::default()
            .and(Filter::Version("latest".into()))
            .and(Filter::Label("zone".into(), "us".into()));
        assert_eq!(both.check(&entry()), Err(Exclusion::Label));
    }

    #[test]
    fn a_plain_client_and_a_client_with_tls_exclude_each_others_nodes() {
        let strict = Filter::Tls { assume: false };
        let assuming = Filter::Tls { assume: true };
        let table = [
            (Some("true"), Err(Exclusion::TlsRequired), Ok(()), Ok(())),
            (
                Some("false"),
                Ok(()),
                Err(Exclusion::Plaintext),
                Err(Exclusion::Plaintext),
            ),
            (None, Ok(()), Err(Exclusion::Plaintext), Ok(())),
        ];
        for (tls, plain, with_tls, assumed) in table {
            let mut service = entry().to_service();
            if let Some(tls) = tls {
                service.nodes[0].metadata.insert(keys::TLS, tls);
            }
            let entry = &service.entries()[0];
            assert_eq!(Filter::Plaintext.check(entry), Ok(plain), "{tls:?}");
            assert_eq!(strict.check(entry), Ok(with_tls), "{tls:?}");
            assert_eq!(assuming.check(entry), Ok(assumed), "{tls:?}");
        }
    }

    #[test]
    fn a_node_without_a_protocol_is_out() {
        let mut service = entry().to_service();
        service.nodes[0].metadata.remove("protocol");
        assert_eq!(
            Filter::Protocol("grpc".into()).check(&service.entries()[0]),
            Ok(Err(Exclusion::Protocol))
        );
    }
}
