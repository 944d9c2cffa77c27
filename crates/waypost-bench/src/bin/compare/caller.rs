//! Callers of the two sides, behind one generated stub.

use std::future::Future;
use std::time::Duration;

use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use waypost::registry::RegisterOptions;
use waypost::{AnyRegistry, MemoryRegistry, Registry};
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest};
use waypost_testkit::report::Result;

/// Name of the service in every registry here.
pub(crate) const SERVICE: &str = "greeter";

/// Stub on Waypost's side.
pub(crate) type Ours = GreeterClient<waypost::Channel>;
/// Stub over tonic's own balancer.
pub(crate) type Theirs = GreeterClient<Channel>;

/// Caller that makes one unary call after another.
pub(crate) trait Caller: Clone + Send + 'static {
    fn hello(
        &mut self,
        timeout: Option<Duration>,
    ) -> impl Future<Output = std::result::Result<(), Status>> + Send;
}

impl<T> Caller for GreeterClient<T>
where
    T: GrpcService<tonic::body::Body, Future: Send, Error: Into<StdError>>
        + Clone
        + Send
        + Sync
        + 'static,
    T::ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    async fn hello(&mut self, timeout: Option<Duration>) -> std::result::Result<(), Status> {
        let mut request = Request::new(HelloRequest {
            name: "Ann".to_owned(),
        });
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        // Any generated stub takes this path.
        GreeterClient::hello(self, request).await.map(drop)
    }
}

/// Creates a client of Waypost over a registry with the records that a Waypost server writes.
pub(crate) async fn ours(addresses: &[String]) -> Result<(waypost::Client, Ours)> {
    let registry = MemoryRegistry::new();
    for (i, address) in addresses.iter().enumerate() {
        let mut service = waypost::record::Service::new(SERVICE);
        service.endpoints = waypost::descriptor::endpoints(FILE_DESCRIPTOR_SET)?.into();
        let mut node = waypost::record::Node::with_id(SERVICE, &i.to_string(), address);
        node.metadata.insert("protocol", "grpc");
        service.nodes.push(node);
        let options = RegisterOptions {
            ttl: Duration::from_secs(3600),
            instance: waypost::registry::Instance::random(),
        };
        registry.register(&service, &options).await?;
    }
    ours_from(AnyRegistry::new(registry))
}

/// Creates a client of Waypost over any registry.
pub(crate) fn ours_from(registry: AnyRegistry) -> Result<(waypost::Client, Ours)> {
    let client = waypost::Client::new(registry);
    let channel = client.channel(SERVICE)?;
    Ok((client, GreeterClient::new(channel)))
}

/// Creates a client of tonic over a static list, by `Channel::balance_list`.
pub(crate) fn balance_list(addresses: &[String]) -> Result<Theirs> {
    let endpoints = addresses
        .iter()
        .map(|address| endpoint(address))
        .collect::<Result<Vec<_>>>()?;
    Ok(GreeterClient::new(Channel::balance_list(
        endpoints.into_iter(),
    )))
}

/// Creates a client of tonic over a changing list, by `Channel::balance_channel`.
pub(crate) fn balance_channel() -> (tokio::sync::mpsc::Sender<Change<String, Endpoint>>, Theirs) {
    let (channel, changes) = Channel::balance_channel(64);
    (changes, GreeterClient::new(channel))
}

/// Returns the endpoint of tonic for one node.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}
