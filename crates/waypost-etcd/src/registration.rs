//! Registrations of one handle: ownership of their keys, and their upkeep.
//!
//! Every write is a compare-and-set on the revision that was read, so that no writer overwrites a
//! change that it has not seen. A heartbeat of an unchanged record renews its lease, and compares
//! the revision in the response with the progress of the watch; it neither reads nor writes the
//! record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};
use waypost_core::record::{Entry, Key, keys};
use waypost_core::registry::{DeregisterOptions, Error, Instance, RegisterOptions, Result};

use crate::claims::{Abandoned, Claims, Current, Written};
use crate::cluster::Cluster;
use crate::departures::{Departure, Departures};
use crate::error::{EtcdError, NAME};
use crate::lease::{LeaseRef, LeaseRenewal, LeaseTable, Leases};
use crate::records::{Decoded, Records};
use crate::rpc::{DeleteRangeRequest, KeyValue, Op, PutRequest, RangeRequest, TxnRequest};
use crate::watch::Watches;

/// Maximum number of attempts of a write that loses against concurrent changes.
const MAX_ATTEMPTS: usize = 16;

/// Maximum number of records read and written concurrently. The others wait, so that under load
/// some complete in time instead of all being started.
const MAX_CONCURRENT: usize = 64;

/// Maximum time over which lost records are written again after an outage of etcd. It is also
/// limited to a fifth of the ttl, which is less than one heartbeat interval.
const MAX_SPREAD: Duration = Duration::from_secs(3);
const TTL_PER_SPREAD: u32 = 5;
/// Time allowed for one write, once it may start.
const WRITE_TIME: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct RecordWriter {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) records: Arc<Records>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) leases: Leases,
    pub(crate) lease_table: LeaseTable,
    pub(crate) watches: Arc<Watches>,
    pub(crate) write_limit: WriteLimit,
    pub(crate) departures: Departures,
}

/// Limit on the number of records read and written concurrently.
#[derive(Debug)]
pub(crate) struct WriteLimit(Semaphore);

impl Default for WriteLimit {
    fn default() -> Self {
        Self(Semaphore::new(MAX_CONCURRENT))
    }
}

impl WriteLimit {
    /// Waits for a permit, in FIFO order.
    async fn acquire(&self, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        let started = Instant::now();
        match timeout_at(deadline, self.0.acquire()).await {
            Ok(permit) => permit.map_err(|_| Error::Closed),
            Err(_) => Err(Error::Timeout {
                registry: NAME,
                after: started.elapsed(),
            }),
        }
    }
}

/// One registration of one node.
struct NodeRegistration<'a> {
    key: Key,
    entry: &'a Entry,
    record: String,
    instance: &'a Instance,
    seconds: i64,
    ttl: Duration,
    deadline: Instant,
}

/// Ownership of the record found under the key.
#[derive(Debug)]
enum KeyOwnership {
    /// The record is current.
    Current,
    /// The record is outdated, and this instance may write it.
    Ours,
    /// The record was changed or deleted, and no live owner holds it; with the reason.
    Orphaned(&'static str),
    /// Another live owner holds the key.
    Taken(Error),
}

impl RecordWriter {
    /// Registers one node: writes its record, or confirms it.
    pub(crate) async fn register(
        &self,
        entry: &Entry,
        options: &RegisterOptions,
        deadline: Instant,
    ) -> Result<()> {
        let registration = NodeRegistration {
            key: entry.key(),
            entry,
            record: entry.to_service().to_json(),
            instance: &options.instance,
            seconds: whole_seconds(options.ttl),
            ttl: options.ttl,
            deadline,
        };
        self.claims
            .mark_called(Instant::now(), &registration.key, &options.instance);
        match self.current(&registration) {
            Some(current) if self.heartbeat(&registration, &current).await? => Ok(()),
            Some(_) => self.reconcile(&registration).await,
            None => {
                self.keep_lease(&registration).await;
                self.reconcile(&registration).await
            }
        }
    }

    /// Renews the lease of the earlier record. It must not expire while etcd refuses the new
    /// content or cannot be read.
    async fn keep_lease(&self, registration: &NodeRegistration<'_>) {
        if self.claims.holder(&registration.key).as_ref() == Some(registration.instance)
            && let Some(lease) = self.claims.lease(&registration.key)
        {
            self.leases.renew_in_background(lease).await;
        }
    }

    fn current(&self, registration: &NodeRegistration<'_>) -> Option<Current> {
        self.claims.current(
            Instant::now(),
            &registration.key,
            registration.instance,
            &registration.record,
            registration.seconds,
        )
    }

    /// Renews the lease. Returns false if the record must be read.
    async fn heartbeat(
        &self,
        registration: &NodeRegistration<'_>,
        current: &Current,
    ) -> Result<bool> {
        let Current {
            lease_ref,
            lease,
            renewed_at,
        } = current;
        if !self
            .renew(registration, lease_ref, *lease, Some(*renewed_at))
            .await?
        {
            return Ok(false);
        }
        let Some(header) = self.leases.last_header() else {
            return Ok(false);
        };
        let is_current = self.watches.barrier(header).await && self.current(registration).is_some();
        if is_current {
            self.claims.mark_renewed(Instant::now(), &registration.key);
        }
        Ok(is_current)
    }

    /// Renews a lease. Returns false if it must not be used any more; the next registration then
    /// gets another lease.
    async fn renew(
        &self,
        registration: &NodeRegistration<'_>,
        lease_ref: &LeaseRef,
        lease: i64,
        last: Option<Instant>,
    ) -> Result<bool> {
        let renewed = self.leases.renew(lease, last, registration.deadline).await;
        match renewed.map_err(|error| error.into_registry_error("keeping the lease alive"))? {
            LeaseRenewal::Alive => return Ok(true),
            LeaseRenewal::StaleTerm => {
                tracing::debug!(
                    node = registration.key.id,
                    "etcd leader changed; moving to a new lease"
                );
                self.lease_table.replace(Instant::now(), lease_ref);
                self.leases.forget(lease).await;
            }
            LeaseRenewal::Expired => {
                tracing::info!(node = registration.key.id, "lease lost; registering again");
                self.lease_table.replace_lost(lease_ref);
            }
        }
        Ok(false)
    }

    /// Writes the record, or confirms that it is current, as the ownership of the key allows.
    async fn reconcile(&self, registration: &NodeRegistration<'_>) -> Result<()> {
        // If only the content of the record has changed, write it over the known revision without a
        // read.
        let mut known = self.claims.outdated(
            &registration.key,
            registration.instance,
            &registration.record,
        );
        self.claims.begin_read(&registration.key);
        let mut repaired = None;
        let mut permit = self.write_limit.acquire(registration.deadline).await?;
        for _ in 0..MAX_ATTEMPTS {
            let (ownership, revision, lease) = match known.take() {
                Some(revision) => (KeyOwnership::Ours, revision, 0),
                None => match self.get(&registration.key, registration.deadline).await? {
                    None => {
                        if let Some(write_at) = self.write_at(registration)? {
                            drop(permit);
                            sleep_until(write_at).await;
                            permit = self.write_limit.acquire(registration.deadline).await?;
                        }
                        (KeyOwnership::Orphaned("it was deleted"), 0, 0)
                    }
                    Some(kv) => (
                        self.check_owner(registration, &kv),
                        kv.mod_revision,
                        kv.lease,
                    ),
                },
            };
            if let KeyOwnership::Taken(error) = ownership {
                self.release(
                    &registration.key,
                    Some(registration.instance),
                    registration.deadline,
                )
                .await;
                return Err(error);
            }
            if let KeyOwnership::Orphaned(reason) = ownership
                && self
                    .claims
                    .has_written(&registration.key, registration.instance)
            {
                repaired = Some(reason);
            }
            self.claims.mark_written(
                Instant::now(),
                &registration.key,
                registration.instance,
                registration.ttl,
            );
            let (lease_ref, id) = self.assign_lease(registration).await?;
            let is_current = match ownership {
                KeyOwnership::Current if lease == id => Some(revision),
                _ => self.put(registration, revision, id, &lease_ref).await?,
            };
            let Some(revision) = is_current else { continue };
            if self.renew(registration, &lease_ref, id, None).await? {
                if let Some(reason) = repaired {
                    tracing::warn!(
                        node = registration.key.id,
                        reason,
                        "record changed or deleted by another writer; writing it again"
                    );
                }
                self.record_written(registration, lease_ref, id, revision)
                    .await;
                return Ok(());
            }
        }
        Err(contended(&registration.key))
    }

    async fn record_written(
        &self,
        registration: &NodeRegistration<'_>,
        lease_ref: LeaseRef,
        lease: i64,
        revision: i64,
    ) {
        let written = Written {
            instance: registration.instance.clone(),
            record: registration.record.clone(),
            lease_ref,
            lease,
            revision,
        };
        self.claims
            .confirm(Instant::now(), &registration.key, written);
        self.watches.add_own_key(&registration.key, revision).await;
    }

    /// Decides on the ownership of the key.
    fn check_owner(&self, registration: &NodeRegistration<'_>, kv: &KeyValue) -> KeyOwnership {
        let Decoded::Record(found) = self.records.decode(kv) else {
            return KeyOwnership::Orphaned("its value was not a valid record");
        };
        let ours = found.node.instance() == Some(registration.instance.as_str());
        let first = !self
            .claims
            .has_written(&registration.key, registration.instance);
        let predecessor = first && found.node.address == registration.entry.node.address;
        match () {
            () if ours && kv.value == registration.record.as_bytes() => KeyOwnership::Current,
            () if ours || predecessor => KeyOwnership::Ours,
            () if kv.lease == 0 => {
                KeyOwnership::Orphaned("another instance wrote it without a lease")
            }
            () => KeyOwnership::Taken(taken(&registration.key, &found)),
        }
    }

    /// Returns the lease for this record, and grants it if needed.
    async fn assign_lease(&self, registration: &NodeRegistration<'_>) -> Result<(LeaseRef, i64)> {
        let (lease_ref, unused_lease) =
            self.lease_table
                .assign(Instant::now(), &registration.key, registration.seconds);
        self.revoke(unused_lease, registration.deadline).await;
        let granted = lease_ref
            .lease
            .get_or_grant(|id| {
                self.leases
                    .grant(id, registration.seconds, registration.deadline)
            })
            .await;
        let id = granted.map_err(|error| error.into_registry_error("granting a lease"))?;
        Ok((lease_ref, id))
    }

    /// Returns the time at which a lost record may be written. The records of a fleet are spread
    /// over time after an outage, so that etcd does not get all writes at once.
    fn write_at(&self, registration: &NodeRegistration<'_>) -> Result<Option<Instant>> {
        let spread = MAX_SPREAD
            .min(Duration::from_secs(registration.seconds.unsigned_abs()) / TTL_PER_SPREAD);
        let write_at = self
            .cluster
            .write_at(&registration.key, spread)
            .filter(|write_at| Instant::now() < *write_at);
        if write_at.is_none_or(|write_at| write_at + WRITE_TIME <= registration.deadline) {
            return Ok(write_at);
        }
        let what = format!(
            "writing the record of {:?}: delayed, so that the writes after an etcd outage are spread",
            registration.key.id
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
        registration: &NodeRegistration<'_>,
        revision: i64,
        lease: i64,
        lease_ref: &LeaseRef,
    ) -> Result<Option<i64>> {
        let key = self.records.key_space().key(&registration.key);
        let put = Op::Put(PutRequest {
            key: key.clone(),
            value: registration.record.clone().into_bytes(),
            lease,
        });
        match self
            .cluster
            .call(
                TxnRequest::guarded(&key, revision, put),
                registration.deadline,
            )
            .await
        {
            Ok(response) => Ok(response.revision()),
            Err(EtcdError::LeaseNotFound(_)) => {
                self.lease_table.replace_lost(lease_ref);
                self.leases.forget(lease).await;
                Ok(None)
            }
            Err(error) => Err(error
                .into_registry_error(format!("writing the record of {:?}", registration.key.id))),
        }
    }

    /// Reads the content of a key.
    async fn get(&self, key: &Key, deadline: Instant) -> Result<Option<KeyValue>> {
        let request = RangeRequest {
            key: self.records.key_space().key(key),
            limit: 1,
            ..RangeRequest::default()
        };
        let response = self.cluster.call(request, deadline).await;
        let response = response.map_err(|error| {
            error.into_registry_error(format!("reading the record of {:?}", key.id))
        })?;
        Ok(response.kvs.into_iter().next())
    }

    /// Deregisters one node, if the options allow it: marks the record as leaving, then deletes it.
    pub(crate) async fn deregister(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        deadline: Instant,
    ) -> Result<()> {
        let lease = self.claims.lease(key);
        let removed = if self.remove_unchanged(key, options, deadline).await {
            Ok(())
        } else {
            match self.write_limit.acquire(deadline).await {
                Ok(_permit) => self.remove(key, options, lease, deadline).await,
                Err(error) => Err(error),
            }
        };
        if matches!(removed, Ok(()) | Err(Error::IdTaken { .. })) {
            self.forget(key, options.instance.as_ref(), deadline).await;
        } else if let Some(instance) = &options.instance {
            self.claims.mark_leaving(key, instance);
        }
        removed
    }

    /// Removes a record of this handle without a read, together with others. Returns false if it must
    /// be read.
    async fn remove_unchanged(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        deadline: Instant,
    ) -> bool {
        let unchanged = |instance| {
            let kv = self.claims.unchanged(key, instance)?;
            Some(KeyValue {
                key: self.records.key_space().key(key),
                ..kv
            })
        };
        let Some(kv) = options.instance.as_ref().and_then(unchanged) else {
            return false;
        };
        let Decoded::Record(entry) = self.records.decode(&kv) else {
            return false;
        };
        let departure = Departure {
            service: key.service.clone(),
            revision: kv.mod_revision,
            marked: marked_leaving(&kv, &entry),
        };
        self.departures
            .remove(&self.cluster, departure, deadline)
            .await
    }

    /// Releases a record, and forgets that this instance has written it.
    async fn forget(&self, key: &Key, instance: Option<&Instance>, deadline: Instant) {
        self.release(key, instance, deadline).await;
        if let Some(instance) = instance {
            self.claims.forget_writer(key, instance);
        }
    }

    /// Removes the records of registrations that were dropped, or whose deregistration failed. Their
    /// lease may be kept alive by others. `slept` is the time for which this process did not run.
    ///
    /// # Errors
    /// etcd does not respond; the rest is left to the next call.
    pub(crate) async fn remove_abandoned(&self, slept: Duration, timeout: Duration) -> Result<()> {
        for abandoned in self.claims.abandoned(Instant::now(), slept) {
            let Abandoned {
                key,
                instance,
                is_leaving,
            } = abandoned;
            let deadline = Instant::now() + timeout;
            let options = DeregisterOptions::ours(instance.clone());
            let removed = if is_leaving {
                let lease = self.claims.lease(&key);
                self.remove(&key, &options, lease, deadline).await
            } else {
                self.expire(&key, &options, deadline).await
            };
            match removed {
                Ok(()) | Err(Error::IdTaken { .. }) => {}
                Err(error) => return Err(error),
            }
            tracing::debug!(
                node = key.id,
                is_leaving,
                "removed the record of a registration that has ended"
            );
            self.forget(&key, Some(&instance), deadline).await;
        }
        Ok(())
    }

    /// Deletes the record without the mark of leaving, as its lease would.
    async fn expire(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        deadline: Instant,
    ) -> Result<()> {
        let Some(kv) = self.get(key, deadline).await? else {
            return Ok(());
        };
        match self.records.decode(&kv) {
            Decoded::Record(found) if options.may_remove(&found.node.metadata) => {
                // A record that was changed meanwhile is looked at again by the next call.
                match self.delete(&kv, kv.mod_revision, deadline).await? {
                    true => Ok(()),
                    false => Err(contended(key)),
                }
            }
            Decoded::Record(_) | Decoded::Invalid(_) | Decoded::Foreign => Ok(()),
        }
    }

    async fn remove(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        lease: Option<i64>,
        deadline: Instant,
    ) -> Result<()> {
        let mut is_marked = false;
        for _ in 0..MAX_ATTEMPTS {
            let Some(kv) = self.get(key, deadline).await? else {
                return Ok(());
            };
            let unmarked = match self.records.decode(&kv) {
                Decoded::Record(found) if options.may_remove(&found.node.metadata) => {
                    (!found.node.is_leaving()).then_some(found)
                }
                // Another instance has taken the id since we marked our own record.
                Decoded::Record(_) if is_marked => return Ok(()),
                Decoded::Record(found) => return Err(taken(key, &found)),
                Decoded::Invalid(_) | Decoded::Foreign
                    if options.force || lease == Some(kv.lease) =>
                {
                    None
                }
                Decoded::Invalid(_) | Decoded::Foreign => return Ok(()),
            };
            let revision = match unmarked {
                None => Some(kv.mod_revision),
                Some(entry) => self.mark_leaving(&kv, &entry, deadline).await?,
            };
            is_marked |= revision.is_some();
            if let Some(revision) = revision
                && self.delete(&kv, revision, deadline).await?
            {
                return Ok(());
            }
        }
        Err(contended(key))
    }

    /// Marks the record as leaving. Returns none if it was changed meanwhile.
    async fn mark_leaving(
        &self,
        kv: &KeyValue,
        entry: &Entry,
        deadline: Instant,
    ) -> Result<Option<i64>> {
        let put = marked_leaving(kv, entry);
        let response = self
            .cluster
            .call(
                TxnRequest::guarded(&kv.key, kv.mod_revision, Op::Put(put)),
                deadline,
            )
            .await;
        match response {
            Ok(response) => Ok(response.revision()),
            // The lease has expired, and the record with it.
            Err(EtcdError::LeaseNotFound(_)) => Ok(None),
            Err(error) => Err(error.into_registry_error("marking a record as leaving")),
        }
    }

    /// Deletes the record if it is unchanged at `revision`. Returns true if it was deleted.
    async fn delete(&self, kv: &KeyValue, revision: i64, deadline: Instant) -> Result<bool> {
        let delete = Op::Delete(DeleteRangeRequest {
            key: kv.key.clone(),
        });
        let response = self
            .cluster
            .call(TxnRequest::guarded(&kv.key, revision, delete), deadline)
            .await;
        response
            .map(|response| response.succeeded)
            .map_err(|error| error.into_registry_error("deleting a record"))
    }

    /// Releases a record that is no longer this instance's: ends its watch and detaches it from its
    /// lease. Does nothing if another registration of this process holds it.
    async fn release(&self, key: &Key, instance: Option<&Instance>, deadline: Instant) {
        if self
            .claims
            .holder(key)
            .is_some_and(|holder| instance.is_some_and(|instance| *instance != holder))
        {
            return;
        }
        if self.claims.remove(key) {
            self.watches.remove_own_key(key).await;
        }
        self.revoke(self.lease_table.release(Instant::now(), key), deadline)
            .await;
    }

    /// Revokes a lease without records. If this fails, `close` tries once more; otherwise the lease
    /// expires.
    async fn revoke(&self, lease: Option<i64>, deadline: Instant) {
        let Some(lease) = lease else { return };
        match self.leases.revoke(lease, deadline).await {
            Ok(()) => self.lease_table.mark_revoked(lease),
            Err(error) => tracing::debug!(%error, "lease not revoked; it expires by its TTL"),
        }
    }

    /// Revokes all leases, and with them the records.
    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        let mut result = Ok(());
        for lease in self.lease_table.drain() {
            let revoked = self.leases.revoke(lease, deadline).await;
            result = result.and(revoked.map_err(|error| {
                error.into_registry_error("revoking the leases; they expire by their TTL")
            }));
        }
        result
    }
}

/// Returns the write that marks the record as leaving.
fn marked_leaving(kv: &KeyValue, entry: &Entry) -> PutRequest {
    let mut service = entry.to_service();
    for node in &mut service.nodes {
        node.metadata.insert(keys::STATE, keys::LEAVING);
    }
    PutRequest {
        key: kv.key.clone(),
        value: service.to_json().into_bytes(),
        lease: kv.lease,
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

fn contended(key: &Key) -> Error {
    let what = format!(
        "writing the record of {:?}: changed by other writers in each of {MAX_ATTEMPTS} attempts",
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
