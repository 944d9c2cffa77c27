//! Registrations of one handle: ownership of their keys, and their upkeep.
//!
//! Every write is a compare-and-set on the revision that was read, so that no writer overwrites a
//! change that it has not seen. A heartbeat of an unchanged record renews its lease and checks the
//! progress of the watch; it neither reads nor writes the record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};
use waypost_core::record::{Entry, Key, keys};
use waypost_core::registry::{DeregisterOptions, Error, Instance, RegisterOptions, Result};

use crate::lease::{Fate, Held, Leases, Slots};
use crate::ledger::{Ledger, Settled, Standing};
use crate::members::Members;
use crate::records::{Found, Records};
use crate::trouble::{NAME, Trouble};
use crate::watch::Hub;
use crate::wire::{DeleteRangeRequest, KeyValue, Op, PutRequest, RangeRequest, TxnRequest};

/// Maximum number of attempts of a write that loses against concurrent changes.
const TRIES: usize = 16;

/// Maximum number of records read and written concurrently. The others wait, so that under load
/// some complete in time instead of all being started.
const AT_ONCE: usize = 64;

/// Maximum time over which lost records are written again after an outage of etcd. It is also
/// limited to a fifth of the ttl, which is less than one heartbeat interval.
const SPREAD: Duration = Duration::from_secs(3);
const SPREAD_OF_TTL: u32 = 5;
/// Time allowed for one write, once it may start.
const WRITE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) members: Arc<Members>,
    pub(crate) records: Arc<Records>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) leases: Leases,
    pub(crate) slots: Slots,
    pub(crate) hub: Arc<Hub>,
    pub(crate) places: Places,
}

/// Limit on the number of records read and written concurrently.
#[derive(Debug)]
pub(crate) struct Places(Semaphore);

impl Default for Places {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Places {
    /// Waits for a permit, in FIFO order.
    async fn take(&self, until: Instant) -> Result<SemaphorePermit<'_>> {
        let begun = Instant::now();
        match timeout_at(until, self.0.acquire()).await {
            Ok(place) => place.map_err(|_| Error::Closed),
            Err(_) => Err(Error::Timeout {
                registry: NAME,
                after: begun.elapsed(),
            }),
        }
    }
}

/// One registration of one node.
struct Claim<'a> {
    key: Key,
    entry: &'a Entry,
    record: String,
    instance: &'a Instance,
    seconds: i64,
    until: Instant,
}

/// Decision about the record found under our key.
#[derive(Debug)]
enum Verdict {
    /// The record is as it should be.
    Keep,
    Write,
    /// The record is not as we left it, and no live owner holds it.
    Repair(&'static str),
    /// Another live owner holds the key.
    Taken(Error),
}

impl Owner {
    /// Registers one node: writes its record, or confirms it.
    pub(crate) async fn register(
        &self,
        entry: &Entry,
        options: &RegisterOptions,
        until: Instant,
    ) -> Result<()> {
        let claim = Claim {
            key: entry.key(),
            entry,
            record: entry.to_service().to_json(),
            instance: &options.instance,
            seconds: whole_seconds(options.ttl),
            until,
        };
        match self.standing(&claim) {
            Some(standing) if self.beat(&claim, &standing).await? => Ok(()),
            Some(_) => self.make_so(&claim).await,
            None => {
                self.keep_what_stands(&claim).await;
                self.make_so(&claim).await
            }
        }
    }

    /// Renews the lease of the earlier record. It must not expire while etcd refuses the new
    /// content or cannot be read.
    async fn keep_what_stands(&self, claim: &Claim<'_>) {
        if self.ledger.holder(&claim.key).as_ref() == Some(claim.instance)
            && let Some(lease) = self.ledger.lease(&claim.key)
        {
            self.leases.keep_on(lease).await;
        }
    }

    fn standing(&self, claim: &Claim<'_>) -> Option<Standing> {
        self.ledger.standing(
            Instant::now(),
            &claim.key,
            claim.instance,
            &claim.record,
            claim.seconds,
        )
    }

    /// Renews the lease. Returns false if the record must be read.
    async fn beat(&self, claim: &Claim<'_>, standing: &Standing) -> Result<bool> {
        let keeping = self.keep(
            claim,
            &standing.held,
            standing.lease,
            Some(standing.kept_at),
        );
        let (kept, heard) = tokio::join!(keeping, self.hub.barrier());
        let stands = kept? && heard && self.standing(claim).is_some();
        if stands {
            self.ledger.kept(Instant::now(), &claim.key);
        }
        Ok(stands)
    }

    /// Renews a lease. Returns false if it must not be used any more; the next registration then
    /// gets another lease.
    async fn keep(
        &self,
        claim: &Claim<'_>,
        held: &Held,
        lease: i64,
        last: Option<Instant>,
    ) -> Result<bool> {
        let kept = self.leases.keep(lease, last, claim.until).await;
        match kept.map_err(|trouble| trouble.error("keeping the lease alive"))? {
            Fate::Kept => return Ok(true),
            Fate::Outlived => {
                tracing::debug!(
                    node = claim.key.id,
                    "etcd leader changed; moving to a new lease"
                );
                self.slots.replace(Instant::now(), held);
                self.leases.forget(lease).await;
            }
            Fate::Lost => {
                tracing::info!(node = claim.key.id, "lease lost; registering again");
                self.slots.lost(held);
            }
        }
        Ok(false)
    }

    async fn make_so(&self, claim: &Claim<'_>) -> Result<()> {
        // If only the content of the record has changed, write it over the known revision without a
        // read.
        let mut known = self
            .ledger
            .outdated(&claim.key, claim.instance, &claim.record);
        self.ledger.look(&claim.key);
        let mut repaired = None;
        let mut place = self.places.take(claim.until).await?;
        for _ in 0..TRIES {
            let (verdict, revision, lease) = match known.take() {
                Some(revision) => (Verdict::Write, revision, 0),
                None => match self.look(&claim.key, claim.until).await? {
                    None => {
                        if let Some(turn) = self.turn(claim)? {
                            drop(place);
                            sleep_until(turn).await;
                            place = self.places.take(claim.until).await?;
                        }
                        (Verdict::Repair("it was deleted"), 0, 0)
                    }
                    Some(kv) => (self.judge(claim, &kv), kv.mod_revision, kv.lease),
                },
            };
            if let Verdict::Taken(error) = verdict {
                self.let_go(&claim.key, Some(claim.instance), claim.until)
                    .await;
                return Err(error);
            }
            if let Verdict::Repair(why) = verdict
                && self.ledger.has_written(&claim.key, claim.instance)
            {
                repaired = Some(why);
            }
            self.ledger.writes(&claim.key, claim.instance);
            let (held, id) = self.lease(claim).await?;
            let stands = match verdict {
                Verdict::Keep if lease == id => Some(revision),
                _ => self.put(claim, revision, id, &held).await?,
            };
            let Some(revision) = stands else { continue };
            if self.keep(claim, &held, id, None).await? {
                if let Some(why) = repaired {
                    tracing::warn!(
                        node = claim.key.id,
                        reason = why,
                        "record changed or deleted by another writer; writing it again"
                    );
                }
                self.settle(claim, held, id, revision).await;
                return Ok(());
            }
        }
        Err(changing(&claim.key))
    }

    async fn settle(&self, claim: &Claim<'_>, held: Held, lease: i64, revision: i64) {
        let settled = Settled {
            instance: claim.instance.clone(),
            record: claim.record.clone(),
            held,
            lease,
            revision,
        };
        self.ledger.settle(Instant::now(), &claim.key, settled);
        self.hub.own(&claim.key, revision).await;
    }

    /// Decides on the ownership of the key.
    fn judge(&self, claim: &Claim<'_>, kv: &KeyValue) -> Verdict {
        let Found::Record(found) = self.records.read(kv) else {
            return Verdict::Repair("its value was not a valid record");
        };
        let ours = found.node.instance() == Some(claim.instance.as_str());
        let first = !self.ledger.has_written(&claim.key, claim.instance);
        let predecessor = first && found.node.address == claim.entry.node.address;
        match () {
            () if ours && kv.value == claim.record.as_bytes() => Verdict::Keep,
            () if ours || predecessor => Verdict::Write,
            () if kv.lease == 0 => Verdict::Repair("another instance wrote it without a lease"),
            () => Verdict::Taken(taken(&claim.key, &found)),
        }
    }

    /// Returns the lease for this record, and grants it if needed.
    async fn lease(&self, claim: &Claim<'_>) -> Result<(Held, i64)> {
        let (held, orphan) = self.slots.hold(Instant::now(), &claim.key, claim.seconds);
        self.revoke(orphan, claim.until).await;
        let granted = held
            .lease
            .get(|id| self.leases.grant(id, claim.seconds, claim.until))
            .await;
        let id = granted.map_err(|trouble| trouble.error("granting a lease"))?;
        Ok((held, id))
    }

    /// Returns the time at which a lost record may be written. The records of a fleet are spread
    /// over time after an outage, so that etcd does not get all writes at once.
    fn turn(&self, claim: &Claim<'_>) -> Result<Option<Instant>> {
        let spread = SPREAD.min(Duration::from_secs(claim.seconds.unsigned_abs()) / SPREAD_OF_TTL);
        let turn = self
            .members
            .turn(&claim.key, spread)
            .filter(|turn| Instant::now() < *turn);
        if turn.is_none_or(|turn| turn + WRITE <= claim.until) {
            return Ok(turn);
        }
        let what = format!(
            "writing the record of {:?}: delayed, so that the writes after an etcd outage are spread",
            claim.key.id
        );
        Err(Error::Unavailable {
            registry: NAME,
            what,
            source: None,
        })
    }

    /// Writes the record if it is unchanged at `revision`. Returns none if it was changed, or the
    /// lease is gone.
    async fn put(
        &self,
        claim: &Claim<'_>,
        revision: i64,
        lease: i64,
        held: &Held,
    ) -> Result<Option<i64>> {
        let key = self.records.space().key(&claim.key);
        let put = Op::Put(PutRequest {
            key: key.clone(),
            value: claim.record.clone().into_bytes(),
            lease,
        });
        match self
            .members
            .ask(TxnRequest::guarded(&key, revision, put), claim.until)
            .await
        {
            Ok(done) => Ok(done
                .header
                .filter(|_| done.succeeded)
                .map(|header| header.revision)),
            Err(Trouble::NoLease(_)) => {
                self.slots.lost(held);
                self.leases.forget(lease).await;
                Ok(None)
            }
            Err(trouble) => Err(trouble.error(format!("writing the record of {:?}", claim.key.id))),
        }
    }

    /// Reads the content of a key.
    async fn look(&self, key: &Key, until: Instant) -> Result<Option<KeyValue>> {
        let question = RangeRequest {
            key: self.records.space().key(key),
            limit: 1,
            ..RangeRequest::default()
        };
        let answer = self.members.ask(question, until).await;
        let answer = answer
            .map_err(|trouble| trouble.error(format!("reading the record of {:?}", key.id)))?;
        Ok(answer.kvs.into_iter().next())
    }

    /// Deregisters one node, if the options allow it: marks the record as leaving, then deletes it.
    pub(crate) async fn deregister(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        until: Instant,
    ) -> Result<()> {
        let lease = self.ledger.lease(key);
        if let Some(instance) = &options.instance {
            self.ledger.unwrites(key, instance);
        }
        let removed = match self.places.take(until).await {
            Ok(_place) => self.remove(key, options, lease, until).await,
            Err(error) => Err(error),
        };
        if matches!(removed, Ok(()) | Err(Error::IdTaken { .. })) {
            self.let_go(key, options.instance.as_ref(), until).await;
        }
        removed
    }

    async fn remove(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        lease: Option<i64>,
        until: Instant,
    ) -> Result<()> {
        let mut marked = false;
        for _ in 0..TRIES {
            let Some(kv) = self.look(key, until).await? else {
                return Ok(());
            };
            let bare = match self.records.read(&kv) {
                Found::Record(found) if options.may_remove(&found.node.metadata) => {
                    (!found.node.is_leaving()).then_some(found)
                }
                // Another instance has taken the id since we marked our own record.
                Found::Record(_) if marked => return Ok(()),
                Found::Record(found) => return Err(taken(key, &found)),
                Found::Garbage(_) | Found::Strange if options.force || lease == Some(kv.lease) => {
                    None
                }
                Found::Garbage(_) | Found::Strange => return Ok(()),
            };
            let revision = match bare {
                None => Some(kv.mod_revision),
                Some(entry) => self.mark(&kv, &entry, until).await?,
            };
            marked |= revision.is_some();
            if let Some(revision) = revision
                && self.delete(&kv, revision, until).await?
            {
                return Ok(());
            }
        }
        Err(changing(key))
    }

    /// Marks the record as leaving. Returns none if it was changed meanwhile.
    async fn mark(&self, kv: &KeyValue, entry: &Entry, until: Instant) -> Result<Option<i64>> {
        let mut service = entry.to_service();
        for node in &mut service.nodes {
            node.metadata.insert(keys::STATE, keys::LEAVING);
        }
        let put = PutRequest {
            key: kv.key.clone(),
            value: service.to_json().into_bytes(),
            lease: kv.lease,
        };
        let done = self
            .members
            .ask(
                TxnRequest::guarded(&kv.key, kv.mod_revision, Op::Put(put)),
                until,
            )
            .await;
        match done {
            Ok(done) => Ok(done
                .header
                .filter(|_| done.succeeded)
                .map(|header| header.revision)),
            // The lease has expired, and the record with it.
            Err(Trouble::NoLease(_)) => Ok(None),
            Err(trouble) => Err(trouble.error("marking a record as leaving")),
        }
    }

    /// Deletes the record if it is unchanged at `revision`. Returns true if it was deleted.
    async fn delete(&self, kv: &KeyValue, revision: i64, until: Instant) -> Result<bool> {
        let delete = Op::Delete(DeleteRangeRequest {
            key: kv.key.clone(),
        });
        let done = self
            .members
            .ask(TxnRequest::guarded(&kv.key, revision, delete), until)
            .await;
        done.map(|done| done.succeeded)
            .map_err(|trouble| trouble.error("deleting a record"))
    }

    /// Releases a record that is no longer this instance's: ends its watch and detaches it from its
    /// lease. Does nothing if another registration of this process holds it.
    async fn let_go(&self, key: &Key, instance: Option<&Instance>, until: Instant) {
        if self
            .ledger
            .holder(key)
            .is_some_and(|holder| instance.is_some_and(|instance| *instance != holder))
        {
            return;
        }
        if self.ledger.drop_claim(key) {
            self.hub.disown(key).await;
        }
        self.revoke(self.slots.release(Instant::now(), key), until)
            .await;
    }

    /// Revokes a lease without records. If this fails, `close` tries once more; otherwise the lease
    /// expires.
    async fn revoke(&self, lease: Option<i64>, until: Instant) {
        let Some(lease) = lease else { return };
        match self.leases.revoke(lease, until).await {
            Ok(()) => self.slots.ended(lease),
            Err(trouble) => tracing::debug!(error = %trouble, "lease not revoked; it expires by its TTL"),
        }
    }

    /// Revokes all leases, and with them the records.
    pub(crate) async fn close(&self, until: Instant) -> Result<()> {
        let mut result = Ok(());
        for lease in self.slots.drain() {
            let revoked = self.leases.revoke(lease, until).await;
            result = result.and(revoked.map_err(|trouble| {
                trouble.error("revoking the leases; they expire by their TTL")
            }));
        }
        result
    }
}

/// Rounds the ttl up to seconds, etcd's unit.
fn whole_seconds(ttl: Duration) -> i64 {
    let rounded_up = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(rounded_up).unwrap_or(i64::MAX)
}

fn taken(key: &Key, found: &Entry) -> Error {
    let holder = format!(
        "{} (instance {})",
        found.node.address,
        found.node.instance().unwrap_or("unknown")
    );
    Error::IdTaken {
        id: key.id.clone(),
        holder,
    }
}

fn changing(key: &Key) -> Error {
    let what = format!(
        "writing the record of {:?}: changed by other writers in each of {TRIES} attempts",
        key.id
    );
    Error::Unavailable {
        registry: NAME,
        what,
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ttl_is_rounded_up() {
        let table = [(1_000, 1), (1_001, 2), (15_000, 15)];
        for (millis, seconds) in table {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
