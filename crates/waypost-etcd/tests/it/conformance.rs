//! Conformance suite, on the oldest and the newest etcd of this machine; each case has an etcd of
//! its own.

use tokio::sync::OnceCell;
use waypost_conformance::{Harness, RawChange, Time};
use waypost_core::record::Key;
use waypost_core::registry::{AnyRegistry, Result};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Binary, Etcd, Options};

use super::gateway;

/// Etcd, and the proxy through which all handles connect to it.
struct Server {
    binary: Binary,
    running: OnceCell<(Etcd, Proxy)>,
}

impl Server {
    fn oldest() -> Self {
        Self {
            binary: super::binaries().remove(0),
            running: OnceCell::new(),
        }
    }

    fn newest() -> Self {
        Self {
            binary: super::binaries().pop().unwrap(),
            running: OnceCell::new(),
        }
    }

    async fn running(&self) -> &(Etcd, Proxy) {
        let start = async || {
            let etcd = Etcd::start(&self.binary, &Options::one()).await.unwrap();
            let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
            (etcd, proxy)
        };
        self.running.get_or_init(start).await
    }

    async fn address(&self) -> std::net::SocketAddr {
        self.running().await.0.addresses()[0]
    }
}

impl Harness for Server {
    async fn open(&self) -> Result<AnyRegistry> {
        Ok(AnyRegistry::new(super::open(&super::rig::url(&[self
            .running()
            .await
            .1
            .address()]))))
    }

    async fn batch(&self, changes: Vec<RawChange>) -> Result<()> {
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(key, bytes)| (super::path(&key), bytes))
            .collect();
        gateway::write(self.address().await, &changes).await;
        Ok(())
    }

    async fn expire(&self, key: &Key) -> Result<()> {
        let (address, key) = (self.address().await, super::path(key));
        match gateway::lease_of(address, &key).await {
            Some(0) => drop(gateway::write(address, &[(key, None)]).await),
            Some(lease) => gateway::revoke(address, lease).await,
            None => {}
        }
        Ok(())
    }

    /// Freezes the connections, writes and compacts a revision, and resets the connections: no
    /// watch can resume.
    async fn cut(&self) -> Result<()> {
        let (address, proxy) = (self.address().await, &self.running().await.1);
        proxy.freeze(true);
        let stray = super::path(&Key {
            service: "stray".into(),
            id: "stray".into(),
        });
        gateway::write(address, &[(stray.clone(), Some(Vec::new()))]).await;
        let revision = gateway::write(address, &[(stray, None)]).await;
        gateway::compact(address, revision).await;
        proxy.cut();
        proxy.freeze(false);
        Ok(())
    }

    fn may_skip(&self) -> bool {
        false
    }
}

mod oldest {
    waypost_conformance::suite!(super::Time::Real, super::Server::oldest);
}

mod newest {
    waypost_conformance::suite!(super::Time::Real, super::Server::newest);
}
