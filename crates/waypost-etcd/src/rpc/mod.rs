//! etcd's API on one connection: messages and calls. This module does not know the choice of the
//! member.

mod messages;
mod stream;

use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use waypost_http::direct::{DirectBody, DirectConnection};

pub(crate) use messages::*;
pub(crate) use stream::{Requests, Responses};

use crate::secret::Secret;

/// Maximum size of a message in bytes; lists request smaller pages.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Request of etcd's API, with its path and the type of its response.
pub(crate) trait RpcRequest: Message + Clone + Default + 'static {
    const PATH: &'static str;
    type Response: Message + Default + 'static;

    /// Returns true if a member without a leader must refuse the request, so that the client fails
    /// over.
    fn needs_leader(&self) -> bool {
        true
    }
}

impl RpcRequest for RangeRequest {
    const PATH: &'static str = "/etcdserverpb.KV/Range";
    type Response = RangeResponse;

    fn needs_leader(&self) -> bool {
        !self.serializable
    }
}

macro_rules! calls {
    ($($request:ty => $response:ty, $path:literal;)*) => {
        $(
            impl RpcRequest for $request {
                const PATH: &'static str = $path;
                type Response = $response;
            }
        )*
    };
}

calls! {
    TxnRequest => TxnResponse, "/etcdserverpb.KV/Txn";
    LeaseGrantRequest => LeaseGrantResponse, "/etcdserverpb.Lease/LeaseGrant";
    LeaseRevokeRequest => LeaseRevokeResponse, "/etcdserverpb.Lease/LeaseRevoke";
    LeaseKeepAliveRequest => LeaseKeepAliveResponse, "/etcdserverpb.Lease/LeaseKeepAlive";
    WatchRequest => WatchResponse, "/etcdserverpb.Watch/Watch";
    AuthenticateRequest => AuthenticateResponse, "/etcdserverpb.Auth/Authenticate";
}

/// Sends a unary request. `token` is the auth token, if authentication is enabled.
pub(crate) async fn call<Q: RpcRequest>(
    connection: &DirectConnection,
    request: Q,
    token: Option<&Secret>,
) -> Result<Q::Response, Status> {
    let codec = ProstCodec::<Q, Q::Response>::default();
    let needs_leader = request.needs_leader();
    let response = grpc(connection)
        .unary(
            with_metadata(request, token, needs_leader),
            PathAndQuery::from_static(Q::PATH),
            codec,
        )
        .await?;
    Ok(response.into_inner())
}

/// Opens a bidirectional stream. It completes with the first response.
pub(crate) async fn open_stream<Q: RpcRequest>(
    connection: &DirectConnection,
    requests: Requests<Q>,
    token: Option<&Secret>,
) -> Result<Responses<Q::Response>, Status> {
    let codec = ProstCodec::<Q, Q::Response>::default();
    let responses = grpc(connection)
        .streaming(
            with_metadata(requests, token, true),
            PathAndQuery::from_static(Q::PATH),
            codec,
        )
        .await?;
    Ok(Responses::new(responses.into_inner()))
}

fn grpc(connection: &DirectConnection) -> Grpc<GrpcConnection> {
    Grpc::new(GrpcConnection(connection.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn with_metadata<T>(message: T, token: Option<&Secret>, needs_leader: bool) -> Request<T> {
    let mut request = Request::new(message);
    if needs_leader {
        request
            .metadata_mut()
            .insert("hasleader", AsciiMetadataValue::from_static("true"));
    }
    if let Some(mut token) =
        token.and_then(|token| AsciiMetadataValue::try_from(token.expose()).ok())
    {
        token.set_sensitive(true);
        request.metadata_mut().insert("token", token);
    }
    request
}

/// Connection as a `GrpcService` of tonic.
struct GrpcConnection(DirectConnection);

type ResponseFuture = Pin<
    Box<dyn Future<Output = Result<http::Response<DirectBody>, waypost_http::BoxError>> + Send>,
>;

impl GrpcService<Body> for GrpcConnection {
    type ResponseBody = DirectBody;
    type Error = waypost_http::BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        let connection = self.0.clone();
        Box::pin(async move { Ok(connection.send(request).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let login = AuthenticateRequest {
            name: "ann".into(),
            password: "hunter2".into(),
        };
        let logged_in = AuthenticateResponse {
            token: "hunter2".into(),
        };
        let request = with_metadata((), Some(&Secret::new("hunter2")), true);
        let shown = format!("{login:?} {logged_in:?} {request:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_comparison_with_revision_zero_is_encoded() {
        let bytes = Compare::unchanged_since(b"k".to_vec(), 0).encode_to_vec();
        assert_eq!(bytes, [0x10, 2, 0x1a, 1, b'k', 0x30, 0]);
    }

    #[test]
    fn an_unknown_kind_of_event_is_decoded() {
        let event = WatchEvent { kind: 77, kv: None };
        assert_eq!(
            WatchEvent::decode(event.encode_to_vec().as_slice())
                .unwrap()
                .kind,
            77
        );
    }
}
