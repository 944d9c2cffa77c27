//! The other side: etcd asked by hand, on one connection, without a registry. It shares HTTP/2 and nothing else with what is measured.

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
use waypost_http::BoxError;
use waypost_http::single::{KeepAlive, Single, SingleBody};
use waypost_testkit::report::Result;

use crate::wire::{
    Ask, KeyValue, Op, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};

/// Where go-micro's records stand, and the first key after them.
const RECORDS: (&[u8], &[u8]) = (b"/micro/registry/", b"/micro/registry0");
/// etcd takes 128 operations in one transaction.
const BATCH: usize = 100;
const LONGEST_MESSAGE: usize = 256 << 20;

/// A connection to one member.
pub(crate) struct Bare {
    single: Single,
    /// Dropped, the connection is gone.
    _driver: JoinSet<()>,
}

impl Bare {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let policy = AddressPolicy { loopback: true };
        let (single, driver) = Single::connect(&TcpConnect, &address.to_string().parse()?, &policy, KeepAlive::default()).await?;
        let mut running = JoinSet::new();
        running.spawn(async move { drop(driver.run().await) });
        Ok(Self { single, _driver: running })
    }

    /// Every record there is, in one answer.
    pub(crate) async fn records(&self) -> Result<Vec<KeyValue>> {
        let question = RangeRequest { key: RECORDS.0.into(), range_end: RECORDS.1.into() };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", question).await?;
        Ok(answer.kvs)
    }

    /// Writes, without a lease.
    pub(crate) async fn put(&self, changes: &[(String, String)]) -> Result<()> {
        for batch in changes.chunks(BATCH) {
            let put = |(key, value): &(String, String)| {
                let put = PutRequest { key: key.clone().into_bytes(), value: value.clone().into_bytes() };
                RequestOp { op: Some(Op::Put(put)) }
            };
            let question = TxnRequest { success: batch.iter().map(put).collect() };
            let _: TxnResponse = self.ask("/etcdserverpb.KV/Txn", question).await?;
        }
        Ok(())
    }

    /// A watch of all records from `revision` on, or from now on if it is 0; returns once etcd has made it.
    pub(crate) async fn watch(&self, revision: i64) -> Result<Watching> {
        let create = WatchCreateRequest { key: RECORDS.0.into(), range_end: RECORDS.1.into(), start_revision: revision };
        let questions = once(WatchRequest { ask: Some(Ask::Create(create)) }).chain(pending());
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answers = self.grpc().streaming(tonic::Request::new(questions), path, codec).await?;
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
        let answer = self.grpc().unary(tonic::Request::new(question), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    fn grpc(&self) -> Grpc<Transport> {
        Grpc::new(Transport(self.single.clone())).max_decoding_message_size(LONGEST_MESSAGE)
    }
}

/// A stream of what happens to records.
pub(crate) struct Watching(Streaming<WatchResponse>);

impl Watching {
    pub(crate) async fn next(&mut self) -> Result<WatchResponse> {
        let next = self.0.message().await?;
        Ok(next.ok_or_else(|| Status::unavailable("etcd ended the stream"))?)
    }
}

/// The connection, as tonic wants it.
struct Transport(Single);

impl GrpcService<Body> for Transport {
    type ResponseBody = SingleBody;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<SingleBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let single = self.0.clone();
        Box::pin(async move { Ok(single.send(request).await?) })
    }
}
