//! Registry on etcd v3, for production.
//!
//! Keys and values are go-micro's, so that its services and ours discover each other. A record
//! lives as long as its lease. One keepalive stream renews all leases; one watch stream serves all
//! watchers and all records of this process. Both streams fail over to another member when theirs
//! is gone, silent or broken. After a gap the range is listed again and the difference is emitted.
//!
//! Modules: `wire` (messages and calls), `members` (choice of the member, authentication), `lease`,
//! `list`, `watch`, `owner` (ownership of keys) on top of `ledger`; `tasks` runs the drivers of
//! `lease` and `watch`; `trouble` classifies every error of etcd once. This crate knows neither
//! load balancing nor its callers.

mod lease;
mod ledger;
mod list;
mod members;
mod options;
mod owner;
mod records;
mod rest;
mod secret;
mod space;
mod tasks;
mod trouble;
mod watch;
mod wire;

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use waypost_core::record::{Entry, Service};
use waypost_core::registry::{
    DeregisterOptions, Error, Options, RegisterOptions, Registry, Result, WatchOptions, Watcher,
    check_keys, check_name, check_registration,
};
use waypost_http::{Connect, TcpConnect};

pub use options::{DEFAULT_PREFIX, EtcdOptions, Tls};
pub use secret::Secret;

use lease::{Leases, Slots};
use ledger::Ledger;
use list::{Reading, list};
use members::{Credentials, Members, Password};
use owner::{Owner, Places};
use records::Records;
use space::Space;
use tasks::Tasks;
use trouble::NAME;
use watch::Hub;

/// Handle on a registry in etcd.
///
/// If it is dropped without [`close`](Registry::close), its records stay until their leases expire,
/// like those of a killed process.
pub struct EtcdRegistry {
    options: Options,
    members: Arc<Members>,
    records: Arc<Records>,
    hub: Arc<Hub>,
    owner: Owner,
    /// Background tasks, started by the first registration or watch.
    tasks: Arc<Tasks>,
    /// Semaphore held by every writer. `close` waits for it: a record written after its lease was
    /// revoked would stay.
    writing: Semaphore,
}

/// Maximum number of concurrent registrations and deregistrations; `close` waits for all of them.
const AT_ONCE: u32 = 1 << 16;

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
        let EtcdOptions {
            members: addresses,
            prefix,
            timeout,
            user,
            password,
            password_file,
            tls,
        } = options;
        let mut shown = Options::new();
        shown.on_this_host = addresses.iter().all(|address| is_loopback(&address.host));
        shown.addresses = addresses.iter().map(ToString::to_string).collect();
        (shown.timeout, shown.tls, shown.prefix) = (timeout, tls.is_some(), prefix.clone());
        let password = password
            .map(Password::Known)
            .or(password_file.map(Password::InFile));
        let credentials = user
            .zip(password)
            .map(|(user, password)| Credentials { user, password });
        let members = Arc::new(Members::new(addresses, connect, credentials));
        let (records, ledger) = (
            Arc::new(Records::new(Space::new(&prefix))),
            Arc::<Ledger>::default(),
        );
        let heard_by = Arc::clone(&ledger);
        let listener = Box::new(move |news| heard_by.hear(news));
        let (hub, follows) = Hub::new(
            Arc::clone(&members),
            Arc::clone(&records),
            timeout,
            listener,
        );
        let (leases, keeps) = Leases::new(Arc::clone(&members));
        let hub = Arc::new(hub);
        let owner = Owner {
            members: Arc::clone(&members),
            records: Arc::clone(&records),
            ledger,
            leases,
            slots: Slots::default(),
            hub: Arc::clone(&hub),
            places: Places::default(),
        };
        let tasks = Arc::new(Tasks::new(keeps, follows));
        Ok(Self {
            options: shown,
            members,
            records,
            hub,
            owner,
            tasks,
            writing: Semaphore::new(AT_ONCE as usize),
        })
    }

    /// Returns the number of keys seen that hold no valid record. They are skipped, so that they do
    /// not hide valid ones.
    pub fn skipped(&self) -> usize {
        self.records.skipped()
    }

    /// Returns the number of changes that a list has found and the watch had not delivered.
    pub fn missed(&self) -> usize {
        self.hub.missed()
    }

    fn is_open(&self) -> Result<()> {
        if self.tasks.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    async fn read(&self, service: Option<&str>) -> Result<Vec<Service>> {
        self.is_open()?;
        let listed = list(
            &self.members,
            &self.records,
            service,
            Reading::Agreed,
            self.options.timeout,
        )
        .await;
        let listed = listed.map_err(|trouble| trouble.error("listing services"))?;
        Ok(Entry::into_services(listed.entries))
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
        self.hub.close();
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
        check_registration(service, options)?;
        let registering = async {
            let _writing = self.writing.acquire().await.map_err(|_| Error::Closed)?;
            let until = self.deadline();
            let mut result = Ok(());
            for entry in options.stamp(service).entries() {
                result = result.and(self.owner.register(&entry, options, until).await);
            }
            result
        };
        self.tasks.run(registering).await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        check_keys(service)?;
        let deregistering = async {
            let _writing = self.writing.acquire().await.map_err(|_| Error::Closed)?;
            let until = self.deadline();
            let mut result = Ok(());
            for entry in service.entries() {
                result = result.and(self.owner.deregister(&entry.key(), options, until).await);
            }
            result
        };
        self.tasks.run(deregistering).await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        check_name(name)?;
        let services = self.read(Some(name)).await?;
        if services.is_empty() {
            Err(Error::NotFound {
                service: name.to_owned(),
            })
        } else {
            Ok(services)
        }
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.read(None).await
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        options.service.as_deref().map_or(Ok(()), check_name)?;
        let watcher = self.tasks.run(self.hub.follow(options)).await?;
        Ok(self.tasks.keep_running(watcher))
    }

    async fn close(&self) -> Result<()> {
        self.tasks.close();
        self.hub.close();
        // Current writers finish within this deadline; later ones get `Closed`.
        let until = self.deadline();
        let _all = timeout_at(until, self.writing.acquire_many(AT_ONCE)).await;
        self.writing.close();
        self.tasks.join().await;
        let revoked = self.owner.close(self.deadline()).await;
        self.members.close().await;
        revoked
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(feature = "tls")]
fn connector(options: &EtcdOptions) -> Result<Arc<dyn Connect>> {
    use waypost_http::{TlsConfig, TlsConnect};
    let Some(tls) = &options.tls else {
        return Ok(Arc::new(TcpConnect));
    };
    let read = |what: &str, file: &std::path::PathBuf| {
        let why = |error| {
            Error::invalid(
                format!("etcd {what} {:?}", file.display().to_string()),
                format!("cannot be read: {error}"),
            )
        };
        std::fs::read(file).map_err(why)
    };
    let mut config = TlsConfig::default();
    config.ca = tls.ca.as_ref().map(|file| read("ca", file)).transpose()?;
    config.server_name.clone_from(&tls.server_name);
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config.identity = Some((read("cert", cert)?, read("key", key)?));
    }
    let connect =
        TlsConnect::new(&config).map_err(|error| Error::invalid("etcd TLS", error.to_string()))?;
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
