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
pub(crate) const LONGEST_MESSAGE: usize = 64 << 20;

/// Call of etcd's API: its path, request and response.
pub(crate) trait Call: Message + Clone + Default + 'static {
    const PATH: &'static str;
    type Answer: Message + Default + 'static;

    /// Returns true if a member without a leader must refuse the request, so that the client fails
    /// over.
    fn needs_leader(&self) -> bool {
        true
    }
}

impl Call for RangeRequest {
    const PATH: &'static str = "/etcdserverpb.KV/Range";
    type Answer = RangeResponse;

    fn needs_leader(&self) -> bool {
        !self.serializable
    }
}

macro_rules! calls {
    ($($question:ty => $answer:ty, $path:literal;)*) => {
        $(
            impl Call for $question {
                const PATH: &'static str = $path;
                type Answer = $answer;
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
pub(crate) async fn ask<Q: Call>(
    connection: &DirectConnection,
    question: Q,
    token: Option<&Secret>,
) -> Result<Q::Answer, Status> {
    let codec = ProstCodec::<Q, Q::Answer>::default();
    let needs_leader = question.needs_leader();
    let answer = grpc(connection)
        .unary(
            head(question, token, needs_leader),
            PathAndQuery::from_static(Q::PATH),
            codec,
        )
        .await?;
    Ok(answer.into_inner())
}

/// Opens a bidirectional stream. It completes with the first response.
pub(crate) async fn open<Q: Call>(
    connection: &DirectConnection,
    questions: Requests<Q>,
    token: Option<&Secret>,
) -> Result<Responses<Q::Answer>, Status> {
    let codec = ProstCodec::<Q, Q::Answer>::default();
    let answers = grpc(connection)
        .streaming(
            head(questions, token, true),
            PathAndQuery::from_static(Q::PATH),
            codec,
        )
        .await?;
    Ok(Responses::new(answers.into_inner()))
}

fn grpc(connection: &DirectConnection) -> Grpc<Transport> {
    Grpc::new(Transport(connection.clone())).max_decoding_message_size(LONGEST_MESSAGE)
}

fn head<T>(message: T, token: Option<&Secret>, needs_leader: bool) -> Request<T> {
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
struct Transport(DirectConnection);

type Answering = Pin<
    Box<dyn Future<Output = Result<http::Response<DirectBody>, waypost_http::BoxError>> + Send>,
>;

impl GrpcService<Body> for Transport {
    type ResponseBody = DirectBody;
    type Error = waypost_http::BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let connection = self.0.clone();
        Box::pin(async move { Ok(connection.send(request).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_secret() {
        let asked = AuthenticateRequest {
            name: "ann".into(),
            password: "hunter2".into(),
        };
        let answered = AuthenticateResponse {
            token: "hunter2".into(),
        };
        let request = head((), Some(&Secret::new("hunter2")), true);
        let shown = format!("{asked:?} {answered:?} {request:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_missing_key_is_compared_by_a_zero_that_is_sent() {
        let bytes = Compare::unchanged_since(b"k".to_vec(), 0).encode_to_vec();
        assert_eq!(bytes, [0x10, 2, 0x1a, 1, b'k', 0x30, 0]);
    }

    #[test]
    fn an_unknown_kind_of_event_ends_nothing() {
        let event = WatchEvent { kind: 77, kv: None };
        assert_eq!(
            WatchEvent::decode(event.encode_to_vec().as_slice())
                .unwrap()
                .kind,
            77
        );
    }
}
