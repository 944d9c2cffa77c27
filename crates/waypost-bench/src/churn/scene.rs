//! Client that knows a given number of nodes of one service.

use std::time::Duration;

use tonic::Request;
use waypost::{Channel, Client};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_testkit::report::Result;

use crate::cpu;
use crate::peers::Peers;
use crate::records::{RecordSet, SERVICE, id};
use crate::registry::PushRegistry;

/// Maximum wait for a first connection.
const READY: Duration = Duration::from_secs(120);
/// Maximum number of peers of the channel: the default, set explicitly because the figures depend
/// on it.
const MAX_PEERS: usize = 100;

/// Registry and client.
pub(super) struct Scene {
    pub(super) records: RecordSet,
    pub(super) registry: PushRegistry,
    pub(super) client: Client,
    pub(super) address: String,
}

impl Scene {
    /// Creates the client; the registry has `nodes` nodes, all at the address of `peers`.
    pub(super) fn new(nodes: usize, peers: &Peers) -> Result<Self> {
        let (records, registry, address) = (
            RecordSet::new(),
            PushRegistry::new(),
            peers.address.to_string(),
        );
        let record = |number| {
            let id = id(number, 0);
            (RecordSet::key(&id), records.json(&id, &address, &[]))
        };
        registry.load((0..nodes).map(record))?;
        let client = Client::new(registry.handle());
        Ok(Self {
            records,
            registry,
            client,
            address,
        })
    }

    pub(super) fn channel(&self) -> Result<Channel> {
        Ok(self
            .client
            .channel_builder(SERVICE)
            .max_peers(MAX_PEERS)
            .build()?)
    }

    /// Returns a channel whose peers are connected and idle.
    pub(super) async fn connected(&self) -> Result<Channel> {
        let channel = self.channel()?;
        channel.ready(READY).await?;
        cpu::idle().await;
        Ok(channel)
    }
}

/// Makes one call.
pub(super) async fn call(channel: &Channel) -> Result<()> {
    let mut request = Request::new(HelloRequest {
        name: "Ann".to_owned(),
    });
    request.set_timeout(READY);
    GreeterClient::new(channel.clone()).hello(request).await?;
    Ok(())
}
