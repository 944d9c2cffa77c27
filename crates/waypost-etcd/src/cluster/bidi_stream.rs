//! Bidirectional stream to any member that can be reached.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Cluster, MemberConnection};
use crate::error::EtcdError;
use crate::rpc::{self, Requests, Responses, RpcRequest};
use crate::secret::Secret;

/// Stream that is being opened, or open. It opens while it is polled, and is closed when dropped.
pub(crate) struct BidiStream<Q: RpcRequest> {
    cluster: Arc<Cluster>,
    target: Arc<StreamTarget>,
    requests: mpsc::Sender<Q>,
    phase: StreamPhase<Q::Response>,
}

type Opening<A> = Pin<Box<dyn Future<Output = Result<Responses<A>, EtcdError>> + Send>>;

enum StreamPhase<A> {
    Opening(Opening<A>),
    Open(Box<Responses<A>>),
    Ended,
}

/// Connection and token of the stream, once they are known.
#[derive(Default)]
struct StreamTarget {
    connection: OnceLock<MemberConnection>,
    token: OnceLock<Option<Secret>>,
    /// Bytes read from the connection at the last response, or at the start.
    read_bytes: AtomicU64,
}

impl StreamTarget {
    fn token(&self) -> Option<&Secret> {
        self.token.get()?.as_ref()
    }

    fn mark_read(&self, connection: &MemberConnection) {
        self.read_bytes
            .store(connection.transport.read_bytes(), Relaxed);
    }

    /// Returns true if only the stream timed out, and the connection works.
    fn was_read_since(&self, connection: &MemberConnection, error: &EtcdError) -> bool {
        matches!(error, EtcdError::Timeout(_))
            && connection.transport.is_open()
            && connection.transport.read_bytes() > self.read_bytes.load(Relaxed)
    }
}

impl<Q: RpcRequest> BidiStream<Q> {
    /// Creates a stream with a queue of `capacity` requests. A member must be found before
    /// `deadline`.
    pub(crate) fn new(cluster: &Arc<Cluster>, capacity: usize, deadline: Instant) -> Self {
        let (requests, receiver) = mpsc::channel(capacity);
        let target = Arc::<StreamTarget>::default();
        let opening = Box::pin(open(
            Arc::clone(cluster),
            Arc::clone(&target),
            Requests::new(receiver),
            deadline,
        ));
        Self {
            cluster: Arc::clone(cluster),
            target,
            requests,
            phase: StreamPhase::Opening(opening),
        }
    }

    /// Returns true if the stream is open on another member than the first.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.target
            .connection
            .get()
            .is_some_and(MemberConnection::is_elsewhere)
    }

    /// Queues a request; returns it if the queue is full.
    pub(crate) fn try_send(&self, request: Q) -> Result<(), Q> {
        self.requests
            .try_send(request)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(request)
                | mpsc::error::TrySendError::Closed(request) => request,
            })
    }

    /// Waits for the next response; pending for ever after an error.
    ///
    /// # Errors
    /// The reason for the end of the stream.
    ///
    /// # Cancel safety
    /// No response is lost if it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Q::Response, EtcdError> {
        let response = self.try_next().await;
        if response.is_err() {
            self.phase = StreamPhase::Ended;
        }
        response
    }

    /// Waits for the next response of an optional stream; pending for ever if there is none.
    pub(crate) async fn next_of(stream: &mut Option<Self>) -> Result<Q::Response, EtcdError> {
        match stream {
            Some(stream) => stream.next().await,
            None => std::future::pending().await,
        }
    }

    async fn try_next(&mut self) -> Result<Q::Response, EtcdError> {
        if let StreamPhase::Opening(opening) = &mut self.phase {
            self.phase = StreamPhase::Open(Box::new(opening.await?));
        }
        let StreamPhase::Open(responses) = &mut self.phase else {
            return std::future::pending().await;
        };
        match responses.next().await {
            Ok(Some(response)) => {
                if let Some(connection) = self.target.connection.get() {
                    self.cluster.record_success(connection, true);
                    self.target.mark_read(connection);
                }
                Ok(response)
            }
            Ok(None) => Err(EtcdError::Transport("etcd closed the stream".to_owned())),
            Err(status) => Err(self.cluster.classify(&status, self.target.token())),
        }
    }

    /// Closes the stream. Fails over to another member if this one is the cause. A connection on which
    /// anything was read since the stream's last response works, and is kept.
    pub(crate) fn close_failed(self, error: &EtcdError) {
        if let EtcdError::InvalidToken(_) = error {
            self.cluster.invalidate(self.target.token());
        }
        let connection = self.target.connection.get();
        match connection.filter(|_| error.should_fail_over()) {
            Some(connection) if self.target.was_read_since(connection, error) => {
                self.cluster.rotate(connection);
            }
            Some(connection) => self.cluster.mark_failed(connection, error),
            None => {}
        }
    }
}

async fn open<Q: RpcRequest>(
    cluster: Arc<Cluster>,
    target: Arc<StreamTarget>,
    requests: Requests<Q>,
    deadline: Instant,
) -> Result<Responses<Q::Response>, EtcdError> {
    let connection = cluster.connection(true, deadline).await?;
    // A member is not to blame for a login that takes long.
    let token = cluster.token(&connection, deadline).await?;
    let connection = target.connection.get_or_init(|| connection);
    if connection.is_elsewhere() {
        cluster.schedule_return();
    }
    target.mark_read(connection);
    let token = target.token.get_or_init(|| token).as_ref();
    let responses = rpc::open_stream(&connection.transport, requests, token).await;
    responses.map_err(|status| cluster.classify(&status, token))
}

impl Cluster {
    fn invalidate(&self, token: Option<&Secret>) {
        if let Some(auth) = &self.auth {
            auth.invalidate(token);
        }
    }
}
