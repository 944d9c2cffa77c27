//! The registrars: this very program, started again as `… fleet URL HANDLES SERVICES FIRST`. Each handle is a registry of its own, as
//! another process's would be, and registers one node of each service.

use std::fmt;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use waypost::record::{Node, Service};
use waypost::{AnyRegistry, Registration, Registry};
use waypost_etcd::{EtcdOptions, EtcdRegistry};
use waypost_greeter::greeter::FILE_DESCRIPTOR_SET;
use waypost_testkit::etcd::Etcd;
use waypost_testkit::report::{Result, one_thread};
use waypost_testkit::{Child, Program};

/// The defaults, written out since the figures are theirs.
pub(crate) const TTL: Duration = Duration::from_secs(15);
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(180);

/// What one process registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Registries, each with a connection and a lease of its own.
    pub(crate) handles: usize,
    /// Services, of which each handle registers one node.
    pub(crate) services: usize,
    /// The first node's number.
    pub(crate) first: usize,
}

/// A process of registrars.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(url: &str, load: Load) -> Result<Self> {
        let Load { handles, services, first } = load;
        let numbers = [handles, services, first].map(|number| number.to_string());
        let program = Program::new(std::env::current_exe()?).args(["fleet", url]).args(numbers);
        Ok(Self(Child::start("fleet", &program)?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until all it registers stands; how long that took it.
    pub(crate) async fn registered(&mut self) -> Result<Duration> {
        Ok(Duration::from_secs_f64(self.0.line(PATIENCE).await?.parse()?))
    }

    /// Asks it to leave, and waits; how many of its registrations said so to etcd in time.
    pub(crate) async fn leave(mut self) -> Result<usize> {
        self.0.sigterm()?;
        let left = self.0.line(PATIENCE).await?.parse()?;
        self.0.wait(PATIENCE).await?;
        Ok(left)
    }
}

/// A registry's URL.
pub(crate) fn url(etcd: &Etcd) -> String {
    format!("etcd://{}", etcd.addresses()[0])
}

/// A handle on the registry there.
pub(crate) fn connect(url: &str) -> Result<AnyRegistry> {
    Ok(AnyRegistry::new(EtcdRegistry::new(EtcdOptions::parse(url)?)?))
}

/// The name of a service.
pub(crate) fn service(number: usize) -> String {
    format!("service-{number}")
}

/// A record as a Waypost server writes it: one node, with the endpoints of the greeter.
pub(crate) fn record(service: usize, node: impl fmt::Display) -> Result<Service> {
    let name = self::service(service);
    let mut record = Service::new(&name);
    record.version = "1.0.0".to_owned();
    record.endpoints = waypost::describe::endpoints(FILE_DESCRIPTOR_SET)?.into();
    let mut node = Node::with_id(&name, &node.to_string(), "10.0.0.1:8080");
    for (key, value) in
        [("protocol", "grpc"), ("server", "grpc"), ("transport", "grpc"), ("registry", "etcd"), ("zone", "a"), ("rack", "7")]
    {
        node.metadata.insert(key, value);
    }
    record.nodes.push(node);
    Ok(record)
}

/// Where a node's record stands.
pub(crate) fn key(service: &Service) -> String {
    let id = service.nodes.first().map_or("", |node| &node.id);
    format!("/micro/registry/{}/{id}", service.name)
}

/// The child's side. It tells when all is registered, leaves on SIGTERM, and tells how much had left by itself.
pub(crate) fn run(args: &[String]) -> Result<()> {
    // However the figures end, their registrars end with them.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [url, numbers @ ..] = args else { return Err("fleet URL HANDLES SERVICES FIRST".into()) };
    let numbers = numbers.iter().map(|number| number.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
    let [handles, services, first] = numbers[..] else { return Err("fleet URL HANDLES SERVICES FIRST".into()) };
    one_thread()?.block_on(serve(url, Load { handles, services, first }))
}

async fn serve(url: &str, load: Load) -> Result<()> {
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
    let left = leaving.join_all().await.into_iter().filter(std::result::Result::is_ok).count();
    for registry in registries {
        registry.close().await?;
    }
    println!("{left}");
    Ok(())
}

fn register(url: &str, load: Load) -> Result<(Vec<AnyRegistry>, Vec<Registration>)> {
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
