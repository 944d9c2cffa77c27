//! One channel's handle on its service: its configuration, its protocol, and its membership in the
//! pool.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use waypost_core::balance;
use waypost_core::directory::Snapshot;
use waypost_core::peer::Exclusion;
use waypost_core::record::{ServiceName, keys};
use waypost_core::registry::{Error, SkippedRecords};

use crate::client::Client;
use crate::config::ChannelConfig;
use crate::error::{ProtocolMismatch, ServiceReport};
use crate::pool::{Joined, ServicePool};
use crate::protocol::Protocol;

/// Handle on a service, as one channel uses it. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct ServiceHandle {
    shared: Arc<SharedService>,
    filtered: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct SharedService {
    client: Client,
    service: ServiceName,
    pub(crate) config: ChannelConfig,
    pub(crate) protocol: Arc<dyn Protocol>,
    members: ArcSwapOption<PoolMembership>,
}

/// Membership of a channel in the pool of its service.
#[derive(Debug)]
pub(crate) struct PoolMembership {
    pub(crate) pool: Arc<ServicePool>,
    whole: Joined,
    filtered: HashMap<Arc<str>, Joined>,
}

impl Drop for SharedService {
    fn drop(&mut self) {
        let members = self.members.swap(None);
        let pool = members.as_ref().map(|members| Arc::clone(&members.pool));
        drop(members);
        // The pool's task then checks if any channel still uses it.
        if let Some(pool) = pool {
            pool.left();
        }
    }
}

impl ServiceHandle {
    pub(crate) fn new(
        client: Client,
        name: ServiceName,
        config: ChannelConfig,
        protocol: Arc<dyn Protocol>,
    ) -> Self {
        let shared = SharedService {
            client,
            service: name,
            config,
            protocol,
            members: ArcSwapOption::empty(),
        };
        Self {
            shared: Arc::new(shared),
            filtered: None,
        }
    }

    /// Returns the name of the service.
    pub(crate) fn name(&self) -> &ServiceName {
        &self.shared.service
    }

    /// Returns a handle on the nodes that pass the configured filters of this name; none if no
    /// filters have this name.
    pub(crate) fn filtered(&self, name: &str) -> Option<Self> {
        self.shared
            .config
            .filtered
            .contains_key(name)
            .then(|| Self {
                filtered: Some(name.into()),
                ..self.clone()
            })
    }

    /// Returns the channel's membership in the pool of its service. The first use starts the pool's
    /// task on the current runtime, and so does the first use after the task or its runtime has
    /// ended.
    ///
    /// # Errors
    /// [`Error::Closed`] once the client is closed; [`Error::Invalid`] outside a runtime, if a task
    /// must be started.
    pub(crate) fn members(&self) -> Result<Arc<PoolMembership>, Error> {
        if let Some(members) = self.shared.members.load_full()
            && !members.pool.queue.is_closed()
        {
            return Ok(members);
        }
        self.join()
    }

    #[cold]
    fn join(&self) -> Result<Arc<PoolMembership>, Error> {
        let pool = self.shared.client.pool(&self.shared.service)?;
        let config = &self.shared.config;
        let mut whole = config.balance.clone();
        if let Some(filter) = self.shared.client.filter() {
            whole.filters.push(filter.clone());
        }
        let filtered = |(name, filters): (&String, &balance::Filters)| {
            let mut balance = whole.clone();
            balance.filters.extend(filters);
            (Arc::from(name.as_str()), pool.join(&balance))
        };
        let filtered = config.filtered.iter().map(filtered).collect();
        let members = Arc::new(PoolMembership {
            whole: pool.join(&whole),
            filtered,
            pool,
        });
        self.shared.members.store(Some(Arc::clone(&members)));
        Ok(members)
    }

    pub(crate) fn shared(&self) -> &Arc<SharedService> {
        &self.shared
    }

    /// Returns the nodes that this handle uses, with their balancer.
    pub(crate) fn joined<'a>(&self, members: &'a PoolMembership) -> &'a Joined {
        let filtered = self
            .filtered
            .as_ref()
            .and_then(|name| members.filtered.get(name));
        filtered.unwrap_or(&members.whole)
    }

    /// Returns the records of the service that the registry skipped.
    pub(crate) fn skipped(&self) -> SkippedRecords {
        let registry = self.shared.client.directory().registry();
        registry.skipped(Some(self.shared.service.as_str()))
    }

    /// Returns the state of the service, for errors. The cost does not depend on the number of
    /// nodes.
    pub(crate) fn report(&self) -> ServiceReport {
        let members = self.shared.members.load_full();
        let snapshot = members
            .as_ref()
            .map(|members| members.pool.snapshot())
            .unwrap_or_default();
        let counts = members
            .as_ref()
            .map(|members| self.joined(members).counts())
            .unwrap_or_default();
        let (ready, excluded) = (counts.ready(), counts.by_reason());
        let protocols = members
            .as_ref()
            .filter(|_| ready == 0 && excluded.contains_key(&Exclusion::Protocol))
            .and_then(|members| protocols(self.joined(members), &snapshot));
        ServiceReport {
            service: self.shared.service.to_string(),
            synced: snapshot.synced,
            staleness: snapshot.staleness(now()),
            outage: snapshot.outage.map(|outage| outage.why.to_string()),
            known: counts.known(),
            ready,
            excluded,
            protocols,
            skipped: self.skipped(),
            last_failure: members
                .and_then(|members| members.pool.last_failure())
                .map(|failure| failure.to_string()),
        }
    }
}

/// Compares the protocols of the nodes with the one that the balancer's filters want.
fn protocols(joined: &Joined, snapshot: &Snapshot) -> Option<ProtocolMismatch> {
    let wanted = joined.balancer.config().filters.protocol()?;
    let protocols = snapshot
        .confirmed()
        .map(|entry| entry.node.metadata.get(keys::PROTOCOL));
    ProtocolMismatch::of(wanted, protocols)
}

pub(crate) fn now() -> Instant {
    Instant::now()
}
