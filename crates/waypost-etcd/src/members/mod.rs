//! Members of the cluster: choice of the member, connections, and failover.
//!
//! Each member has a connection of its own, opened when it is first needed. One member is current.
//! A caller that sees it fail makes the next one current, for all callers. A member that cannot be
//! connected is in backoff, which grows with each failure, and is not dialed meanwhile. If a
//! handshake is slow, callers stop waiting for it and use the connection once it is ready. This
//! module knows connections and tokens, but no requests.

mod auth;
mod dial;
mod slot;
mod stream;
mod turn;

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
pub(crate) use stream::Duplex;

use crate::rest;
use crate::secret::Secret;
use crate::trouble::Trouble;
use crate::wire::{self, Call};
use auth::Auth;
use dial::DIAL;
use slot::{Line, Slot};
use turn::Presence;

/// Timeout of one member, if the cluster has another to try.
const ANSWER: Duration = Duration::from_secs(1);

/// Maximum number of logins for one request because of an invalid token.
const LOGINS: u32 = 2;

#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Arc<Member>>,
    current: AtomicUsize,
    connect: Arc<dyn Connect>,
    auth: Option<Auth>,
    presence: Presence,
    closed: AtomicBool,
    /// Notified whenever a dial completes.
    news: Arc<Notify>,
    /// One task for each connection, from its dial to its end.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Member {
    address: Address,
    slot: Mutex<Slot>,
}

/// Connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    member: usize,
    line: Line,
    pub(crate) connection: DirectConnection,
}

impl Members {
    pub(crate) fn new(
        addresses: Vec<Address>,
        connect: Arc<dyn Connect>,
        credentials: Option<Credentials>,
    ) -> Self {
        let current = AtomicUsize::new(fastrand::usize(..addresses.len().max(1)));
        let members = addresses
            .into_iter()
            .map(|address| {
                Arc::new(Member {
                    address,
                    slot: Mutex::default(),
                })
            })
            .collect();
        let auth = credentials.map(Auth::new);
        let (presence, closed) = (Presence::default(), AtomicBool::new(false));
        Self {
            members,
            current,
            connect,
            auth,
            presence,
            closed,
            news: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Sends a request to the current member, and to others if it fails.
    ///
    /// # Cancel safety
    /// If it is dropped before it completes, the request may or may not have been executed.
    pub(crate) async fn ask<Q: Call>(
        &self,
        question: Q,
        until: Instant,
    ) -> Result<Q::Answer, Trouble> {
        let (begun, mut failures, mut logins) = (now(), 0, 0);
        loop {
            let link = self.link(question.needs_leader(), until).await?;
            let trouble = match self.ask_one(&link, &question, until).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            match &trouble {
                Trouble::Token(_) if self.auth.is_some() && logins < LOGINS => {
                    logins += 1;
                    continue;
                }
                // `Asking` has marked the member already, when it was dropped.
                Trouble::Silent(_) => {}
                trouble if trouble.is_of_the_member() => self.avoid(&link, trouble),
                _ => return Err(trouble),
            }
            failures += 1;
            if !self.rest(failures, until).await {
                return Err(if let Trouble::Silent(_) = trouble {
                    Trouble::Silent(begun.elapsed())
                } else {
                    trouble
                });
            }
        }
    }

    async fn ask_one<Q: Call>(
        &self,
        link: &Link,
        question: &Q,
        until: Instant,
    ) -> Result<Q::Answer, Trouble> {
        let mut asking = Asking::begin(self, link);
        let limit = if self.members.len() > 1 {
            until.min(asking.asked + ANSWER)
        } else {
            until
        };
        let answering = async {
            let token = self.token(link).await?;
            let answer = wire::ask(&link.connection, question.clone(), token.as_ref()).await;
            answer.map_err(|status| self.classify(&status, token.as_ref()))
        };
        let Ok(answer) = timeout_at(limit, answering).await else {
            return Err(Trouble::Silent(asking.asked.elapsed()));
        };
        asking.over = true;
        if answer.is_ok() {
            self.does(link, question.needs_leader());
        }
        answer
    }

    /// Records a successful response of a member.
    fn does(&self, link: &Link, with_leader: bool) {
        self.members[link.member].slot().does();
        if with_leader {
            self.presence.answers(now());
        }
    }

    /// Returns the time at which a lost record may be written again after an outage of the cluster:
    /// spread over at most `longest` since its end.
    pub(crate) fn turn(&self, record: &impl Hash, longest: Duration) -> Option<Instant> {
        self.presence.turn(record, longest)
    }

    /// Returns the auth token, if a user is configured.
    async fn token(&self, link: &Link) -> Result<Option<Secret>, Trouble> {
        match &self.auth {
            Some(auth) => auth.token(&link.connection).await,
            None => Ok(None),
        }
    }

    /// Classifies an error; an invalid token is discarded.
    fn classify(&self, status: &Status, token: Option<&Secret>) -> Trouble {
        let trouble = Trouble::of(status);
        if let (Trouble::Token(_), Some(auth)) = (&trouble, &self.auth) {
            auth.forget(token);
        }
        trouble
    }

    /// Waits for the backoff after each round of all members. Returns false once the deadline has
    /// passed.
    async fn rest(&self, failures: usize, until: Instant) -> bool {
        if failures.is_multiple_of(self.members.len()) {
            let round = u32::try_from(failures / self.members.len()).unwrap_or(u32::MAX);
            let pause = rest::after(&mut fastrand::Rng::new(), round);
            sleep_until(until.min(now() + pause)).await;
        }
        now() < until
    }

    /// Returns a connection to the current member, or to the next that can be reached. If no leader
    /// is needed, a connected member in backoff is used too.
    ///
    /// # Errors
    /// No member could be reached before the deadline; with the last reason.
    async fn link(&self, needs_leader: bool, until: Instant) -> Result<Link, Trouble> {
        let begun = now();
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            tokio::select! {
                biased;
                link = self.try_all(needs_leader, until) => if let Some(link) = link {
                    return Ok(link);
                },
                // A dial that was no longer waited for may have completed.
                () = news.as_mut() => continue,
            }
            if self.closed.load(Relaxed) {
                return Err(Trouble::Closed);
            }
            if self
                .members
                .iter()
                .all(|member| member.slot().is_away(now()))
            {
                self.presence.goes(now());
            }
            let rested = self
                .members
                .iter()
                .filter_map(|member| member.slot().rests_until())
                .min();
            if now() >= until {
                return Err(self
                    .last_failure()
                    .unwrap_or(Trouble::Silent(begun.elapsed())));
            }
            let rested = rested
                .unwrap_or_else(now)
                .max(now() + Duration::from_millis(1));
            let _ = timeout_at(rested.min(until), news).await;
        }
    }

    async fn try_all(&self, needs_leader: bool, until: Instant) -> Option<Link> {
        let first = self.current.load(Relaxed);
        for offset in 0..self.members.len() {
            let index = (first + offset) % self.members.len();
            if self.closed.load(Relaxed) || now() >= until {
                return None;
            }
            if let Some(link) = self.reach(index, needs_leader, until).await {
                self.current.store(index, Relaxed);
                return Some(link);
            }
        }
        None
    }

    /// Returns the connection to one member, and dials it if needed; concurrent callers share the
    /// dial.
    async fn reach(&self, index: usize, needs_leader: bool, until: Instant) -> Option<Link> {
        let line = self.line(index, needs_leader)?;
        let connection = timeout_at(until.min(line.begun + DIAL), line.connection())
            .await
            .ok()?;
        // The dial or the connection may have ended with its runtime; that is no failure of the
        // member.
        let Some(connection) = connection.filter(DirectConnection::is_open) else {
            self.members[index].slot().hang_up(&line);
            return None;
        };
        Some(Link {
            member: index,
            line,
            connection,
        })
    }

    /// Returns the connection to a member, or its dial in progress. None while the member is in
    /// backoff.
    fn line(&self, index: usize, needs_leader: bool) -> Option<Line> {
        let member = &self.members[index];
        let mut slot = member.slot();
        let rests = slot.rests(now());
        match slot.line() {
            Some(line) => Some(line).filter(|_| !(needs_leader && rests)),
            None if rests => None,
            None => {
                let (line, sender) = Line::begin(now());
                let dialling = dial::serve(
                    Arc::clone(member),
                    Arc::clone(&self.connect),
                    line.clone(),
                    sender,
                    Arc::clone(&self.news),
                );
                self.spawn(dialling)?;
                slot.dial(line.clone());
                Some(line)
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
    pub(crate) fn avoid(&self, link: &Link, why: &Trouble) {
        let member = &self.members[link.member];
        let moved = self.pass_on(link);
        let first = match why {
            Trouble::Busy(_) => member.fails(why.to_string()),
            _ => member.slot().hang_up(&link.line),
        };
        if moved && first {
            tracing::info!(member = %member.address, error = %why, "etcd member failed; failing over");
        }
    }

    /// Makes another member current, for all callers. Returns true if this was the current one.
    fn pass_on(&self, link: &Link) -> bool {
        let next = (link.member + 1) % self.members.len();
        self.current
            .compare_exchange(link.member, next, Relaxed, Relaxed)
            .is_ok()
    }

    fn last_failure(&self) -> Option<Trouble> {
        let failure = |member: &Arc<Member>| {
            Some(format!("{}: {}", member.address, member.slot().failure()?))
        };
        let failures: Vec<_> = self.members.iter().filter_map(failure).collect();
        (!failures.is_empty()).then(|| Trouble::Link(failures.join("; ")))
    }

    /// Refuses new requests, and fails those in progress.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Relaxed);
        for member in &self.members {
            *member.slot() = Slot::default();
        }
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        self.news.notify_waiters();
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the member into backoff, which grows with each failure. Returns true if this is the
    /// first failure.
    fn fails(&self, why: String) -> bool {
        let rest = rest::after(&mut fastrand::Rng::new(), self.slot().failures());
        self.slot().failed(now() + rest, why)
    }
}

/// Drop guard of one request in progress.
///
/// If the request is dropped without a response after half of `ANSWER`, that counts as a timeout of
/// the member: the next caller needs another member, and may not wait longer either. If it is
/// dropped earlier, the member may only be distant.
struct Asking<'a> {
    members: &'a Members,
    link: &'a Link,
    asked: Instant,
    read_bytes: u64,
    over: bool,
}

impl<'a> Asking<'a> {
    fn begin(members: &'a Members, link: &'a Link) -> Self {
        Self {
            members,
            link,
            asked: now(),
            read_bytes: link.connection.read_bytes(),
            over: false,
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let waited = self.asked.elapsed();
        if self.over || waited < ANSWER / 2 {
            return;
        }
        if self.link.connection.read_bytes() > self.read_bytes {
            // The member is slow with this request or withholds its response; the connection works.
            self.members.pass_on(self.link);
        } else {
            self.members.avoid(self.link, &Trouble::Silent(waited));
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
