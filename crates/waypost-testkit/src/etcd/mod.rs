//! Real etcd clusters for tests: one member or three, on loopback ports chosen by the system. A
//! test can freeze, kill, wipe and fill them, protect them with passwords and certificates, and
//! query them. Knows nothing of Waypost.
//!
//! [`Binary::all`] lists the etcd programs; [`Etcd::start`] starts a cluster. Put a
//! [`Proxy`](crate::Proxy) before a member to disconnect it. When a cluster is dropped, its
//! processes are killed and its files removed. The files of a test that was killed are removed by
//! the next one.

mod access;
mod authority;
mod binary;
mod control;
mod data_dir;
mod each;
mod member;
mod metrics;
mod options;
mod store;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::Failure;
use control::Control;
use data_dir::DataDir;
use options::{Storage, Token, Transport};

pub use access::ROOT;
pub use authority::{Authority, Identity};
pub use binary::Binary;
pub use each::each;
pub use member::Member;
pub use metrics::Metrics;
pub use options::Options;
pub use waypost_etcd_binary::Version;

/// Interval of checks for a leader, and their timeout: etcd elects in one or two seconds.
const LOOK: Duration = Duration::from_millis(50);
const ELECTION: Duration = Duration::from_secs(30);

/// Data of a restarted cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// All data from before the restart.
    Kept,
    /// No data: the same ids and addresses, revision 1.
    Lost,
}

/// Status of a member and its cluster, as the member reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Id of the cluster.
    pub cluster: u64,
    /// Id of the member.
    pub member: u64,
    /// Id of the leader as this member knows it; 0 if it knows none.
    pub leader: u64,
    /// Revision of the store.
    pub revision: i64,
    /// Size of the store's file, in bytes.
    pub size_bytes: u64,
}

/// Cluster of one test.
#[derive(Debug)]
pub struct Etcd {
    // Declared before the folder, so that the folder is removed once no member writes to it.
    members: Vec<Member>,
    control: Control,
    authority: Option<Authority>,
    binary: Binary,
    data_dir: DataDir,
}

impl Etcd {
    /// Starts a cluster and returns once each member responds with the cluster id that it logged,
    /// so that no other etcd is used by mistake. Must be called in a tokio runtime with I/O whose
    /// clock is not paused.
    ///
    /// # Errors
    /// A member does not start or serve; the text shows its log.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is left.
    pub async fn start(binary: &Binary, options: &Options) -> Result<Self, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(format!("etcd {} cannot be set up: {why}", binary.version()))
        };
        let data_dir = DataDir::new(options).map_err(|error| failed(&error))?;
        let names = (1..=options.members).map(|number| format!("m{number}"));
        let members = names
            .map(|name| Member::new(binary, name, data_dir.path()))
            .collect::<Result<Vec<_>, _>>();
        let authority = if options.transport == Transport::Plain {
            None
        } else {
            Some(Authority::new()?)
        };
        let control = Control {
            etcdctl: binary.etcdctl().to_owned(),
            tls: Vec::new(),
            login: None,
        };
        let mut etcd = Self {
            members: members.map_err(|error| failed(&error))?,
            control,
            authority,
            binary: binary.clone(),
            data_dir,
        };
        etcd.configure(options)?;
        etcd.start_all().await?;
        Ok(etcd)
    }

    /// Returns the program that the members run.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// Returns the number of members, up or not.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Returns the member at `index`, counted from 0.
    ///
    /// # Panics
    /// The cluster has fewer members.
    #[track_caller]
    pub fn member(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// Returns the client addresses of the members, up or not, in their order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::address).collect()
    }

    /// Returns the authority that signed the members' certificates and can issue those of clients;
    /// `None` without TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Freezes all members (SIGSTOP).
    ///
    /// # Errors
    /// A member is down.
    pub fn pause(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Member::pause)
    }

    /// Resumes all members (SIGCONT).
    ///
    /// # Errors
    /// A member is down.
    pub fn resume(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Member::resume)
    }

    /// Kills all members that are not down (SIGKILL) and returns once they have ended.
    ///
    /// # Errors
    /// A member does not end.
    ///
    /// # Cancel safety
    /// If the future is dropped, some members may have been killed; call it again.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            if member.pid().is_some() {
                member.kill().await?;
            }
        }
        Ok(())
    }

    /// Kills all running members and starts all members again; returns once each responds. With
    /// [`Data::Lost`] authentication is disabled again.
    ///
    /// # Errors
    /// A member does not start or serve; the text shows its log.
    ///
    /// # Cancel safety
    /// If the future is dropped, some members may be down; call it again.
    pub async fn restart(&mut self, data: Data) -> Result<(), Failure> {
        self.kill().await?;
        if data == Data::Lost {
            let forgotten = self.members.iter().try_for_each(Member::forget);
            forgotten.map_err(|error| {
                Failure::new(format!("the data of etcd cannot be removed: {error}"))
            })?;
            self.control.login = None;
        }
        self.start_all().await
    }

    /// Fails the test if a member has ended by itself.
    ///
    /// # Panics
    /// A member has ended; the message shows its output.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        for member in &mut self.members {
            member.assert_alive();
        }
    }

    /// Returns the status that the member at `index` reports.
    ///
    /// # Errors
    /// The member does not respond.
    ///
    /// # Cancel safety
    /// The call only reads.
    pub async fn status(&self, index: usize) -> Result<Status, Failure> {
        let address = self.members[index].address().to_string();
        let args = ["endpoint", "status", "--write-out=json"];
        let json = self
            .control
            .run(&address, self.control.login.as_deref(), &args, b"")
            .await?;
        let shown = || {
            Failure::new(format!(
                "etcdctl shows no status: {}",
                String::from_utf8_lossy(&json)
            ))
        };
        serde_json::from_slice(&json)
            .ok()
            .and_then(|json| status(&json))
            .ok_or_else(shown)
    }

    /// Returns the index of the leader, once the members that are up have one.
    ///
    /// # Errors
    /// There was no leader for 30 s, or a member that is up does not respond.
    ///
    /// # Cancel safety
    /// The call only reads.
    pub async fn leader(&self) -> Result<usize, Failure> {
        let find_leader = async {
            loop {
                if let Some(leader) = self.seen_leader().await? {
                    return Ok(leader);
                }
                sleep(LOOK).await;
            }
        };
        timeout(ELECTION, find_leader)
            .await
            .unwrap_or_else(|_| Err(Failure::new("etcd elected no leader")))
    }

    /// Returns the leader if all members that are up agree on it; a resumed member may consider
    /// itself the leader for a while.
    async fn seen_leader(&self) -> Result<Option<usize>, Failure> {
        let (mut agreed, mut leader) = (None, None);
        for index in (0..self.members.len()).filter(|index| self.members[*index].is_up()) {
            let status = self.status(index).await?;
            if *agreed.get_or_insert(status.leader) != status.leader {
                return Ok(None);
            }
            leader = leader.or((status.leader == status.member).then_some(index));
        }
        Ok(leader)
    }

    async fn start_all(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Member::start)?;
        for index in 0..self.members.len() {
            self.members[index].serving().await?;
        }
        for index in 0..self.members.len() {
            self.assert_ours(index).await?;
        }
        Ok(())
    }

    /// Fails unless the member responds with the cluster id that our child logged.
    async fn assert_ours(&mut self, index: usize) -> Result<(), Failure> {
        let (status, member) = (self.status(index).await?, &mut self.members[index]);
        member.assert_alive();
        let (joined, answered) = (member.joined(), status.cluster);
        if joined == Some(answered) {
            return Ok(());
        }
        let address = member.address();
        Err(Failure::new(format!(
            "another etcd answers at {address}: cluster {answered:x}, ours is {joined:x?}"
        )))
    }

    fn configure(&mut self, options: &Options) -> Result<(), Failure> {
        let mut flags = self.cluster_flags();
        if options.storage == Storage::Memory
            && !self.data_dir.in_memory()
            && self.binary.can_skip_fsync()
        {
            flags.push("--unsafe-no-fsync".to_owned());
        }
        if let Some(authority) = &self.authority {
            flags.extend(server_flags(authority, options.transport)?);
            self.control.tls = client_flags(authority, options.transport)?;
        }
        if let Token::Signed(life) = options.token {
            flags.push(self.token_flag(life)?);
        }
        flags.extend(options.flags.iter().cloned());
        self.members
            .iter_mut()
            .for_each(|member| member.configure(options.scheme(), &flags));
        Ok(())
    }

    fn cluster_flags(&self) -> Vec<String> {
        let peers: Vec<String> = self.members.iter().map(Member::peer).collect();
        let token = format!(
            "waypost-{}-{}",
            std::process::id(),
            self.members[0].address().port()
        );
        // Logs go to stdout, whose lines are read; etcd's default is stderr.
        let log = ["--logger=zap", "--log-outputs=stdout"].map(str::to_owned);
        let cluster = [
            format!("--initial-cluster={}", peers.join(",")),
            format!("--initial-cluster-token={token}"),
        ];
        log.into_iter().chain(cluster).collect()
    }

    /// Writes the secret with which all members sign tokens, and returns the flag for it.
    fn token_flag(&self, life: Duration) -> Result<String, Failure> {
        let key = self.data_dir.path().join("token.key");
        let written = std::fs::write(&key, "a secret that only these members share, for one test");
        written.map_err(|error| Failure::new(format!("no key for tokens: {error}")))?;
        Ok(format!(
            "--auth-token=jwt,sign-method=HS256,priv-key={},ttl={}s",
            key.display(),
            life.as_secs()
        ))
    }
}

fn server_flags(authority: &Authority, transport: Transport) -> Result<Vec<String>, Failure> {
    let identity = authority.server(&["127.0.0.1", "localhost"])?;
    let own = [
        format!("--cert-file={}", identity.certificate.display()),
        format!("--key-file={}", identity.key.display()),
    ];
    let asks = [
        format!("--trusted-ca-file={}", authority.certificate().display()),
        "--client-cert-auth".to_owned(),
    ];
    let asks = if transport == Transport::MutualTls {
        asks.to_vec()
    } else {
        Vec::new()
    };
    Ok(own.into_iter().chain(asks).collect())
}

fn client_flags(authority: &Authority, transport: Transport) -> Result<Vec<String>, Failure> {
    let mut flags = vec![format!("--cacert={}", authority.certificate().display())];
    if transport == Transport::MutualTls {
        let identity = authority.client("etcdctl")?;
        flags.extend([
            format!("--cert={}", identity.certificate.display()),
            format!("--key={}", identity.key.display()),
        ]);
    }
    Ok(flags)
}

fn status(json: &Value) -> Option<Status> {
    let (status, header) = (&json[0]["Status"], &json[0]["Status"]["header"]);
    Some(Status {
        cluster: header["cluster_id"].as_u64()?,
        member: header["member_id"].as_u64()?,
        leader: status["leader"].as_u64().unwrap_or_default(),
        revision: header["revision"].as_i64()?,
        size_bytes: status["dbSize"].as_u64()?,
    })
}
