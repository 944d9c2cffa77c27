//! Judgements of a peer, and their evidence. Observations are stored in the peer; an exclusion is
//! derived from judgements only.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use crate::peer::{ConnectivityState, Exclusion, Membership, PeerStatus};

/// Certainty of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// Observed fact: no connection, a leaving mark, another protocol. Never ignored.
    Hard,
    /// Inference from the results of calls. No judgement is inferred at present.
    Inferred,
}

/// Reason not to pick a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// Reason for the exclusion.
    pub reason: Exclusion,
    /// Certainty of the judgement.
    pub basis: Basis,
    /// Time since which the judgement has held without an interruption.
    pub since: Instant,
    /// Time at which the judgement expires; none if only an event ends it.
    pub until: Option<Instant>,
    /// Evidence, such as the last connection failure.
    pub evidence: Option<Arc<str>>,
}

/// Observations of a peer on which it is judged.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// Membership, connectivity and the last failure.
    pub status: &'a PeerStatus,
    /// True if a ready connection responds to PINGs.
    pub responsive: bool,
    /// Exclusion by the address, if it cannot be dialled.
    pub address: Option<Exclusion>,
}

/// Judgements of one peer, worst first. A peer without judgements is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgements(Vec<Judgement>);

impl Judgements {
    /// Judges the observations again. A reason that already held keeps its `since`.
    pub fn update(&mut self, now: Instant, observed: &Observed<'_>) {
        let old = std::mem::take(&mut self.0);
        let since = |reason| {
            old.iter()
                .find(|judgement| judgement.reason == reason)
                .map_or(now, |judgement| judgement.since)
        };
        self.0.extend(reasons(observed).map(|(reason, basis)| {
            Judgement {
                reason,
                basis,
                since: since(reason),
                until: None,
                evidence: observed
                    .status
                    .last_failure
                    .clone()
                    .filter(|_| reason == Exclusion::NotConnected),
            }
        }));
    }

    /// Returns the reason for which the peer is excluded, if any. Hard ones come first.
    pub fn exclusion(&self) -> Option<Exclusion> {
        self.0
            .iter()
            .find(|judgement| judgement.basis == Basis::Hard)
            .or(self.0.first())
            .map(|judgement| judgement.reason)
    }

    /// Returns all judgements, worst first.
    pub fn iter(&self) -> impl Iterator<Item = &Judgement> {
        self.0.iter()
    }
}

/// Returns the reasons that hold for the observations, worst first.
fn reasons(observed: &Observed<'_>) -> impl Iterator<Item = (Exclusion, Basis)> {
    let leaving = (observed.status.membership == Membership::Leaving).then_some(Exclusion::Leaving);
    let connection = match observed.status.connectivity {
        ConnectivityState::Ready if observed.responsive => None,
        ConnectivityState::Ready => Some(Exclusion::Stalled),
        ConnectivityState::Draining => Some(Exclusion::Draining),
        _ => Some(Exclusion::NotConnected),
    };
    [leaving, observed.address, connection]
        .into_iter()
        .flatten()
        .map(|reason| (reason, Basis::Hard))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(membership: Membership, connectivity: ConnectivityState) -> PeerStatus {
        let now = Instant::now();
        PeerStatus {
            membership,
            connectivity,
            since: now,
            ready_since: None,
            last_failure: Some("refused".into()),
        }
    }

    #[test]
    fn the_exclusion_follows_from_what_is_observed() {
        use ConnectivityState::{Backoff, Connecting, Draining, Idle, Ready};
        use Membership::{Confirmed, Leaving, Suspect};
        let table = [
            (Confirmed, Ready, true, None, None),
            (Suspect, Ready, true, None, None),
            (Confirmed, Ready, false, None, Some(Exclusion::Stalled)),
            (Confirmed, Draining, true, None, Some(Exclusion::Draining)),
            (
                Confirmed,
                Backoff,
                true,
                None,
                Some(Exclusion::NotConnected),
            ),
            (
                Confirmed,
                Connecting,
                true,
                None,
                Some(Exclusion::NotConnected),
            ),
            (
                Confirmed,
                Idle,
                true,
                Some(Exclusion::AddressRefused),
                Some(Exclusion::AddressRefused),
            ),
            (Leaving, Ready, true, None, Some(Exclusion::Leaving)),
        ];
        for (membership, connectivity, responsive, address, expected) in table {
            let status = status(membership, connectivity);
            let mut judgements = Judgements::default();
            judgements.update(
                Instant::now(),
                &Observed {
                    status: &status,
                    responsive,
                    address,
                },
            );
            assert_eq!(
                judgements.exclusion(),
                expected,
                "{membership:?} {connectivity:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_that_goes_on_keeps_its_beginning_and_its_evidence() {
        let (start, status) = (
            Instant::now(),
            status(Membership::Confirmed, ConnectivityState::Backoff),
        );
        let observed = Observed {
            status: &status,
            responsive: true,
            address: None,
        };
        let mut judgements = Judgements::default();
        judgements.update(start, &observed);
        judgements.update(start + Duration::from_secs(3), &observed);
        let judgement = judgements.iter().next().unwrap();
        assert_eq!(
            (judgement.since, judgement.evidence.as_deref()),
            (start, Some("refused"))
        );
    }
}
