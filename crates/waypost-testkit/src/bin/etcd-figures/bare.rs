//! Reference side: etcd called directly, on one connection, without a registry. Shares HTTP/2 and
//! nothing else with the code that is measured.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::tokio_stream::{StreamExt, once, pending};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use waypost::{AddressPolicy, TcpConnect};
use waypost_http::direct::{DirectBody, DirectConnection};
use waypost_http::{BoxError, ConnectionConfig};
use waypost_testkit::report::Result;

use crate::wire::{
    Ask, BareKeyValue, BareOp, BarePutRequest, BareRangeRequest, BareRangeResponse, BareRequestOp,
    BareTxnRequest, BareTxnResponse, BareWatchCreateRequest, BareWatchRequest, BareWatchResponse,
};

/// Key prefix of go-micro's records, and the first key after them.
const RECORDS: (&[u8], &[u8]) = (b"/micro/registry/", b"/micro/registry0");
/// Number of operations in one transaction; etcd allows 128.
const BATCH: usize = 100;
const LONGEST_MESSAGE: usize = 256 << 20;

/// Connection to one member.
pub(crate) struct Bare {
    single: DirectConnection,
    /// Task of the connection, which closes when it is dropped.
    _driver: JoinSet<()>,
}

impl Bare {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let policy = AddressPolicy { loopback: true };
        let (single, driver) = DirectConnection::connect(
            &TcpConnect,
            &address.to_string().parse()?,
            &policy,
            &ConnectionConfig::default(),
        )
        .await?;
        let mut running = JoinSet::new();
        running.spawn(async move { drop(driver.run().await) });
        Ok(Self {
            single,
            _driver: running,
        })
    }

    /// Returns all records, in one response.
    pub(crate) async fn records(&self) -> Result<Vec<BareKeyValue>> {
        let question = BareRangeRequest {
            key: RECORDS.0.into(),
            range_end: RECORDS.1.into(),
        };
        let answer: BareRangeResponse = self.ask("/etcdserverpb.KV/Range", question).await?;
        Ok(answer.kvs)
    }

    /// Writes these keys and values, without a lease.
    pub(crate) async fn put(&self, changes: &[(String, String)]) -> Result<()> {
        for batch in changes.chunks(BATCH) {
            let put = |(key, value): &(String, String)| {
                let put = BarePutRequest {
                    key: key.clone().into_bytes(),
                    value: value.clone().into_bytes(),
                };
                BareRequestOp {
                    op: Some(BareOp::Put(put)),
                }
            };
            let question = BareTxnRequest {
                success: batch.iter().map(put).collect(),
            };
            let _: BareTxnResponse = self.ask("/etcdserverpb.KV/Txn", question).await?;
        }
        Ok(())
    }

    /// Watches all records from `revision`, or from now on if it is 0; returns once etcd has
    /// created the watch.
    pub(crate) async fn watch(&self, revision: i64) -> Result<Watching> {
        let create = BareWatchCreateRequest {
            key: RECORDS.0.into(),
            range_end: RECORDS.1.into(),
            start_revision: revision,
        };
        let questions = once(BareWatchRequest {
            ask: Some(Ask::Create(create)),
        })
        .chain(pending());
        let codec = ProstCodec::<BareWatchRequest, BareWatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answers = self
            .grpc()
            .streaming(tonic::Request::new(questions), path, codec)
            .await?;
        let mut watching = Watching(answers.into_inner());
        while !watching.next().await?.created {}
        Ok(watching)
    }

    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let answer = self
            .grpc()
            .unary(
                tonic::Request::new(question),
                PathAndQuery::from_static(path),
                codec,
            )
            .await?;
        Ok(answer.into_inner())
    }

    fn grpc(&self) -> Grpc<BareTransport> {
        Grpc::new(BareTransport(self.single.clone())).max_decoding_message_size(LONGEST_MESSAGE)
    }
}

/// Stream of the events of records.
pub(crate) struct Watching(Streaming<BareWatchResponse>);

impl Watching {
    pub(crate) async fn next(&mut self) -> Result<BareWatchResponse> {
        let next = self.0.message().await?;
        Ok(next.ok_or_else(|| Status::unavailable("etcd ended the stream"))?)
    }
}

/// Connection as the transport that tonic requires.
struct BareTransport(DirectConnection);

impl GrpcService<Body> for BareTransport {
    type ResponseBody = DirectBody;
    type Error = BoxError;
    type Future =
        Pin<Box<dyn Future<Output = std::result::Result<Response<DirectBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let single = self.0.clone();
        Box::pin(async move { Ok(single.send(request).await?) })
    }
}
