//! Example of a custom registry: a file with one `service id address` per line, read again every
//! second. The suite in `waypost-conformance` checks that a registry keeps its contract.
//! `cargo run -p waypost --example own_registry -- hosts.txt` calls a greeter listed in the file.

use std::path::PathBuf;
use std::time::Duration;

use waypost::record::{Entry, Node, Service, keys};
use waypost::registry::{DeregisterOptions, Error, Event, NodeSet, Options, RegisterOptions};
use waypost::registry::{Registry, Result, WatchOptions, Watcher};
use waypost_greeter::greeter::{HelloRequest, greeter_client::GreeterClient};

#[derive(Clone, Debug)]
struct HostsFile(PathBuf, Options);
impl HostsFile {
    async fn entries(&self, wanted: &WatchOptions) -> Result<Vec<Entry>> {
        let read = tokio::fs::read_to_string(&self.0).await;
        let text = read.map_err(|error| Error::unavailable("hosts", "read the file", error))?;
        let entry = |line: &str| {
            let [name, id, address] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            let mut service = Service::new(name);
            service.nodes.push(Node::with_id(name, id, address));
            service.nodes[0].metadata.insert(keys::PROTOCOL, "grpc");
            wanted.covers(name).then(|| service.entries())
        };
        Ok(text.lines().filter_map(entry).flatten().collect())
    }
}

impl Registry for HostsFile {
    fn name(&self) -> &'static str {
        "hosts"
    }
    fn options(&self) -> &Options {
        &self.1
    }
    async fn register(&self, _: &Service, _: &RegisterOptions) -> Result<()> {
        Err(Error::Unsupported {
            registry: "hosts",
            operation: "register",
        })
    }
    async fn deregister(&self, _: &Service, _: &DeregisterOptions) -> Result<()> {
        Err(Error::Unsupported {
            registry: "hosts",
            operation: "deregister",
        })
    }
    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        let entries = self.entries(&WatchOptions::service(name)).await?;
        if entries.is_empty() {
            Err(Error::NotFound {
                service: name.to_owned(),
            })
        } else {
            Ok(Entry::to_services(&entries))
        }
    }
    async fn list_services(&self) -> Result<Vec<Service>> {
        Ok(Entry::to_services(
            &self.entries(&WatchOptions::all()).await?,
        ))
    }
    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        let (file, options) = (self.clone(), options.clone());
        let polled = async_stream::stream! {
            let mut emitted: Option<NodeSet> = None;
            loop {
                let entries = file.entries(&options).await;
                let picture = entries.as_ref().ok().map(|entries| NodeSet::from_iter(entries.clone()));
                if picture.is_none() || picture != emitted {
                    yield entries.map(Event::Reset);
                    emitted = picture.or(emitted);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        Ok(Watcher::new(polled))
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: own_registry FILE")?;
    let mut options = Options::new();
    options.on_this_host = true;
    let client = waypost::Client::new(waypost::AnyRegistry::new(HostsFile(path.into(), options)));
    let channel = client.channel("greeter")?;
    let answer = GreeterClient::new(channel)
        .hello(HelloRequest { name: "Ann".into() })
        .await?;
    println!("{}", answer.into_inner().message);
    Ok(())
}
