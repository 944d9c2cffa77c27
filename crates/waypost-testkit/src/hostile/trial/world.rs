//! Servers of a trial, and the registry that lists them. Knows no client.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use waypost::MemoryRegistry;
use waypost::record::{Node, Service, keys};
use waypost_greeter::greeter::FILE_DESCRIPTOR_SET;

use super::plan::Plan;
use crate::Failure;
use crate::hostile::{Script, Server};

/// Name of the service.
pub(super) const SERVICE: &str = "greeter";
/// Version of the nodes that the channel uses; the others have another version.
pub(super) const VERSION: &str = "used";

/// Servers, and their records in the registry.
pub(super) struct World {
    pub(super) registry: MemoryRegistry,
    template: Service,
    servers: Vec<Server>,
    rng: fastrand::Rng,
}

impl World {
    pub(super) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::new(error.to_string());
        let mut template = Service::new(SERVICE);
        template.endpoints = waypost::descriptor::endpoints(FILE_DESCRIPTOR_SET)
            .map_err(|error| failed(&error))?
            .into();
        let mut rng = fastrand::Rng::with_seed(!plan.seed);
        let mut servers = Vec::new();
        for behaviors in &plan.servers {
            let started = Server::start(Script::Drawn(behaviors.clone()), rng.u64(..)).await;
            servers.push(started.map_err(|error| failed(&error))?);
        }
        let world = Self {
            registry: MemoryRegistry::new(),
            template,
            servers,
            rng,
        };
        (0..plan.unused_nodes).for_each(|number| world.put_unused(number));
        (0..world.servers.len()).for_each(|index| world.put(index, &[]));
        Ok(world)
    }

    /// Changes the membership until the hostility is over, then registers all nodes.
    pub(super) async fn trouble(&mut self, plan: &Plan) {
        let end = Instant::now() + plan.hostility;
        loop {
            let next = Instant::now() + Duration::from_millis(self.rng.u64(20..300));
            sleep_until(next.min(end)).await;
            if next >= end {
                break;
            }
            self.change();
        }
        (0..self.servers.len()).for_each(|index| self.put(index, &[]));
    }

    fn change(&mut self) {
        let index = self.rng.usize(0..self.servers.len());
        match self.rng.u8(0..6) {
            // A change of metadata.
            0 | 1 => {
                let round = self.rng.u64(..).to_string();
                self.put(index, &[("round", &round)]);
            }
            // A leave.
            2 => {
                self.put(index, &[(keys::STATE, keys::LEAVING)]);
                self.remove(index);
            }
            // A loss.
            3 => self.remove(index),
            // A return, or a write of a record that was not removed.
            _ => self.put(index, &[]),
        }
    }

    /// Ends the hostility of all servers.
    pub(super) fn heal(&self) {
        self.servers.iter().for_each(Server::heal);
    }

    /// Takes one hostile server down for this time, then up again; `index` counts from the last
    /// server.
    pub(super) async fn outage(&self, index: usize, lasts: Duration) {
        let server = &self.servers[self.servers.len() - 1 - index];
        server.set_down(true);
        sleep(lasts).await;
        server.set_down(false);
    }

    /// Returns the number of responses of each server so far.
    pub(super) fn answered(&self) -> Vec<u64> {
        self.servers.iter().map(Server::answered).collect()
    }

    /// Returns the number of connections that all servers have accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.servers.iter().map(Server::accepted).sum()
    }

    /// Returns the ids of the nodes whose flag in `silent` is true.
    pub(super) fn silent(&self, silent: &[bool]) -> Vec<String> {
        (0..self.servers.len())
            .filter(|index| silent[*index])
            .map(id)
            .collect()
    }

    pub(super) async fn close(self) {
        for server in self.servers {
            server.close().await;
        }
    }

    fn put(&self, index: usize, metadata: &[(&str, &str)]) {
        let address = self.servers[index].address().to_string();
        self.put_record(&id(index), &address, VERSION, metadata);
    }

    fn put_unused(&self, number: usize) {
        self.put_record(
            &format!("{SERVICE}-unused-{number}"),
            "127.0.0.1:1",
            "unused",
            &[],
        );
    }

    fn put_record(&self, id: &str, address: &str, version: &str, metadata: &[(&str, &str)]) {
        let mut service = self.template.clone();
        version.clone_into(&mut service.version);
        let mut node = Node {
            id: id.to_owned(),
            address: address.to_owned(),
            ..Node::default()
        };
        node.metadata.insert(keys::PROTOCOL, "grpc");
        metadata
            .iter()
            .for_each(|(key, value)| node.metadata.insert(*key, *value));
        service.nodes.push(node);
        self.registry
            .faults()
            .put_raw(SERVICE, id, service.to_json());
    }

    fn remove(&self, index: usize) {
        self.registry.faults().remove_raw(SERVICE, &id(index));
    }
}

fn id(index: usize) -> String {
    format!("{SERVICE}-{index}")
}
