//! Options of a cluster. Knows etcd's flags, but no paths and no addresses.

use std::time::Duration;

/// Number of members and enabled features of a cluster. Everything else is etcd's default, except
/// the cost of password hashes (see [`flag`](Options::flag)).
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) members: usize,
    pub(super) transport: Transport,
    pub(super) token: Token,
    pub(super) storage: Storage,
    pub(super) flags: Vec<String>,
}

/// Transport security between clients and members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls,
    MutualTls,
}

/// Kind of token that a login returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Token kept by each member; each use restarts its lifetime.
    Simple,
    /// Signed token with a fixed lifetime.
    Signed(Duration),
}

/// Storage of the members' data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Memory,
    Disk,
}

impl Options {
    /// Returns options for one member, with plain HTTP/2, no authentication, and data in memory
    /// where the machine has space for it.
    pub fn one() -> Self {
        Self {
            members: 1,
            transport: Transport::Plain,
            token: Token::Simple,
            storage: Storage::Memory,
            // The lowest cost that bcrypt supports: the default takes 65 ms of CPU for each login.
            flags: vec!["--bcrypt-cost=4".to_owned()],
        }
    }

    /// Returns the same options for three members, which survive the loss of one.
    pub fn three() -> Self {
        Self {
            members: 3,
            ..Self::one()
        }
    }

    /// Makes members present a certificate of the cluster's [`Authority`](super::Authority).
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.transport = Transport::Tls;
        self
    }

    /// Enables TLS as [`tls`](Options::tls) does, and requires a certificate of clients too. With
    /// authentication enabled, its common name is the user.
    #[must_use]
    pub fn mutual_tls(mut self) -> Self {
        self.transport = Transport::MutualTls;
        self
    }

    /// Makes logins return a signed token (JWT) with this lifetime in whole seconds, whether it is
    /// used or not. By default logins return a simple token, which expires 300 s after its last use
    /// and does not survive a restart.
    #[must_use]
    pub fn signed_tokens(mut self, life: Duration) -> Self {
        self.token = Token::Signed(life);
        self
    }

    /// Limits the size of the store: above it, writes are rejected (alarm `NOSPACE`). At least a
    /// few MiB; etcd's default is 2 GiB.
    #[must_use]
    pub fn quota_bytes(self, bytes: u64) -> Self {
        self.flag(format!("--quota-backend-bytes={bytes}"))
    }

    /// Stores data on disk, each write synced. By default data is in memory, or on disk without
    /// sync (etcd 3.5 and newer).
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.storage = Storage::Disk;
        self
    }

    /// Adds any other flag of etcd, such as `--auto-compaction-retention=1`. It is passed last and
    /// overrides ours. Ours is `--bcrypt-cost=4`, which makes logins cheap; etcd's default is 10.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.transport == Transport::Plain {
            "http"
        } else {
            "https"
        }
    }
}
