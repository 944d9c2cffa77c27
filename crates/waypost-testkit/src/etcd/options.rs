//! How a cluster is set up. It knows etcd's flags, and not where anything is.

use std::time::Duration;

/// How many members, and what is switched on. Everything else is etcd's default, but for the cost of passwords (see
/// [`flag`](Options::flag)).
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) members: usize,
    pub(super) transport: Transport,
    pub(super) token: Token,
    pub(super) storage: Storage,
    pub(super) flags: Vec<String>,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls,
    MutualTls,
}

/// What a login yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Kept by each member; its life starts anew at each use.
    Simple,
    /// Signed, with a life of its own.
    Signed(Duration),
}

/// Where members write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Memory,
    Disk,
}

impl Options {
    /// One member, plain HTTP/2, no authentication, data in memory where the machine has room for it.
    pub fn one() -> Self {
        Self {
            members: 1,
            transport: Transport::Plain,
            token: Token::Simple,
            storage: Storage::Memory,
            // The cheapest that bcrypt has: the default takes 65 ms of CPU for each login.
            flags: vec!["--bcrypt-cost=4".to_owned()],
        }
    }

    /// The same with three members, which survive the loss of one.
    pub fn three() -> Self {
        Self { members: 3, ..Self::one() }
    }

    /// Members show clients a certificate of the cluster's [`Authority`](super::Authority).
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.transport = Transport::Tls;
        self
    }

    /// As [`tls`](Options::tls), and clients must show one too; with authentication on, its common name is the user.
    #[must_use]
    pub fn mutual_tls(mut self) -> Self {
        self.transport = Transport::MutualTls;
        self
    }

    /// Logins yield a signed token (JWT) that lives this long, used or not; whole seconds. Without it they yield a simple token that
    /// lives for 300 s since its last use, and not beyond a restart.
    #[must_use]
    pub fn signed_tokens(mut self, life: Duration) -> Self {
        self.token = Token::Signed(life);
        self
    }

    /// Once the store is larger than this, writes are refused (alarm `NOSPACE`); 2 GiB without it. At least a few MiB.
    #[must_use]
    pub fn quota_bytes(self, bytes: u64) -> Self {
        self.flag(format!("--quota-backend-bytes={bytes}"))
    }

    /// Data on disk, each write synced. Without it data is in memory, or on disk and not synced (etcd 3.5 and newer).
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.storage = Storage::Disk;
        self
    }

    /// Any other flag of etcd, such as `--auto-compaction-retention=1`; given last, it wins over ours. Ours is `--bcrypt-cost=4`, which
    /// makes logins cheap; etcd's default is 10.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.transport == Transport::Plain { "http" } else { "https" }
    }
}
