//! Registry without a server: go-micro records pass through the same decoding and the same copy of
//! the watcher as in the etcd backend, so that a benchmark measures the whole client side. No other
//! file here uses those parts of `waypost-core`.

use std::sync::{Arc, Mutex, PoisonError};

use waypost::record::{Entry, Key, Service};
use waypost::registry::{
    Broadcaster, Change, DeregisterOptions, Error, Interner, NodeSet, Options, RegisterOptions,
    WatchOptions, Watcher,
};
use waypost::{AnyRegistry, Registry};
use waypost_testkit::report::Result;

type Answer<T> = waypost::registry::Result<T>;

const NAME: &str = "push";

/// Registry of the records that are pushed to it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct PushRegistry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    heads: Mutex<Interner>,
    feed: Broadcaster,
    options: Options,
}

impl PushRegistry {
    /// Creates a registry that is not loaded: watchers wait.
    pub(crate) fn new() -> Self {
        let mut options = Options::new();
        options.on_this_host = true;
        Self(Arc::new(Inner {
            heads: Mutex::default(),
            feed: Broadcaster::default(),
            options,
        }))
    }

    /// Loads all records, as a first list does.
    pub(crate) fn load(&self, records: impl Iterator<Item = (Key, String)>) -> Result<()> {
        let entries: Vec<_> = records
            .map(|(key, json)| self.decode(&key, json.as_bytes()))
            .collect::<Result<_>>()?;
        self.0.feed.reset(entries.into_iter().collect::<NodeSet>());
        Ok(())
    }

    /// Pushes one record.
    pub(crate) fn put(&self, key: &Key, json: &[u8]) -> Result<()> {
        let entry = self.decode(key, json)?;
        self.0.feed.apply([Change::Put(entry)]);
        Ok(())
    }

    /// Pushes the loss of one record.
    pub(crate) fn delete(&self, key: &Key) {
        self.0.feed.apply([Change::Lose(key.clone())]);
    }

    /// Returns a handle for a client.
    pub(crate) fn handle(&self) -> AnyRegistry {
        AnyRegistry::new(self.clone())
    }

    fn decode(&self, key: &Key, json: &[u8]) -> Result<Entry> {
        let mut heads = self.0.heads.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(heads.decode(key, json)?)
    }
}

fn unsupported<T>(operation: &'static str) -> Answer<T> {
    Err(Error::Unsupported {
        registry: NAME,
        operation,
    })
}

impl Registry for PushRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    async fn register(&self, _: &Service, _: &RegisterOptions) -> Answer<()> {
        unsupported("register")
    }

    async fn deregister(&self, _: &Service, _: &DeregisterOptions) -> Answer<()> {
        unsupported("deregister")
    }

    async fn get_service(&self, _: &str) -> Answer<Vec<Service>> {
        unsupported("get_service")
    }

    async fn list_services(&self) -> Answer<Vec<Service>> {
        unsupported("list_services")
    }

    async fn watch(&self, options: &WatchOptions) -> Answer<Watcher> {
        Ok(self.0.feed.subscribe(options))
    }

    async fn close(&self) -> Answer<()> {
        self.0.feed.close();
        Ok(())
    }
}
