//! The members of the cluster: which one is asked, over which connection, and what happens when it does not answer.
//!
//! Each member has a connection of its own, made when it is first needed. One member is current; whoever finds it wanting makes the next
//! one current, for all. A member that cannot be dialled rests, a little longer each time, and meanwhile nobody dials it; one that takes
//! long to say hello is no longer waited for, and used once it has. This room knows connections and tokens, and never what is asked.

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
use waypost_http::single::Single;

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

/// How long one member may take to answer, where there is another to ask.
const ANSWER: Duration = Duration::from_secs(1);

/// How often one request may be answered by a complaint about its token.
const LOGINS: u32 = 2;

#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Arc<Member>>,
    current: AtomicUsize,
    connect: Arc<dyn Connect>,
    auth: Option<Auth>,
    presence: Presence,
    closed: AtomicBool,
    /// A dialling is over.
    news: Arc<Notify>,
    /// One for each connection, from its dialling to its end.
    tasks: Mutex<JoinSet<()>>,
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
        let members = addresses.into_iter().map(|address| Arc::new(Member { address, slot: Mutex::default() })).collect();
        let auth = credentials.map(Auth::new);
        let (presence, closed) = (Presence::default(), AtomicBool::new(false));
        Self { members, current, connect, auth, presence, closed, news: Arc::default(), tasks: Mutex::default() }
    }

    /// Asks the current member, and others if it does not do.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may or may not have been done.
    pub(crate) async fn ask<Q: Call>(&self, question: Q, until: Instant) -> Result<Q::Answer, Trouble> {
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
                // Asking has seen to it.
                Trouble::Silent(_) => {}
                trouble if trouble.is_of_the_member() => self.avoid(&link, trouble),
                _ => return Err(trouble),
            }
            failures += 1;
            if !self.rest(failures, until).await {
                return Err(if let Trouble::Silent(_) = trouble { Trouble::Silent(begun.elapsed()) } else { trouble });
            }
        }
    }

    async fn ask_one<Q: Call>(&self, link: &Link, question: &Q, until: Instant) -> Result<Q::Answer, Trouble> {
        let mut asking = Asking::begin(self, link);
        let limit = if self.members.len() > 1 { until.min(asking.asked + ANSWER) } else { until };
        let answering = async {
            let token = self.token(link).await?;
            let answer = wire::ask(&link.single, question.clone(), token.as_ref()).await;
            answer.map_err(|status| self.classify(&status, token.as_ref()))
        };
        let Ok(answer) = timeout_at(limit, answering).await else { return Err(Trouble::Silent(asking.asked.elapsed())) };
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
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            tokio::select! {
                biased;
                link = self.try_all(needs_leader, until) => if let Some(link) = link {
                    return Ok(link);
                },
                // One that was not waited for any more may be there now.
                () = news.as_mut() => continue,
            }
            if self.closed.load(Relaxed) {
                return Err(Trouble::Closed);
            }
            if self.members.iter().all(|member| member.slot().is_away(now())) {
                self.presence.goes(now());
            }
            let rested = self.members.iter().filter_map(|member| member.slot().rests_until()).min();
            if now() >= until {
                return Err(self.last_failure().unwrap_or(Trouble::Silent(begun.elapsed())));
            }
            let rested = rested.unwrap_or_else(now).max(now() + Duration::from_millis(1));
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

    /// The connection to one member, dialled if need be; those who ask meanwhile wait for the same.
    async fn reach(&self, index: usize, needs_leader: bool, until: Instant) -> Option<Link> {
        let line = self.line(index, needs_leader)?;
        let single = timeout_at(until.min(line.begun + DIAL), line.single()).await.ok()?;
        // The dialling or the connection may have ended with its runtime, which says nothing else.
        let Some(single) = single.filter(Single::is_open) else {
            self.members[index].slot().hang_up(&line);
            return None;
        };
        Some(Link { member: index, line, single })
    }

    /// The connection to a member, or its dialling. None while it rests.
    fn line(&self, index: usize, needs_leader: bool) -> Option<Line> {
        let member = &self.members[index];
        let mut slot = member.slot();
        let rests = slot.rests(now());
        match slot.line() {
            Some(line) => Some(line).filter(|_| !(needs_leader && rests)),
            None if rests => None,
            None => {
                let (line, sender) = Line::begin(now());
                let dialling =
                    dial::serve(Arc::clone(member), Arc::clone(&self.connect), line.clone(), sender, Arc::clone(&self.news));
                self.spawn(dialling)?;
                slot.dial(line.clone());
                Some(line)
            }
        }
    }

    /// None where all are closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<()> {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        (!self.closed.load(Relaxed)).then(|| drop(tasks.spawn(task)))
    }

    /// Makes another member current, for all. A connection that did not answer is not used for anything new; a member that cannot serve
    /// now is not asked for a while.
    pub(crate) fn avoid(&self, link: &Link, why: &Trouble) {
        let member = &self.members[link.member];
        let moved = self.pass_on(link);
        let first = match why {
            Trouble::Busy(_) => member.fails(why.to_string()),
            _ => member.slot().hang_up(&link.line),
        };
        if moved && first {
            tracing::info!(member = %member.address, %why, "etcd member does not serve");
        }
    }

    /// Makes another member current, for all. Whether it was the current one.
    fn pass_on(&self, link: &Link) -> bool {
        let next = (link.member + 1) % self.members.len();
        self.current.compare_exchange(link.member, next, Relaxed, Relaxed).is_ok()
    }

    fn last_failure(&self) -> Option<Trouble> {
        let failure = |member: &Arc<Member>| Some(format!("{}: {}", member.address, member.slot().failure()?));
        let failures: Vec<_> = self.members.iter().filter_map(failure).collect();
        (!failures.is_empty()).then(|| Trouble::Link(failures.join("; ")))
    }

    /// No new requests; those under way fail.
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

    /// It rests, a little longer each time. Whether it did well before.
    fn fails(&self, why: String) -> bool {
        let rest = rest::after(&mut fastrand::Rng::new(), self.slot().failures());
        self.slot().failed(now() + rest, why)
    }
}

/// One question that was asked. Given up after having waited long enough, it is the member's fault: the next who asks needs another, and
/// may have no more patience. Given up sooner, the member may only be far away.
struct Asking<'a> {
    members: &'a Members,
    link: &'a Link,
    asked: Instant,
    read_bytes: u64,
    over: bool,
}

impl<'a> Asking<'a> {
    fn begin(members: &'a Members, link: &'a Link) -> Self {
        Self { members, link, asked: now(), read_bytes: link.single.read_bytes(), over: false }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let waited = self.asked.elapsed();
        if self.over || waited < ANSWER / 2 {
            return;
        }
        if self.link.single.read_bytes() > self.read_bytes {
            // It is slow with this, or holds it back; the connection is as it should be.
            self.members.pass_on(self.link);
        } else {
            self.members.avoid(self.link, &Trouble::Silent(waited));
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
