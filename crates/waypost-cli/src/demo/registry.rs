//! Registry of the demo: the given one, or one of its own that is removed at the end.

use tempfile::TempDir;

use super::etcd::DemoEtcd;
use crate::error::CliError;

pub(super) enum DemoRegistry {
    /// Registry that was given. It may hold other greeters.
    Given(String),
    TemporaryDir(TempDir),
    DemoEtcd(Box<DemoEtcd>),
}

impl DemoRegistry {
    /// Chooses the registry at `given`, else an etcd of the demo's own if `etcd` is set, else a
    /// fresh directory.
    pub(super) async fn choose(given: Option<String>, etcd: bool) -> Result<Self, CliError> {
        match given {
            Some(_) if etcd => Err(CliError::usage(
                "--etcd starts an etcd of its own, --registry names one: drop one of them",
            )),
            Some(url) => Ok(Self::Given(url)),
            None if etcd => Ok(Self::DemoEtcd(Box::new(DemoEtcd::start().await?))),
            None => Ok(Self::TemporaryDir(TempDir::with_prefix("waypost-demo-")?)),
        }
    }

    /// Waits until the registry can be used.
    pub(super) async fn ready(&mut self) -> Result<(), CliError> {
        match self {
            Self::DemoEtcd(etcd) => etcd.serving().await,
            Self::Given(_) | Self::TemporaryDir(_) => Ok(()),
        }
    }

    /// Returns the URL of the registry, secrets included.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Given(url) => url.clone(),
            Self::TemporaryDir(dir) => format!("local://{}", dir.path().display()),
            Self::DemoEtcd(etcd) => etcd.url().to_owned(),
        }
    }

    /// Returns true if the registry may hold other greeters.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Given(_))
    }

    /// Returns the version of the etcd that was started.
    pub(super) fn etcd(&self) -> Option<String> {
        match self {
            Self::DemoEtcd(etcd) => Some(etcd.version().to_string()),
            Self::Given(_) | Self::TemporaryDir(_) => None,
        }
    }

    /// Waits until the etcd that was started ends by itself.
    pub(super) async fn failed(&mut self) -> CliError {
        match self {
            Self::DemoEtcd(etcd) => etcd.failed().await,
            Self::Given(_) | Self::TemporaryDir(_) => std::future::pending().await,
        }
    }

    /// Removes the registry if the demo created it.
    pub(super) async fn clear(self) -> Result<(), CliError> {
        match self {
            Self::Given(_) => Ok(()),
            Self::TemporaryDir(dir) => Ok(dir.close()?),
            Self::DemoEtcd(etcd) => etcd.end().await,
        }
    }
}
