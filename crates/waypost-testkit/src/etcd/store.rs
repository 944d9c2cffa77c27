//! What tests do to the store by hand, as an operator does with etcdctl.

use serde_json::Value;

use super::Etcd;
use crate::Failure;

/// A value that fills a quota quickly and is below etcd's limit for a request (1.5 MiB).
const FILLING_BYTES: usize = 1 << 20;
const FILLING_KEY: &str = "waypost-testkit-filling";
const FULL: &str = "database space exceeded";

impl Etcd {
    /// What etcdctl printed when called with `args`, against the members that are up; as [`ROOT`](super::ROOT) once authentication is
    /// on. Endpoints, certificates and deadline are given.
    ///
    /// # Errors
    /// It failed; the text is what it said.
    ///
    /// # Cancel safety
    /// Dropped half-way, the request may have been made.
    pub async fn ctl(&self, args: &[&str]) -> Result<String, Failure> {
        let output = self.call(self.control.login.as_deref(), args, b"").await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The same as another user: `login` is `user:password`.
    ///
    /// # Errors
    /// It failed; the text is what it said.
    ///
    /// # Cancel safety
    /// Dropped half-way, the request may have been made.
    pub async fn ctl_as(&self, login: &str, args: &[&str]) -> Result<String, Failure> {
        let output = self.call(Some(login), args, b"").await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Writes any bytes to `key`, without a lease.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been written.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        // etcdctl takes an empty stdin for none.
        let args = if value.is_empty() { &["put", key, ""][..] } else { &["put", key] };
        self.call(self.control.login.as_deref(), args, value).await.map(drop)
    }

    /// The value of `key`; none if there is no such key.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let mut value = self.call(self.control.login.as_deref(), &["get", key, "--print-value-only"], b"").await?;
        // Each value is followed by a line break.
        Ok(value.pop().map(|_| value))
    }

    /// The keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let output = self.ctl(&["get", prefix, "--prefix", "--keys-only"]).await?;
        Ok(output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Deletes `key`, whether it is there or not.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been deleted.
    pub async fn delete(&self, key: &str) -> Result<(), Failure> {
        self.ctl(&["del", key]).await.map(drop)
    }

    /// The leases there are, as etcdctl writes them: in hexadecimal digits.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    pub async fn leases(&self) -> Result<Vec<String>, Failure> {
        let output = self.ctl(&["lease", "list"]).await?;
        Ok(output.lines().skip(1).map(str::to_owned).collect())
    }

    /// The lease of `key`, in hexadecimal digits; none if it has none, or there is no such key.
    ///
    /// # Errors
    /// It failed; the text is what etcdctl said.
    pub async fn lease_of(&self, key: &str) -> Result<Option<String>, Failure> {
        let json = self.ctl(&["get", key, "--write-out=json"]).await?;
        let json: Value = serde_json::from_str(&json).map_err(|error| Failure::new(format!("etcdctl get: {error}: {json}")))?;
        Ok(json["kvs"][0]["lease"].as_i64().map(|lease| format!("{lease:016x}")))
    }

    /// Revokes a lease, and deletes its keys with it.
    ///
    /// # Errors
    /// There is no such lease, or the call failed.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been revoked.
    pub async fn revoke(&self, lease: &str) -> Result<(), Failure> {
        self.ctl(&["lease", "revoke", lease]).await.map(drop)
    }

    /// The store's revision, as the first member that is up has it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn revision(&self) -> Result<i64, Failure> {
        let up = self.members.iter().position(super::Member::is_up).unwrap_or_default();
        Ok(self.status(up).await?.revision)
    }

    /// Forgets all history before `revision`; returns when it is gone.
    ///
    /// # Errors
    /// The revision is in the future, or compacted already.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done.
    pub async fn compact(&self, revision: i64) -> Result<(), Failure> {
        self.ctl(&["compact", &revision.to_string(), "--physical"]).await.map(drop)
    }

    /// Writes until the quota is exceeded and the alarm `NOSPACE` is raised. Give it a small one:
    /// [`quota_bytes`](super::Options::quota_bytes).
    ///
    /// # Errors
    /// Something else failed first.
    ///
    /// # Cancel safety
    /// Dropped half-way, some has been written; call it again.
    pub async fn fill(&self) -> Result<(), Failure> {
        let value = vec![b'x'; FILLING_BYTES];
        loop {
            match self.put(FILLING_KEY, &value).await {
                Ok(()) => {}
                Err(failure) if failure.to_string().contains(FULL) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Makes room after [`fill`](Etcd::fill), as an operator must: deletes, compacts, defragments each member, and ends the alarm.
    ///
    /// # Errors
    /// A step failed.
    ///
    /// # Cancel safety
    /// Dropped half-way, some steps have been made; call it again.
    pub async fn make_room(&self) -> Result<(), Failure> {
        self.delete(FILLING_KEY).await?;
        self.compact(self.revision().await?).await?;
        self.ctl(&["defrag"]).await?;
        self.ctl(&["alarm", "disarm"]).await.map(drop)
    }

    pub(super) async fn call(&self, login: Option<&str>, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Failure> {
        let up = self.members.iter().filter(|member| member.is_up());
        let endpoints: Vec<String> = up.map(|member| member.address().to_string()).collect();
        self.control.run(&endpoints.join(","), login, args, input).await
    }
}
