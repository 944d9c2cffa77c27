//! Registrar processes: this program, started again as `… fleet URL HANDLES SERVICES FIRST`. Each
//! handle is a registry of its own, as another process would have, and registers one node of each
//! service.

use std::fmt;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use waypost::record::{Node, Service};
use waypost::{AnyRegistry, Registration};
use waypost_etcd::{EtcdOptions, EtcdRegistry};
use waypost_greeter::greeter::FILE_DESCRIPTOR_SET;
use waypost_testkit::etcd::Etcd;
use waypost_testkit::report::{Result, one_thread};
use waypost_testkit::{Child, Program};

/// Default TTL and interval, set explicitly since the figures depend on them.
pub(crate) const TTL: Duration = Duration::from_secs(15);
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(180);

/// Registrations of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchLoad {
    /// Number of registries, each with a connection and a lease of its own.
    pub(crate) handles: usize,
    /// Number of services; each handle registers one node of each.
    pub(crate) services: usize,
    /// Number of the first node.
    pub(crate) first: usize,
}

/// Process with registrars.
#[derive(Debug)]
pub(crate) struct RunningFleet(Child);

impl RunningFleet {
    pub(crate) fn start(url: &str, load: WatchLoad) -> Result<Self> {
        let WatchLoad {
            handles,
            services,
            first,
        } = load;
        let numbers = [handles, services, first].map(|number| number.to_string());
        let program = Program::new(std::env::current_exe()?)
            .args(["fleet", url])
            .args(numbers);
        Ok(Self(Child::start("fleet", &program)?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until all nodes of the process are registered; returns the time that took.
    pub(crate) async fn registered(&mut self) -> Result<Duration> {
        Ok(Duration::from_secs_f64(
            self.0.line(PATIENCE).await?.parse()?,
        ))
    }

    /// Sends SIGTERM and waits for the end; returns the number of registrations that left by
    /// themselves.
    pub(crate) async fn shut_down(mut self) -> Result<usize> {
        self.0.sigterm()?;
        let left = self.0.line(PATIENCE).await?.parse()?;
        self.0.wait(PATIENCE).await?;
        Ok(left)
    }
}

/// Returns the URL of the registry on this etcd.
pub(crate) fn url(etcd: &Etcd) -> String {
    format!("etcd://{}", etcd.addresses()[0])
}

/// Opens a handle on the registry at `url`.
pub(crate) fn connect(url: &str) -> Result<AnyRegistry> {
    Ok(AnyRegistry::new(EtcdRegistry::new(EtcdOptions::parse(
        url,
    )?)?))
}

/// Returns the name of a service.
pub(crate) fn service(number: usize) -> String {
    format!("service-{number}")
}

/// Returns a record as a Waypost server writes it: one node, with the endpoints of the greeter.
pub(crate) fn record(service: usize, node: impl fmt::Display) -> Result<Service> {
    let name = self::service(service);
    let mut record = Service::new(&name);
    record.version = "1.0.0".to_owned();
    record.endpoints = waypost::descriptor::endpoints(FILE_DESCRIPTOR_SET)?.into();
    let mut node = Node::with_id(&name, &node.to_string(), "10.0.0.1:8080");
    for (key, value) in [
        ("protocol", "grpc"),
        ("server", "grpc"),
        ("transport", "grpc"),
        ("registry", "etcd"),
        ("zone", "a"),
        ("rack", "7"),
    ] {
        node.metadata.insert(key, value);
    }
    record.nodes.push(node);
    Ok(record)
}

/// Returns the key of a node's record.
pub(crate) fn key(service: &Service) -> String {
    let id = service.nodes.first().map_or("", |node| &node.id);
    format!("/micro/registry/{}/{id}", service.name)
}

/// Runs the child process. Prints the time once all nodes are registered, leaves on SIGTERM, and
/// prints the number of registrations that left by themselves.
pub(crate) fn run(args: &[String]) -> Result<()> {
    // The registrars end with the measuring program, even if it is killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [url, numbers @ ..] = args else {
        return Err("fleet URL HANDLES SERVICES FIRST".into());
    };
    let numbers = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<std::result::Result<Vec<usize>, _>>()?;
    let [handles, services, first] = numbers[..] else {
        return Err("fleet URL HANDLES SERVICES FIRST".into());
    };
    one_thread()?.block_on(serve(
        url,
        WatchLoad {
            handles,
            services,
            first,
        },
    ))
}

async fn serve(url: &str, load: WatchLoad) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let begun = Instant::now();
    let (registries, registrations) = register(url, load)?;
    for registration in &registrations {
        registration.registered().await?;
    }
    println!("{}", begun.elapsed().as_secs_f64());
    terminate.recv().await;
    let mut leaving = JoinSet::new();
    for registration in registrations {
        leaving.spawn(registration.close());
    }
    let left = leaving
        .join_all()
        .await
        .into_iter()
        .filter(std::result::Result::is_ok)
        .count();
    for registry in registries {
        registry.close().await?;
    }
    println!("{left}");
    Ok(())
}

fn register(url: &str, load: WatchLoad) -> Result<(Vec<AnyRegistry>, Vec<Registration>)> {
    let (mut registries, mut registrations) = (Vec::new(), Vec::new());
    for handle in 0..load.handles {
        let registry = connect(url)?;
        for number in 0..load.services {
            let record = record(number, load.first + handle)?;
            let builder = Registration::builder(registry.clone(), record);
            registrations.push(builder.ttl(TTL).interval(INTERVAL).start()?);
        }
        registries.push(registry);
    }
    Ok((registries, registrations))
}
