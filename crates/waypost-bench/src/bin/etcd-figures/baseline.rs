//! Reference side: etcd called directly, on one connection, without a registry. Shares HTTP/2 and
//! nothing else with the code that is measured.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{StreamExt, once, pending};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use waypost::{AddressPolicy, TcpConnect};
use waypost_http::direct::{DirectBody, DirectConnection};
use waypost_http::{BoxError, ConnectionConfig};
use waypost_testkit::report::Result;

use crate::messages::{
    BaselineKeyValue, BaselineOp, BaselinePutRequest, BaselineRangeRequest, BaselineRangeResponse,
    BaselineRequestOp, BaselineTxnRequest, BaselineTxnResponse, BaselineWatchCreateRequest,
    BaselineWatchRequest, BaselineWatchResponse, BaselineWatchUnion,
};

/// Key prefix of go-micro's records, and the first key after them.
const RECORDS: (&[u8], &[u8]) = (b"/micro/registry/", b"/micro/registry0");
/// Number of operations in one transaction; etcd allows 128.
const BATCH: usize = 100;
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Connection to one member.
pub(crate) struct Baseline {
    connection: DirectConnection,
    /// Task of the connection, which closes when it is dropped.
    _driver: JoinSet<()>,
}

impl Baseline {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let policy = AddressPolicy { loopback: true };
        let (connection, driver) = DirectConnection::connect(
            &TcpConnect,
            &address.to_string().parse()?,
            &policy,
            &ConnectionConfig::default(),
        )
        .await?;
        let mut running = JoinSet::new();
        running.spawn(async move { drop(driver.run().await) });
        Ok(Self {
            connection,
            _driver: running,
        })
    }

    /// Returns all records, in one response.
    pub(crate) async fn records(&self) -> Result<Vec<BaselineKeyValue>> {
        let request = BaselineRangeRequest {
            key: RECORDS.0.into(),
            range_end: RECORDS.1.into(),
        };
        let response: BaselineRangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(response.kvs)
    }

    /// Writes these keys and values, without a lease.
    pub(crate) async fn put(&self, changes: &[(String, String)]) -> Result<()> {
        for batch in changes.chunks(BATCH) {
            let put = |(key, value): &(String, String)| {
                let put = BaselinePutRequest {
                    key: key.clone().into_bytes(),
                    value: value.clone().into_bytes(),
                    lease: 0,
                };
                BaselineRequestOp {
                    op: Some(BaselineOp::Put(put)),
                }
            };
            let request = BaselineTxnRequest {
                success: batch.iter().map(put).collect(),
            };
            let _: BaselineTxnResponse = self.call("/etcdserverpb.KV/Txn", request).await?;
        }
        Ok(())
    }

    /// Watches all records from `revision`, or from now on if it is 0; returns once etcd has
    /// created the watch.
    pub(crate) async fn watch(&self, revision: i64) -> Result<EventStream> {
        let create = BaselineWatchCreateRequest {
            key: RECORDS.0.into(),
            range_end: RECORDS.1.into(),
            start_revision: revision,
        };
        let requests = once(BaselineWatchRequest {
            request_union: Some(BaselineWatchUnion::Create(create)),
        })
        .chain(pending());
        let codec = ProstCodec::<BaselineWatchRequest, BaselineWatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let responses = self
            .grpc()
            .streaming(tonic::Request::new(requests), path, codec)
            .await?;
        let mut events_stream = EventStream(responses.into_inner());
        while !events_stream.next().await?.created {}
        Ok(events_stream)
    }

    /// Opens a stream with these first requests; etcd answers it with the first response.
    pub(crate) async fn exchange<Q, A>(
        &self,
        path: &'static str,
        first: Vec<Q>,
    ) -> Result<Exchange<Q, A>>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (requests, receiver) = mpsc::channel(first.len().max(1));
        for request in first {
            requests
                .try_send(request)
                .map_err(|_| "the first requests do not fit")?;
        }
        let codec = ProstCodec::<Q, A>::default();
        let requests_stream = tonic::Request::new(ReceiverStream::new(receiver));
        let responses = self
            .grpc()
            .streaming(requests_stream, PathAndQuery::from_static(path), codec)
            .await?
            .into_inner();
        Ok(Exchange {
            requests,
            responses,
        })
    }

    pub(crate) async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let response = self
            .grpc()
            .unary(
                tonic::Request::new(request),
                PathAndQuery::from_static(path),
                codec,
            )
            .await?;
        Ok(response.into_inner())
    }

    fn grpc(&self) -> Grpc<BaselineTransport> {
        Grpc::new(BaselineTransport(self.connection.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Bidirectional stream.
pub(crate) struct Exchange<Q, A> {
    requests: mpsc::Sender<Q>,
    responses: Streaming<A>,
}

impl<Q, A> Exchange<Q, A> {
    pub(crate) async fn send(&self, request: Q) -> Result<()> {
        let sent = self.requests.send(request).await;
        Ok(sent.map_err(|_| "the stream has ended")?)
    }

    pub(crate) async fn next(&mut self) -> Result<A> {
        let next = self.responses.message().await?;
        Ok(next.ok_or("etcd ended the stream")?)
    }
}

/// Stream of the events of records.
pub(crate) struct EventStream(Streaming<BaselineWatchResponse>);

impl EventStream {
    pub(crate) async fn next(&mut self) -> Result<BaselineWatchResponse> {
        let next = self.0.message().await?;
        Ok(next.ok_or_else(|| Status::unavailable("etcd ended the stream"))?)
    }
}

/// Connection as the transport that tonic requires.
struct BaselineTransport(DirectConnection);

impl GrpcService<Body> for BaselineTransport {
    type ResponseBody = DirectBody;
    type Error = BoxError;
    type Future =
        Pin<Box<dyn Future<Output = std::result::Result<Response<DirectBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = self.0.clone();
        Box::pin(async move { Ok(connection.send(request).await?) })
    }
}
