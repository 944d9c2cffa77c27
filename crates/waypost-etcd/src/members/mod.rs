//! The members of the cluster: which one is asked, over which connection, and what happens when it does not answer.
//!
//! Each member has a connection of its own, made when it is first needed. One member is current; whoever finds it wanting makes the next
//! one current, for all. A member that cannot be dialled rests, a little longer each time, and meanwhile nobody dials it. This room knows
//! connections and tokens, and never what is asked.

mod auth;
mod slot;
mod stream;
mod turn;

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::Scheme;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use waypost_core::record::Address;
use waypost_core::registry::in_millis;
use waypost_http::single::{KeepAlive, Single};
use waypost_http::{AddressPolicy, Connect};

pub(crate) use auth::{Credentials, Password};
pub(crate) use stream::Duplex;

use crate::rest;
use crate::secret::Secret;
use crate::trouble::Trouble;
use crate::wire::{self, Call};
use auth::Auth;
use slot::{Line, Slot};
use turn::Presence;

/// How long dialling one member may take, its hello included.
const DIAL: Duration = Duration::from_millis(900);

/// How long one member may take to answer, where there is another to ask.
const ANSWER: Duration = Duration::from_secs(1);

/// How often one request may be answered by a complaint about its token.
const LOGINS: u32 = 2;

#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Member>,
    current: AtomicUsize,
    connect: Arc<dyn Connect>,
    auth: Option<Auth>,
    presence: Presence,
    closed: AtomicBool,
    drivers: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Member {
    address: Address,
    slot: Mutex<Slot>,
}

/// A connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    member: usize,
    line: Line,
    pub(crate) single: Single,
}

impl Members {
    pub(crate) fn new(addresses: Vec<Address>, connect: Arc<dyn Connect>, credentials: Option<Credentials>) -> Self {
        let current = AtomicUsize::new(fastrand::usize(..addresses.len().max(1)));
        let members = addresses.into_iter().map(|address| Member { address, slot: Mutex::default() }).collect();
        let auth = credentials.map(Auth::new);
        let (presence, closed) = (Presence::default(), AtomicBool::new(false));
        Self { members, current, connect, auth, presence, closed, drivers: Mutex::default() }
    }

    /// Asks the current member, and others if it does not do.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may or may not have been done.
    pub(crate) async fn ask<Q: Call>(&self, question: Q, until: Instant) -> Result<Q::Answer, Trouble> {
        let (mut failures, mut logins) = (0, 0);
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
                trouble if trouble.is_of_the_member() => self.avoid(&link, trouble),
                _ => return Err(trouble),
            }
            failures += 1;
            if !self.rest(failures, until).await {
                return Err(trouble);
            }
        }
    }

    async fn ask_one<Q: Call>(&self, link: &Link, question: &Q, until: Instant) -> Result<Q::Answer, Trouble> {
        let asked = now();
        let limit = if self.members.len() > 1 { until.min(asked + ANSWER) } else { until };
        let answering = async {
            let token = self.token(link).await?;
            let answer = wire::ask(&link.single, question.clone(), token.as_ref()).await;
            answer.map_err(|status| self.classify(&status, token.as_ref()))
        };
        let mut asking = Asking { members: self, link, asked, over: false };
        let answer = timeout_at(limit, answering).await.unwrap_or_else(|_| Err(Trouble::Silent(asked.elapsed())));
        asking.over = true;
        if answer.is_ok() {
            self.does(link, question.needs_leader());
        }
        answer
    }

    /// A member has answered.
    fn does(&self, link: &Link, with_leader: bool) {
        self.members[link.member].slot().does();
        if with_leader {
            self.presence.answers(now());
        }
    }

    /// When a record that is gone may be written anew, where the cluster was away: spread over at most so much time since its return.
    pub(crate) fn turn(&self, record: &impl Hash, longest: Duration) -> Option<Instant> {
        self.presence.turn(record, longest)
    }

    /// Who we are, where etcd was told to ask.
    async fn token(&self, link: &Link) -> Result<Option<Secret>, Trouble> {
        match &self.auth {
            Some(auth) => auth.token(&link.single).await,
            None => Ok(None),
        }
    }

    /// What went wrong; a token that is not accepted is not used again.
    fn classify(&self, status: &Status, token: Option<&Secret>) -> Trouble {
        let trouble = Trouble::of(status);
        if let (Trouble::Token(_), Some(auth)) = (&trouble, &self.auth) {
            auth.forget(token);
        }
        trouble
    }

    /// Rests after each round of all members. False when there is no time for it.
    async fn rest(&self, failures: usize, until: Instant) -> bool {
        if failures.is_multiple_of(self.members.len()) {
            let round = u32::try_from(failures / self.members.len()).unwrap_or(u32::MAX);
            let pause = rest::after(&mut fastrand::Rng::new(), round);
            sleep_until(until.min(now() + pause)).await;
        }
        now() < until
    }

    /// A connection to the current member, or to the next that can be reached. Where no leader is needed, one that rests does too.
    ///
    /// # Errors
    /// None could be reached until then; the last reason.
    async fn link(&self, needs_leader: bool, until: Instant) -> Result<Link, Trouble> {
        let begun = now();
        loop {
            if let Some(link) = self.try_all(needs_leader, until).await {
                return Ok(link);
            }
            if self.closed.load(Relaxed) {
                return Err(Trouble::Closed);
            }
            if self.members.iter().all(|member| member.slot().rests(now())) {
                self.presence.goes(now());
            }
            let rested = self.members.iter().filter_map(|member| member.slot().rests_until()).min();
            if now() >= until {
                return Err(self.last_failure().unwrap_or(Trouble::Silent(begun.elapsed())));
            }
            sleep_until(rested.unwrap_or_else(now).max(now() + Duration::from_millis(1)).min(until)).await;
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

    /// The connection to one member, dialled if need be; those who ask meanwhile wait for the same.
    async fn reach(&self, index: usize, needs_leader: bool, until: Instant) -> Option<Link> {
        let member = &self.members[index];
        if needs_leader && member.slot().rests(now()) {
            return None;
        }
        let line = member.slot().line();
        let dialled = line.get_or_try_init(|| async {
            if member.slot().rests(now()) {
                return Err(());
            }
            self.dial(member, until).await
        });
        let single = dialled.await.ok()?.clone();
        if !single.is_open() {
            member.slot().hang_up(&line);
            return None;
        }
        Some(Link { member: index, line, single })
    }

    async fn dial(&self, member: &Member, until: Instant) -> Result<Single, ()> {
        let mut attempt = Attempt { member, begun: now(), why: Some(None) };
        let policy = AddressPolicy { loopback: true };
        let connecting = Single::connect(&*self.connect, &member.address, &policy, KeepAlive::default());
        match timeout_at(until.min(now() + DIAL), connecting).await {
            Ok(Ok((single, driver))) => {
                attempt.why = None;
                self.drive(member.address.clone(), driver).map(|()| single)
            }
            Ok(Err(error)) => {
                attempt.why = Some(Some(with_hint(error.to_string(), self.connect.scheme() == Scheme::HTTPS)));
                Err(())
            }
            Err(_) => Err(()),
        }
    }

    /// Runs a connection, unless all were closed while it was dialled.
    fn drive(&self, address: Address, driver: waypost_http::single::Driver) -> Result<(), ()> {
        let mut drivers = self.drivers();
        if self.closed.load(Relaxed) {
            return Err(());
        }
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move {
            match driver.run().await {
                Ok(()) => tracing::debug!(member = %address, "connection closed"),
                Err(error) => tracing::info!(member = %address, %error, "connection to etcd lost"),
            }
        });
        Ok(())
    }

    /// Makes another member current, for all. A connection that did not answer is not used for anything new; a member that cannot serve
    /// now is not asked for a while.
    pub(crate) fn avoid(&self, link: &Link, why: &Trouble) {
        let member = &self.members[link.member];
        let next = (link.member + 1) % self.members.len();
        let moved = self.current.compare_exchange(link.member, next, Relaxed, Relaxed).is_ok();
        let first = match why {
            Trouble::Busy(_) => member.fails(why.to_string()),
            _ => member.slot().hang_up(&link.line),
        };
        if moved && first {
            tracing::info!(member = %member.address, %why, "an etcd member does not serve");
        }
    }

    fn last_failure(&self) -> Option<Trouble> {
        let failure = |member: &Member| Some(format!("{}: {}", member.address, member.slot().failure()?));
        let failures: Vec<_> = self.members.iter().filter_map(failure).collect();
        (!failures.is_empty()).then(|| Trouble::Link(failures.join("; ")))
    }

    /// No new requests; those under way fail.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Relaxed);
        for member in &self.members {
            *member.slot() = Slot::default();
        }
        let mut drivers = std::mem::take(&mut *self.drivers());
        drivers.shutdown().await;
    }

    fn drivers(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It rests, a little longer each time. Whether it did well before.
    fn fails(&self, why: String) -> bool {
        let mut slot = self.slot();
        let failures = slot.failures();
        let rest = rest::after(&mut fastrand::Rng::new(), failures);
        slot.failed(now() + rest, why);
        failures == 0
    }
}

/// One question that was asked. Given up by a caller who had waited long enough, its connection did not answer: the next who asks needs
/// another, and may have no more patience.
struct Asking<'a> {
    members: &'a Members,
    link: &'a Link,
    asked: Instant,
    over: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let waited = self.asked.elapsed();
        if !self.over && waited >= ANSWER / 2 {
            self.members.avoid(self.link, &Trouble::Silent(waited));
        }
    }
}

/// One dialling. Given up by a caller who had waited long enough, it failed too.
struct Attempt<'a> {
    member: &'a Member,
    begun: Instant,
    /// None once it is there; else why it is not, where known.
    why: Option<Option<String>>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let waited = self.begun.elapsed();
        match self.why.take() {
            None => {}
            Some(None) if waited < DIAL / 2 => {}
            Some(why) => {
                let why = why.unwrap_or_else(|| format!("no hello within {:?}", in_millis(waited)));
                if self.member.fails(why.clone()) {
                    tracing::info!(member = %self.member.address, why, "an etcd member cannot be reached");
                }
            }
        }
    }
}

/// Says what to do where the other side says only that it hung up, or TLS only what it got.
fn with_hint(why: String, encrypted: bool) -> String {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    let hint = match encrypted {
        true if says(&["CertificateRequired", "BadCertificate", "HandshakeFailure"]) => {
            "does it want a certificate? show yours with cert= and key="
        }
        true if says(&["invalid peer certificate"]) => "is it signed by ca=, and for this host or server_name=?",
        true if says(&["InvalidContentType", "handshake eof"]) => "does it encrypt at all? etcd:// is without",
        // Which of the two came first is chance.
        true if says(&["broken pipe", "reset", "closed"]) => {
            "does it want a certificate? show yours with cert= and key=; or does it not encrypt? etcd:// is without"
        }
        false if says(&["closed", "reset", "protocol error", "frame"]) => "does it want TLS? etcds:// is with",
        _ => return why,
    };
    format!("{why} ({hint})")
}

fn now() -> Instant {
    Instant::now()
}
