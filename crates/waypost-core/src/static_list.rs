//! Registry of a static list of addresses, the same for every service. Intended for deployments
//! without a registry, and for tests.
//!
//! The nodes consist of an address and a protocol. Nothing can be registered, and nothing changes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::watch;

use crate::record::{Address, Node, Service, keys};
use crate::registry::{
    DeregisterOptions, Error, Event, Options, RegisterOptions, Registry, Result, WatchOptions,
    Watcher, check_name,
};

/// Name of this backend in errors and URLs.
const NAME: &str = "static";

/// Default protocol of the nodes.
pub const DEFAULT_PROTOCOL: &str = "grpc";

/// Registry of `static://host:port[,host:port…]`: every service has exactly these nodes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::registry::{Error, Registry};
/// use waypost_core::static_list::{DEFAULT_PROTOCOL, StaticRegistry};
///
/// let addresses = ["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?];
/// let registry = StaticRegistry::new(addresses, DEFAULT_PROTOCOL);
///
/// let greeter = &registry.get_service("greeter").await?[0];
/// let addresses: Vec<_> = greeter.nodes.iter().map(|node| node.address.as_str()).collect();
/// assert_eq!(addresses, ["10.0.0.7:9001", "10.0.0.8:9001"]);
/// # Ok(()) }
/// ```
pub struct StaticRegistry {
    options: Options,
    protocol: String,
    closed: watch::Sender<bool>,
}

impl StaticRegistry {
    /// Creates a registry of these addresses. The metadata of its nodes names `protocol`, usually
    /// [`DEFAULT_PROTOCOL`].
    pub fn new(addresses: impl IntoIterator<Item = Address>, protocol: impl Into<String>) -> Self {
        let mut options = Options::new();
        // A loopback address in the list is intentional.
        options.on_this_host = true;
        for address in addresses.into_iter().map(|address| address.to_string()) {
            if !options.addresses.contains(&address) {
                options.addresses.push(address);
            }
        }
        Self {
            options,
            protocol: protocol.into(),
            closed: watch::Sender::new(false),
        }
    }

    fn open(&self) -> Result<()> {
        if *self.closed.borrow() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    fn unsupported(&self, operation: &'static str) -> Result<()> {
        self.open()?;
        Err(Error::Unsupported {
            registry: NAME,
            operation,
        })
    }

    fn service(&self, name: &str) -> Service {
        let mut service = Service::new(name);
        service.nodes = self
            .options
            .addresses
            .iter()
            .map(|address| self.node(name, address))
            .collect();
        service
    }

    fn node(&self, service: &str, address: &str) -> Node {
        let mut node = Node::with_id(service, address, address);
        node.metadata.insert(keys::PROTOCOL, self.protocol.as_str());
        node
    }
}

impl fmt::Debug for StaticRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticRegistry")
            .field("addresses", &self.options.addresses)
            .field("protocol", &self.protocol)
            .finish()
    }
}

impl Registry for StaticRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, _: &Service, _: &RegisterOptions) -> Result<()> {
        self.unsupported("register")
    }

    async fn deregister(&self, _: &Service, _: &DeregisterOptions) -> Result<()> {
        self.unsupported("deregister")
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        self.open()?;
        check_name(name)?;
        Ok(vec![self.service(name)])
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.open()?;
        Ok(Vec::new())
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        self.open()?;
        options.service.as_deref().map_or(Ok(()), check_name)?;
        let entries = options
            .service
            .as_deref()
            .map(|name| self.service(name).entries())
            .unwrap_or_default();
        let mut closed = self.closed.subscribe();
        let end = Box::pin(async move { drop(closed.wait_for(|closed| *closed).await) });
        Ok(Watcher::new(Once {
            first: Some(Event::Reset(entries)),
            end: Some(end),
        }))
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        Ok(())
    }
}

/// Stream of one event that then stays pending until its end.
struct Once {
    first: Option<Event>,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Once {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.end = None;
        }
        if self.end.is_none() {
            return Poll::Ready(None);
        }
        self.first
            .take()
            .map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(first))))
    }
}
