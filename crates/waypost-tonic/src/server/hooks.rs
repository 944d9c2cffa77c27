//! User code that runs around start and stop. Each hook runs in a task of its own: a hook that
//! panics, hangs or blocks its thread ends only itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::Instrument;
use waypost_core::panics::Panicked;

use super::Error;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Hook = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send>;

/// Hooks of one phase, run in the order in which they were added.
pub(super) struct Hooks {
    name: &'static str,
    hooks: Vec<Hook>,
}

impl Hooks {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            hooks: Vec::new(),
        }
    }

    /// Takes the hooks out, and leaves none.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.name))
    }

    pub(super) fn push<H, F>(&mut self, hook: H)
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.push(Box::new(|| Box::pin(hook())));
    }

    /// Runs all hooks. The first failure or panic ends the run. Dropped, it aborts the running
    /// hook.
    pub(super) async fn run(self) -> Result<(), Error> {
        for hook in self.hooks {
            run(hook).await.map_err(|source| Error::Hook {
                hook: self.name,
                source,
            })?;
        }
        Ok(())
    }

    /// Runs all hooks within `limit`. A failure is logged and the next hook runs, since a stop
    /// cannot be undone.
    pub(super) async fn run_at_stop(self, limit: Duration) {
        let name = self.name;
        let all = async {
            for hook in self.hooks {
                if let Err(error) = run(hook).await {
                    tracing::warn!(hook = name, %error, "hook failed; shutdown continues");
                }
            }
        };
        if timeout(limit, all).await.is_err() {
            tracing::warn!(
                hook = name,
                ?limit,
                "hook timed out and was aborted; shutdown continues"
            );
        }
    }
}

async fn run(hook: Hook) -> Result<(), BoxError> {
    let mut task = JoinSet::new();
    task.spawn(async move { hook().await }.in_current_span());
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(panicked(error)),
        None => Ok(()),
    }
}

fn panicked(error: JoinError) -> BoxError {
    match error.try_into_panic() {
        Ok(payload) => Panicked::from_payload(&*payload).into(),
        Err(cancelled) => cancelled.into(),
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hooks.len(), self.name)
    }
}
