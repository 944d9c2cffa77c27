//! Registry for tests whose watch is a function.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use futures_core::Stream;
use waypost_core::record::{Node, Service};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Error, Event, Options, RegisterOptions, Registry, Result,
    WatchOptions, Watcher,
};

type Watch = dyn Fn(usize) -> Result<Watcher> + Send + Sync;

/// Registry that responds to the n-th watch, counted from 0, by a function.
pub(crate) struct Scripted {
    watch: Box<Watch>,
    watches: Counter,
    options: Options,
}

/// Counter of which a test keeps a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Relaxed)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Returns a registry, and the counter of its watches.
pub(crate) fn scripted(
    watch: impl Fn(usize) -> Result<Watcher> + Send + Sync + 'static,
) -> (AnyRegistry, Counter) {
    let watches = Counter::default();
    let registry = Scripted {
        watch: Box::new(watch),
        watches: watches.clone(),
        options: Options::new(),
    };
    (AnyRegistry::new(registry), watches)
}

/// Returns a watcher that yields the n-th item, counted from 0, by a function; none is an item that
/// never comes.
pub(crate) fn watcher(item: impl FnMut(usize) -> Option<Item> + Send + Unpin + 'static) -> Watcher {
    Watcher::new(Items { item, polls: 0 })
}

pub(crate) type Item = Option<Result<Event>>;

struct Items<F> {
    item: F,
    polls: usize,
}

impl<F: FnMut(usize) -> Option<Item> + Unpin> Stream for Items<F> {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Item> {
        let number = self.polls;
        self.polls += 1;
        (self.item)(number).map_or(Poll::Pending, Poll::Ready)
    }
}

pub(crate) fn reset(ids: &[&str]) -> Item {
    let mut service = Service::new("greeter");
    ids.iter().for_each(|id| {
        service
            .nodes
            .push(Node::with_id("greeter", id, "127.0.0.1:1"));
    });
    Some(Ok(Event::Reset(service.entries())))
}

pub(crate) fn error(what: &str) -> Error {
    Error::Unavailable {
        registry: "scripted",
        what: what.to_owned(),
        source: None,
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Registry for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, _: &Service, _: &RegisterOptions) -> Result<()> {
        Ok(())
    }

    async fn deregister(&self, _: &Service, _: &DeregisterOptions) -> Result<()> {
        Ok(())
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        Err(Error::NotFound {
            service: name.to_owned(),
        })
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        Ok(Vec::new())
    }

    async fn watch(&self, _: &WatchOptions) -> Result<Watcher> {
        (self.watch)(self.watches.add())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
