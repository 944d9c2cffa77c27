//! The registrations of one handle: whose key it is, and that it stands.
//!
//! Every write is a compare-and-set on the revision that was looked at, so that nobody writes over what they have not seen. A beat of a
//! record that nothing has touched keeps its lease alive and asks the watch how far it has got; it reads and writes nothing.

use std::sync::Arc;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, keys};
use waypost_core::registry::{DeregisterOptions, Error, Instance, RegisterOptions, Result};

use crate::NAME;
use crate::lease::{Held, Leases, Slots};
use crate::ledger::{Ledger, Settled, Standing};
use crate::members::Members;
use crate::records::{Found, Records};
use crate::trouble::Trouble;
use crate::watch::Hub;
use crate::wire::{DeleteRangeRequest, KeyValue, Op, PutRequest, RangeRequest, TxnRequest};

/// How often a write is tried that others come before.
const TRIES: usize = 16;

#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) members: Arc<Members>,
    pub(crate) records: Arc<Records>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) leases: Leases,
    pub(crate) slots: Slots,
    pub(crate) hub: Arc<Hub>,
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

/// What may be done with what stands under our key.
#[derive(Debug)]
enum Verdict {
    /// It says what it should.
    Keep,
    Write,
    /// It is another's, who lives.
    Taken(Error),
}

impl Owner {
    /// Makes the record of one node so.
    pub(crate) async fn register(&self, entry: &Entry, options: &RegisterOptions, until: Instant) -> Result<()> {
        let claim = Claim {
            key: entry.key(),
            entry,
            record: entry.to_service().to_json(),
            instance: &options.instance,
            seconds: whole_seconds(options.ttl),
            until,
        };
        if let Some(standing) = self.standing(&claim)
            && self.beat(&claim, &standing).await?
        {
            return Ok(());
        }
        self.make_so(&claim).await
    }

    fn standing(&self, claim: &Claim<'_>) -> Option<Standing> {
        self.ledger.standing(Instant::now(), &claim.key, claim.instance, &claim.record, claim.seconds)
    }

    /// Keeps the lease alive. False if the record must be looked at.
    async fn beat(&self, claim: &Claim<'_>, standing: &Standing) -> Result<bool> {
        let (kept, heard) = tokio::join!(self.leases.keep(standing.lease, claim.until), self.hub.barrier());
        match kept {
            Ok(()) => Ok(heard && self.standing(claim).is_some()),
            Err(Trouble::NoLease(_)) => {
                self.slots.lost(&standing.held);
                Ok(false)
            }
            Err(trouble) => Err(trouble.error("keeping the lease alive")),
        }
    }

    async fn make_so(&self, claim: &Claim<'_>) -> Result<()> {
        // Only what the record says has changed: written at once over what we know to be there.
        let mut known = self.ledger.outdated(&claim.key, claim.instance, &claim.record);
        self.ledger.look(&claim.key);
        for _ in 0..TRIES {
            let (verdict, revision, lease) = match known.take() {
                Some(revision) => (Verdict::Write, revision, 0),
                None => match self.look(&claim.key, claim.until).await? {
                    None => (Verdict::Write, 0, 0),
                    Some(kv) => (self.judge(claim, &kv), kv.mod_revision, kv.lease),
                },
            };
            if let Verdict::Taken(error) = verdict {
                self.let_go(&claim.key, Some(claim.instance), claim.until).await;
                return Err(error);
            }
            self.ledger.writes(&claim.key, claim.instance);
            let (held, id) = self.lease(claim).await?;
            let stands = match verdict {
                Verdict::Keep if lease == id => Some(revision),
                _ => self.put(claim, revision, id, &held).await?,
            };
            let Some(revision) = stands else { continue };
            match self.leases.keep(id, claim.until).await {
                Ok(()) => return self.settle(claim, held, id, revision).await,
                Err(Trouble::NoLease(_)) => self.slots.lost(&held),
                Err(trouble) => return Err(trouble.error("keeping the lease alive")),
            }
        }
        Err(changing(&claim.key))
    }

    async fn settle(&self, claim: &Claim<'_>, held: Held, lease: i64, revision: i64) -> Result<()> {
        let settled = Settled { instance: claim.instance.clone(), record: claim.record.clone(), held, lease, revision };
        self.ledger.settle(Instant::now(), &claim.key, settled);
        self.hub.own(&claim.key, revision).await;
        Ok(())
    }

    /// The rule of whose key it is.
    fn judge(&self, claim: &Claim<'_>, kv: &KeyValue) -> Verdict {
        let Found::Record(found) = self.records.read(kv) else { return Verdict::Write };
        let ours = found.node.instance() == Some(claim.instance.as_str());
        let first = !self.ledger.has_written(&claim.key, claim.instance);
        let predecessor = first && found.node.address == claim.entry.node.address;
        match () {
            () if ours && kv.value == claim.record.as_bytes() => Verdict::Keep,
            () if ours || predecessor || kv.lease == 0 => Verdict::Write,
            () => Verdict::Taken(taken(&claim.key, &found)),
        }
    }

    /// The lease for this record, granted if need be.
    async fn lease(&self, claim: &Claim<'_>) -> Result<(Held, i64)> {
        let (held, orphan) = self.slots.hold(&claim.key, claim.seconds);
        self.revoke(orphan, claim.until).await;
        let granted = held.lease.get_or_try_init(|| self.leases.grant(claim.seconds, claim.until)).await;
        let id = *granted.map_err(|trouble| trouble.error("asking for a lease"))?;
        Ok((held, id))
    }

    /// Writes the record, if nobody has changed it since. None if somebody has, or the lease is gone.
    async fn put(&self, claim: &Claim<'_>, revision: i64, lease: i64, held: &Held) -> Result<Option<i64>> {
        let key = self.records.space().key(&claim.key);
        let put = Op::Put(PutRequest { key: key.clone(), value: claim.record.clone().into_bytes(), lease });
        match self.members.ask(TxnRequest::guarded(&key, revision, put), claim.until).await {
            Ok(done) => Ok(done.header.filter(|_| done.succeeded).map(|header| header.revision)),
            Err(Trouble::NoLease(_)) => {
                self.slots.lost(held);
                Ok(None)
            }
            Err(trouble) => Err(trouble.error(format!("writing the record of {:?}", claim.key.id))),
        }
    }

    /// What stands under a key.
    async fn look(&self, key: &Key, until: Instant) -> Result<Option<KeyValue>> {
        let question = RangeRequest { key: self.records.space().key(key), limit: 1, ..RangeRequest::default() };
        let answer = self.members.ask(question, until).await;
        let answer = answer.map_err(|trouble| trouble.error(format!("reading the record of {:?}", key.id)))?;
        Ok(answer.kvs.into_iter().next())
    }

    /// Removes the record of one node, if that is allowed: marked first, then deleted.
    pub(crate) async fn deregister(&self, key: &Key, options: &DeregisterOptions, until: Instant) -> Result<()> {
        let lease = self.ledger.lease(key);
        if let Some(instance) = &options.instance {
            self.ledger.unwrites(key, instance);
        }
        let removed = self.remove(key, options, lease, until).await;
        if matches!(removed, Ok(()) | Err(Error::IdTaken { .. })) {
            self.let_go(key, options.instance.as_ref(), until).await;
        }
        removed
    }

    async fn remove(&self, key: &Key, options: &DeregisterOptions, lease: Option<i64>, until: Instant) -> Result<()> {
        let mut marked = false;
        for _ in 0..TRIES {
            let Some(kv) = self.look(key, until).await? else { return Ok(()) };
            let bare = match self.records.read(&kv) {
                Found::Record(found) if options.may_remove(&found.node.metadata) => (!found.node.is_leaving()).then_some(found),
                // Another has taken the id since we marked our own.
                Found::Record(_) if marked => return Ok(()),
                Found::Record(found) => return Err(taken(key, &found)),
                Found::Garbage(_) | Found::Strange if options.force || lease == Some(kv.lease) => None,
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

    /// Writes that the node is leaving; none if somebody came before.
    async fn mark(&self, kv: &KeyValue, entry: &Entry, until: Instant) -> Result<Option<i64>> {
        let mut service = entry.to_service();
        for node in service.nodes.iter_mut() {
            node.metadata.insert(keys::STATE, keys::LEAVING);
        }
        let put = PutRequest { key: kv.key.clone(), value: service.to_json().into_bytes(), lease: kv.lease };
        let done = self.members.ask(TxnRequest::guarded(&kv.key, kv.mod_revision, Op::Put(put)), until).await;
        match done {
            Ok(done) => Ok(done.header.filter(|_| done.succeeded).map(|header| header.revision)),
            // The lease has ended, and the record with it.
            Err(Trouble::NoLease(_)) => Ok(None),
            Err(trouble) => Err(trouble.error("marking a record as leaving")),
        }
    }

    /// Deletes what nobody has changed since; whether it is gone.
    async fn delete(&self, kv: &KeyValue, revision: i64, until: Instant) -> Result<bool> {
        let delete = Op::Delete(DeleteRangeRequest { key: kv.key.clone() });
        let done = self.members.ask(TxnRequest::guarded(&kv.key, revision, delete), until).await;
        done.map(|done| done.succeeded).map_err(|trouble| trouble.error("deleting a record"))
    }

    /// It is not this instance's any more: not watched, and off its lease. Another registration of this process may hold it.
    async fn let_go(&self, key: &Key, instance: Option<&Instance>, until: Instant) {
        if self.ledger.holder(key).is_some_and(|holder| instance.is_some_and(|instance| *instance != holder)) {
            return;
        }
        if self.ledger.drop_claim(key) {
            self.hub.disown(key).await;
        }
        self.revoke(self.slots.release(key), until).await;
    }

    /// Ends a lease that holds nothing; one that cannot be ended runs out.
    async fn revoke(&self, lease: Option<i64>, until: Instant) {
        let Some(lease) = lease else { return };
        if let Err(trouble) = self.leases.revoke(lease, until).await {
            tracing::debug!(%trouble, "a lease was not revoked; it runs out by itself");
        }
    }

    /// Ends all leases, and the records with them.
    pub(crate) async fn close(&self, until: Instant) -> Result<()> {
        let mut result = Ok(());
        for lease in self.slots.drain() {
            let revoked = self.leases.revoke(lease, until).await;
            result = result.and(revoked.map_err(|trouble| trouble.error("revoking its leases; they run out by themselves")));
        }
        result
    }
}

/// etcd counts in seconds.
fn whole_seconds(ttl: std::time::Duration) -> i64 {
    let rounded_up = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(rounded_up).unwrap_or(i64::MAX)
}

fn taken(key: &Key, found: &Entry) -> Error {
    let holder = format!("{} (instance {})", found.node.address, found.node.instance().unwrap_or("unknown"));
    Error::IdTaken { id: key.id.clone(), holder }
}

fn changing(key: &Key) -> Error {
    let what = format!("the record of {:?} was changed by others {TRIES} times while it was written", key.id);
    Error::Unavailable { registry: NAME, what, source: None }
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
