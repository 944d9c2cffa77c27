//! What the user wants done around start and stop.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;

use super::Error;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Hook = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send>;

/// Hooks of one moment, run in the order they were given.
pub(super) struct Hooks {
    name: &'static str,
    hooks: Vec<Hook>,
}

impl Hooks {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, hooks: Vec::new() }
    }

    pub(super) fn push<H, F>(&mut self, hook: H)
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.push(Box::new(|| Box::pin(hook())));
    }

    /// Runs them; the first that fails ends it.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        for hook in self.hooks.drain(..) {
            hook().await.map_err(|source| Error::Hook { hook: self.name, source })?;
        }
        Ok(())
    }

    /// Runs them all within `limit`; what fails is logged, since nothing can be undone any more.
    pub(super) async fn run_at_the_end(&mut self, limit: Duration) {
        let name = self.name;
        let all = async {
            for hook in self.hooks.drain(..) {
                if let Err(error) = hook().await {
                    tracing::warn!(hook = name, %error, "a hook failed; stopping all the same");
                }
            }
        };
        if timeout(limit, all).await.is_err() {
            tracing::warn!(hook = name, ?limit, "a hook took too long; stopping all the same");
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hooks.len(), self.name)
    }
}
