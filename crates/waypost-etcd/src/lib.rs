//! Registry on etcd v3, for production.
//!
//! Keys and values are go-micro's, so that its services and ours discover each other. A record
//! lives as long as its lease. One keepalive stream renews all leases; one watch stream serves all
//! watchers and all records of this process. Both streams fail over to another member when theirs
//! is gone, silent or broken. After a gap the range is listed again and the difference is emitted.
//!
//! Modules: `rpc` (messages and calls), `cluster` (choice of the member, authentication), `lease`,
//! `list`, `watch`, `registration` (ownership of keys) on top of `claims`; `upkeep` removes what ended
//! registrations left; `tasks` runs the tasks of `lease`, `watch` and `upkeep`; `error` classifies every error of etcd once. This crate knows neither load
//! balancing nor its callers.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod claims;
mod cluster;
mod departures;
mod error;
mod keys;
mod lease;
mod list;
mod options;
mod records;
mod registration;
mod rpc;
mod secret;
mod tasks;
mod timing;
mod upkeep;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use waypost_core::record::{Address, Entry, Key, Service};
use waypost_core::registry::{
    DeregisterOptions, Error, Instance, Options, RegisterOptions, Registry, Result, SkippedRecords,
    WatchOptions, Watcher, check_keys, check_name, check_registration,
};
use waypost_http::{Connect, TcpConnect};

pub use options::{DEFAULT_PREFIX, EtcdOptions, EtcdTls};
pub use secret::Secret;

use claims::Claims;
use cluster::{Cluster, Credentials, Password};
use departures::Departures;
use error::NAME;
use keys::KeySpace;
use lease::{LeaseTable, Leases};
use list::{Consistency, list};
use records::Records;
use registration::{RecordWriter, WriteLimit};
use tasks::BackgroundTasks;
use upkeep::UpkeepTask;
use watch::Watches;

/// Handle on a registry in etcd.
///
/// If it is dropped without [`close`](Registry::close), its records stay until their leases expire,
/// like those of a killed process.
pub struct EtcdRegistry {
    options: Options,
    cluster: Arc<Cluster>,
    records: Arc<Records>,
    watches: Arc<Watches>,
    writer: Arc<RecordWriter>,
    /// Background tasks, started by the first registration or watch.
    tasks: Arc<BackgroundTasks>,
    /// Semaphore held by every writer. `close` waits for it: a record written after its lease was
    /// revoked would stay.
    writers: Semaphore,
}

/// Maximum number of concurrent registrations and deregistrations; `close` waits for all of them.
const MAX_WRITERS: u32 = 1 << 16;

/// Time for the leases to be revoked on close, if the last request got no response.
const CLOSE_IN_OUTAGE: Duration = Duration::from_millis(100);

impl EtcdRegistry {
    /// Creates a handle. Certificates are read here; connections are opened when they are first
    /// needed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options are invalid, or a certificate cannot be read.
    pub fn new(options: EtcdOptions) -> Result<Self> {
        let connect = connector(&options)?;
        Self::with_connect(options, connect)
    }

    /// Creates a handle with a connector of the caller; `tls` in the options is only reported by
    /// [`options`](Registry::options).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options are invalid.
    pub fn with_connect(options: EtcdOptions, connect: Arc<dyn Connect>) -> Result<Self> {
        options.check()?;
        let timing = options.timing();
        let EtcdOptions {
            members: addresses,
            prefix,
            timeout,
            user,
            password,
            password_file,
            tls,
            limits,
            ..
        } = options;
        let mut reported = Options::new();
        reported.on_this_host = addresses.iter().all(Address::is_loopback);
        reported.addresses = addresses.iter().map(ToString::to_string).collect();
        (reported.timeout, reported.tls, reported.prefix) =
            (timeout, tls.is_some(), prefix.clone());
        reported.limits = limits;
        let password = password
            .map(Password::Inline)
            .or(password_file.map(Password::File));
        let credentials = user
            .zip(password)
            .map(|(user, password)| Credentials { user, password });
        let cluster = Arc::new(Cluster::new(addresses, connect, credentials, timing));
        let (records, claims) = (
            Arc::new(Records::new(KeySpace::new(&prefix), limits)),
            Arc::new(Claims::new(timing)),
        );
        let claims_of_watch = Arc::clone(&claims);
        let listener = Box::new(move |event| claims_of_watch.on_watch(event));
        let (watches, watch_task) =
            Watches::new(Arc::clone(&cluster), Arc::clone(&records), timing, listener);
        let (leases, lease_task) = Leases::new(Arc::clone(&cluster), timing);
        let watches = Arc::new(watches);
        let writer = Arc::new(RecordWriter {
            cluster: Arc::clone(&cluster),
            records: Arc::clone(&records),
            claims,
            leases,
            lease_table: LeaseTable::default(),
            watches: Arc::clone(&watches),
            write_limit: WriteLimit::default(),
            departures: Departures::default(),
        });
        let upkeep_task = UpkeepTask::new(Arc::clone(&writer), timing);
        let tasks = Arc::new(BackgroundTasks::new(lease_task, watch_task, upkeep_task));
        Ok(Self {
            options: reported,
            cluster,
            records,
            watches,
            writer,
            tasks,
            writers: Semaphore::new(MAX_WRITERS as usize),
        })
    }

    /// Returns the number of changes that a list has found and the watch had not delivered.
    pub fn missed(&self) -> usize {
        self.watches.missed()
    }

    fn check_open(&self) -> Result<()> {
        if self.tasks.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    async fn list(&self, service: Option<&str>) -> Result<Vec<Service>> {
        self.check_open()?;
        let listing = list(
            &self.cluster,
            &self.records,
            service,
            Consistency::Linearizable,
            self.options.timeout,
        )
        .await;
        let listing = listing.map_err(|error| error.into_registry_error("listing services"))?;
        Ok(Entry::into_services(listing.entries))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRegistry")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.tasks.abort();
        self.watches.close();
    }
}

impl Registry for EtcdRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        check_registration(service, options, &self.options.limits)?;
        let register = async {
            let _permit = self.writers.acquire().await.map_err(|_| Error::Closed)?;
            let deadline = self.deadline();
            let mut result = Ok(());
            for entry in options.stamp(service).entries() {
                result = result.and(self.writer.register(&entry, options, deadline).await);
            }
            result
        };
        self.tasks.run(register).await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        check_keys(service)?;
        let deregister = async {
            let _permit = self.writers.acquire().await.map_err(|_| Error::Closed)?;
            let deadline = self.deadline();
            let mut result = Ok(());
            for entry in service.entries() {
                result = result.and(
                    self.writer
                        .deregister(&entry.key(), options, deadline)
                        .await,
                );
            }
            result
        };
        self.tasks.run(deregister).await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        check_name(name)?;
        let services = self.list(Some(name)).await?;
        if services.is_empty() {
            Err(Error::NotFound {
                service: name.to_owned(),
            })
        } else {
            Ok(services)
        }
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.list(None).await
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        options.service.as_deref().map_or(Ok(()), check_name)?;
        let watcher = self.tasks.run(self.watches.subscribe(options)).await?;
        Ok(self.tasks.keep_running(watcher))
    }

    async fn overwritten(&self, key: &Key, instance: &Instance) {
        self.writer.claims.overwritten(key, instance).await;
    }

    fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.records.skipped(service)
    }

    async fn close(&self) -> Result<()> {
        self.tasks.close();
        self.watches.close();
        // Current writers finish within this deadline; later ones get `Closed`.
        let deadline = self.deadline();
        let _all = timeout_at(deadline, self.writers.acquire_many(MAX_WRITERS)).await;
        self.writers.close();
        self.tasks.join().await;
        // In an outage, the deregistrations have waited for etcd already.
        let deadline = match self.cluster.is_failing() {
            true => Instant::now() + CLOSE_IN_OUTAGE,
            false => self.deadline(),
        };
        let revoked = self.writer.close(deadline).await;
        self.cluster.close().await;
        revoked
    }

    async fn local_addresses(&self) -> Vec<IpAddr> {
        let members = self.options.addresses.iter();
        let members: Vec<_> = members.filter_map(|member| member.parse().ok()).collect();
        waypost_http::local_addresses(&members).await
    }
}

#[cfg(feature = "tls")]
fn connector(options: &EtcdOptions) -> Result<Arc<dyn Connect>> {
    use waypost_http::{Pem, TlsConfig, TlsConnect, TlsIdentity};
    let Some(tls) = &options.tls else {
        return Ok(Arc::new(TcpConnect));
    };
    let mut config = TlsConfig::default();
    config.ca = tls.ca.as_ref().map(Pem::file);
    config.server_name.clone_from(&tls.server_name);
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config.identity = Some(TlsIdentity::new(Pem::file(cert), Pem::file(key)));
    }
    let connect = TlsConnect::to_hosts(config)
        .map_err(|error| Error::invalid("etcd TLS", error.to_string()))?;
    Ok(Arc::new(connect))
}

#[cfg(not(feature = "tls"))]
fn connector(options: &EtcdOptions) -> Result<Arc<dyn Connect>> {
    match options.tls {
        None => Ok(Arc::new(TcpConnect)),
        Some(_) => Err(Error::invalid(
            "etcd TLS",
            "this build lacks the feature tls of waypost-etcd",
        )),
    }
}
