//! Members of the cluster: choice of the member, connections, and failover.
//!
//! Each handle shuffles the members, so that the handles of a fleet are spread over them, also when
//! one fails. Each member has a connection of its own, opened when it is first needed, and closed
//! when it is no longer used. One member is current. A caller that sees it fail makes the next one
//! current, for all callers; some minutes later the first one is current again. A member that cannot be
//! connected is in backoff, which grows with each failure, and is not dialed meanwhile. If a
//! handshake is slow, callers stop waiting for it and use the connection once it is ready. This
//! module knows connections and tokens, but no requests.

mod auth;
mod balance;
mod bidi_stream;
mod dial;
mod member;
mod outage;

use std::hash::Hash;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use waypost_core::record::Address;
use waypost_http::Connect;
use waypost_http::direct::DirectConnection;

pub(crate) use auth::{Credentials, Password};
pub(crate) use bidi_stream::BidiStream;

use crate::error::EtcdError;
use crate::rpc::{self, RpcRequest};
use crate::secret::Secret;
use crate::timing::Timing;
use auth::Auth;
use dial::DIAL_WAIT;
use member::{Dial, MemberState};
use outage::ClusterOutage;

/// Maximum number of logins for one request because of an invalid token.
const MAX_LOGINS: u32 = 2;

#[derive(Debug)]
pub(crate) struct Cluster {
    members: Vec<Arc<ClusterMember>>,
    current: AtomicUsize,
    /// Time at which the handle returns to the first member; none if it has no reason to.
    return_at: Mutex<Option<Instant>>,
    connect: Arc<dyn Connect>,
    auth: Option<Arc<Auth>>,
    timing: Timing,
    /// Timeout of one member: its share of a request's timeout.
    member_timeout: Duration,
    outage: ClusterOutage,
    /// True if no member has responded since the last failure of one.
    is_failing: AtomicBool,
    closed: AtomicBool,
    /// Notified whenever a dial completes.
    dial_ended: Arc<Notify>,
    /// One task for each connection, from its dial to its end.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct ClusterMember {
    address: Address,
    /// Position in the options, which errors keep.
    position: usize,
    timing: Timing,
    state: Mutex<MemberState>,
}

/// Connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct MemberConnection {
    member: usize,
    dial: Dial,
    pub(crate) transport: DirectConnection,
}

impl MemberConnection {
    /// Returns true if this is not the member that the handle chose at first.
    fn is_elsewhere(&self) -> bool {
        self.member > 0
    }
}

impl Cluster {
    pub(crate) fn new(
        addresses: Vec<Address>,
        connect: Arc<dyn Connect>,
        credentials: Option<Credentials>,
        timing: Timing,
    ) -> Self {
        let member_timeout = member_timeout(timing, addresses.len());
        let mut members: Vec<_> = addresses
            .into_iter()
            .enumerate()
            .map(|(position, address)| {
                Arc::new(ClusterMember {
                    address,
                    position,
                    timing,
                    state: Mutex::default(),
                })
            })
            .collect();
        fastrand::shuffle(&mut members);
        let auth = credentials.map(|credentials| Arc::new(Auth::new(credentials)));
        let (outage, closed) = (ClusterOutage::default(), AtomicBool::new(false));
        Self {
            members,
            current: AtomicUsize::new(0),
            return_at: Mutex::default(),
            connect,
            auth,
            timing,
            member_timeout,
            outage,
            is_failing: AtomicBool::new(false),
            closed,
            dial_ended: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Sends a request to the current member, and to others if it fails.
    ///
    /// # Cancel safety
    /// If it is dropped before it completes, the request may or may not have been executed.
    pub(crate) async fn call<Q: RpcRequest>(
        &self,
        request: Q,
        deadline: Instant,
    ) -> Result<Q::Response, EtcdError> {
        let (started, mut failures, mut logins) = (now(), 0, 0);
        loop {
            let connection = self.connection(request.needs_leader(), deadline).await?;
            let result = match self.token(&connection, deadline).await {
                Ok(token) => {
                    let token = token.as_ref();
                    self.call_member(&connection, &request, token, deadline)
                        .await
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match &error {
                EtcdError::InvalidToken(_) if self.auth.is_some() && logins < MAX_LOGINS => {
                    logins += 1;
                    continue;
                }
                // `RequestGuard` has marked the member already, when it was dropped.
                EtcdError::Timeout(_) => {}
                error if error.should_fail_over() => self.mark_failed(&connection, error),
                _ => return Err(error),
            }
            failures += 1;
            if !self.back_off(failures, deadline).await {
                return Err(if let EtcdError::Timeout(_) = error {
                    EtcdError::Timeout(started.elapsed())
                } else {
                    error
                });
            }
        }
    }

    async fn call_member<Q: RpcRequest>(
        &self,
        connection: &MemberConnection,
        request: &Q,
        token: Option<&Secret>,
        deadline: Instant,
    ) -> Result<Q::Response, EtcdError> {
        let mut guard = RequestGuard::new(self, connection);
        let limit = deadline.min(guard.sent_at + self.member_timeout);
        let exchange = async {
            let response = rpc::call(&connection.transport, request.clone(), token).await;
            response.map_err(|status| self.classify(&status, token))
        };
        let Ok(response) = timeout_at(limit, exchange).await else {
            return Err(EtcdError::Timeout(guard.sent_at.elapsed()));
        };
        guard.is_done = true;
        if response.is_ok() {
            self.record_success(connection, request.needs_leader());
        }
        response
    }

    /// Returns true if no member has responded since the last failure of one.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing.load(Relaxed)
    }

    /// Records a successful response of a member.
    fn record_success(&self, connection: &MemberConnection, with_leader: bool) {
        self.members[connection.member].state().record_success();
        self.is_failing.store(false, Relaxed);
        if with_leader {
            self.outage.up(now());
        }
    }

    /// Returns the time at which a lost record may be written again after an outage of the cluster:
    /// spread over at most `max_spread` since its end.
    pub(crate) fn write_at(&self, record: &impl Hash, max_spread: Duration) -> Option<Instant> {
        self.outage.write_at(record, max_spread)
    }

    /// Classifies an error; an invalid token is discarded.
    fn classify(&self, status: &Status, token: Option<&Secret>) -> EtcdError {
        let error = EtcdError::from_status(status);
        if let (EtcdError::InvalidToken(_), Some(auth)) = (&error, &self.auth) {
            auth.invalidate(token);
        }
        error
    }

    /// Waits for the backoff after each round of all members. Returns false once the deadline has
    /// passed.
    async fn back_off(&self, failures: usize, deadline: Instant) -> bool {
        if failures.is_multiple_of(self.members.len()) {
            let round = u32::try_from(failures / self.members.len()).unwrap_or(u32::MAX);
            let delay = self.timing.backoff(&mut fastrand::Rng::new(), round);
            sleep_until(deadline.min(now() + delay)).await;
        }
        now() < deadline
    }

    /// Returns a connection to the current member, or to the next that can be reached. If no leader
    /// is needed, a connected member in backoff is used too.
    ///
    /// # Errors
    /// No member could be reached before the deadline; with the last reason.
    async fn connection(
        &self,
        needs_leader: bool,
        deadline: Instant,
    ) -> Result<MemberConnection, EtcdError> {
        let started = now();
        loop {
            let mut dial_ended = pin!(self.dial_ended.notified());
            dial_ended.as_mut().enable();
            tokio::select! {
                biased;
                connection = self.try_members(needs_leader, deadline) => if let Some(connection) = connection {
                    return Ok(connection);
                },
                // A dial that was no longer waited for may have completed.
                () = dial_ended.as_mut() => continue,
            }
            if self.closed.load(Relaxed) {
                return Err(EtcdError::Closed);
            }
            self.is_failing.store(true, Relaxed);
            if self
                .members
                .iter()
                .all(|member| member.state().is_down(now()))
            {
                self.outage.down(now());
            }
            let retry_at = self
                .members
                .iter()
                .filter_map(|member| member.state().backoff_until())
                .min();
            if now() >= deadline {
                return Err(self
                    .last_error()
                    .unwrap_or(EtcdError::Timeout(started.elapsed())));
            }
            let retry_at = retry_at
                .unwrap_or_else(now)
                .max(now() + Duration::from_millis(1));
            let _ = timeout_at(retry_at.min(deadline), dial_ended).await;
        }
    }

    async fn try_members(&self, needs_leader: bool, deadline: Instant) -> Option<MemberConnection> {
        let first = self.current.load(Relaxed);
        for offset in 0..self.members.len() {
            let index = (first + offset) % self.members.len();
            if self.closed.load(Relaxed) || now() >= deadline {
                return None;
            }
            if let Some(connection) = self.connect_member(index, needs_leader, deadline).await {
                if self.current.swap(index, Relaxed) != index {
                    self.schedule_return();
                }
                return Some(connection);
            }
        }
        None
    }

    /// Returns the connection to one member, and dials it if needed; concurrent callers share the
    /// dial.
    async fn connect_member(
        &self,
        index: usize,
        needs_leader: bool,
        deadline: Instant,
    ) -> Option<MemberConnection> {
        let dial = self.dial(index, needs_leader)?;
        let transport = timeout_at(deadline.min(dial.started + DIAL_WAIT), dial.connection())
            .await
            .ok()?;
        // The dial or the connection may have ended with its runtime; that is not a failure of the
        // member.
        let Some(transport) = transport.filter(DirectConnection::is_open) else {
            self.members[index].state().remove_dial(&dial);
            return None;
        };
        Some(MemberConnection {
            member: index,
            dial,
            transport,
        })
    }

    /// Returns the connection to a member, or its dial in progress. None while the member is in
    /// backoff.
    fn dial(&self, index: usize, needs_leader: bool) -> Option<Dial> {
        let member = &self.members[index];
        let mut state = member.state();
        let in_backoff = state.in_backoff(now());
        match state.dial() {
            Some(dial) => Some(dial).filter(|_| !(needs_leader && in_backoff)),
            None if in_backoff => None,
            None => {
                let (dial, sender) = Dial::start(now());
                let running = dial::run(
                    Arc::clone(member),
                    Arc::clone(&self.connect),
                    dial.clone(),
                    sender,
                    Arc::clone(&self.dial_ended),
                );
                self.spawn(running)?;
                state.set_dial(dial.clone());
                Some(dial)
            }
        }
    }

    /// Spawns a task; none once the members are closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<()> {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        (!self.closed.load(Relaxed)).then(|| drop(tasks.spawn(task)))
    }

    /// Makes another member current, for all callers. A connection without responses is not used
    /// for new requests; a member that cannot serve now is in backoff.
    pub(crate) fn mark_failed(&self, connection: &MemberConnection, error: &EtcdError) {
        let member = &self.members[connection.member];
        let rotated = self.rotate(connection);
        let is_first = match error {
            EtcdError::Unavailable(_) => member.record_failure(error.to_string()),
            _ => member.state().remove_dial(&connection.dial),
        };
        if rotated && is_first {
            tracing::info!(member = %member.address, %error, "etcd member failed; failing over");
        }
    }

    /// Makes another member current, for all callers. Returns true if this was the current one.
    fn rotate(&self, connection: &MemberConnection) -> bool {
        let next = (connection.member + 1) % self.members.len();
        let rotated = self
            .current
            .compare_exchange(connection.member, next, Relaxed, Relaxed)
            .is_ok();
        if rotated {
            self.schedule_return();
        }
        rotated
    }

    fn last_error(&self) -> Option<EtcdError> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|member| member.position);
        let error_of = |member: &Arc<ClusterMember>| {
            let state = member.state();
            Some(format!("{}: {}", member.address, state.last_error()?))
        };
        let errors: Vec<_> = members.into_iter().filter_map(error_of).collect();
        (!errors.is_empty()).then(|| EtcdError::Transport(errors.join("; ")))
    }

    /// Refuses new requests, and fails those in progress.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Relaxed);
        for member in &self.members {
            *member.state() = MemberState::default();
        }
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        self.dial_ended.notify_waiters();
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterMember {
    fn state(&self) -> MutexGuard<'_, MemberState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the member into backoff, which grows with each failure. Returns true if this is the
    /// first failure.
    fn record_failure(&self, error: String) -> bool {
        let mut rng = fastrand::Rng::new();
        let delay = self.timing.backoff(&mut rng, self.state().failures());
        self.state().record_failure(now() + delay, error)
    }
}

/// Drop guard of one request in progress.
///
/// If the request is dropped without a response after half of the heartbeat timeout, that
/// counts as a timeout of the member: the next caller needs another member, and may not wait longer either. If
/// it is dropped earlier, the member may only be distant.
struct RequestGuard<'a> {
    cluster: &'a Cluster,
    connection: &'a MemberConnection,
    sent_at: Instant,
    read_bytes: u64,
    is_done: bool,
}

impl<'a> RequestGuard<'a> {
    fn new(cluster: &'a Cluster, connection: &'a MemberConnection) -> Self {
        Self {
            cluster,
            connection,
            sent_at: now(),
            read_bytes: connection.transport.read_bytes(),
            is_done: false,
        }
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        let waited = self.sent_at.elapsed();
        if self.is_done || waited < self.cluster.timing.heartbeat_timeout / 2 {
            return;
        }
        self.cluster.is_failing.store(true, Relaxed);
        if self.connection.transport.read_bytes() > self.read_bytes {
            // The member is slow with this request or withholds its response; the connection works.
            self.cluster.rotate(self.connection);
        } else {
            self.cluster
                .mark_failed(self.connection, &EtcdError::Timeout(waited));
        }
    }
}

/// Returns the timeout of one member: all of a request's timeout for a single one, else its share.
fn member_timeout(timing: Timing, members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX).max(1);
    let timeout = timing.request_timeout;
    (timeout / members).max(timeout.min(timing.heartbeat_timeout))
}

fn now() -> Instant {
    Instant::now()
}
