//! Operations on the store by hand, as an operator does them with etcdctl.

use serde_json::Value;

use super::Etcd;
use crate::Failure;

/// Size of a value that fills a quota quickly and is below etcd's limit for a request (1.5 MiB).
const FILLING_BYTES: usize = 1 << 20;
const FILLING_KEY: &str = "waypost-testkit-filling";
const FULL: &str = "database space exceeded";

impl Etcd {
    /// Runs etcdctl with `args` against the members that are up and returns its stdout. Runs as
    /// [`ROOT`](super::ROOT) once authentication is enabled. Endpoints, certificates and timeout
    /// are added.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    ///
    /// # Cancel safety
    /// If the future is dropped, the request may have been executed.
    pub async fn ctl(&self, args: &[&str]) -> Result<String, Failure> {
        let output = self.call(self.control.login.as_deref(), args, b"").await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs etcdctl as another user; `login` is `user:password`.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    ///
    /// # Cancel safety
    /// If the future is dropped, the request may have been executed.
    pub async fn ctl_as(&self, login: &str, args: &[&str]) -> Result<String, Failure> {
        let output = self.call(Some(login), args, b"").await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Writes any bytes to `key`, without a lease.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    ///
    /// # Cancel safety
    /// If the future is dropped, the value may have been written.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        // etcdctl treats an empty stdin as no value.
        let args = if value.is_empty() {
            &["put", key, ""][..]
        } else {
            &["put", key]
        };
        self.call(self.control.login.as_deref(), args, value)
            .await
            .map(drop)
    }

    /// Returns the value of `key`, or `None` if there is no such key.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let mut value = self
            .call(
                self.control.login.as_deref(),
                &["get", key, "--print-value-only"],
                b"",
            )
            .await?;
        // etcdctl prints a line break after each value.
        Ok(value.pop().map(|_| value))
    }

    /// Returns the keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let output = self
            .ctl(&["get", prefix, "--prefix", "--keys-only"])
            .await?;
        Ok(output
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Deletes `key`, whether or not it exists.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    ///
    /// # Cancel safety
    /// If the future is dropped, the key may have been deleted.
    pub async fn delete(&self, key: &str) -> Result<(), Failure> {
        self.ctl(&["del", key]).await.map(drop)
    }

    /// Returns the ids of all leases, in hexadecimal digits as etcdctl prints them.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    pub async fn leases(&self) -> Result<Vec<String>, Failure> {
        let output = self.ctl(&["lease", "list"]).await?;
        Ok(output.lines().skip(1).map(str::to_owned).collect())
    }

    /// Returns the lease id of `key`, in hexadecimal digits; `None` if the key has no lease or does
    /// not exist.
    ///
    /// # Errors
    /// The call failed; the text is the error of etcdctl.
    pub async fn lease_of(&self, key: &str) -> Result<Option<String>, Failure> {
        let json = self.ctl(&["get", key, "--write-out=json"]).await?;
        let json: Value = serde_json::from_str(&json)
            .map_err(|error| Failure::new(format!("etcdctl get: {error}: {json}")))?;
        Ok(json["kvs"][0]["lease"]
            .as_i64()
            .map(|lease| format!("{lease:016x}")))
    }

    /// Revokes a lease, which deletes its keys.
    ///
    /// # Errors
    /// There is no such lease, or the call failed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the lease may have been revoked.
    pub async fn revoke(&self, lease: &str) -> Result<(), Failure> {
        self.ctl(&["lease", "revoke", lease]).await.map(drop)
    }

    /// Returns the revision of the store, as the first member that is up reports it.
    ///
    /// # Errors
    /// The member does not respond.
    pub async fn revision(&self) -> Result<i64, Failure> {
        let up = self
            .members
            .iter()
            .position(super::Member::is_up)
            .unwrap_or_default();
        Ok(self.status(up).await?.revision)
    }

    /// Compacts all history before `revision`; returns once it is removed.
    ///
    /// # Errors
    /// The revision is in the future or already compacted.
    ///
    /// # Cancel safety
    /// If the future is dropped, the history may have been compacted.
    pub async fn compact(&self, revision: i64) -> Result<(), Failure> {
        self.ctl(&["compact", &revision.to_string(), "--physical"])
            .await
            .map(drop)
    }

    /// Writes until the quota is exceeded and the alarm `NOSPACE` is raised. Needs a small quota:
    /// see [`quota_bytes`](super::Options::quota_bytes).
    ///
    /// # Errors
    /// A write failed for another reason.
    ///
    /// # Cancel safety
    /// If the future is dropped, some values have been written; call it again.
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

    /// Frees space after [`fill`](Etcd::fill), as an operator must: deletes, compacts, defragments
    /// each member, and disarms the alarm.
    ///
    /// # Errors
    /// A step failed.
    ///
    /// # Cancel safety
    /// If the future is dropped, some steps have been made; call it again.
    pub async fn make_room(&self) -> Result<(), Failure> {
        self.delete(FILLING_KEY).await?;
        self.compact(self.revision().await?).await?;
        self.ctl(&["defrag"]).await?;
        self.ctl(&["alarm", "disarm"]).await.map(drop)
    }

    pub(super) async fn call(
        &self,
        login: Option<&str>,
        args: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let up = self.members.iter().filter(|member| member.is_up());
        let endpoints: Vec<String> = up.map(|member| member.address().to_string()).collect();
        self.control
            .run(&endpoints.join(","), login, args, input)
            .await
    }
}
