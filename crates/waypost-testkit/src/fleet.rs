//! Set of child processes under one owner.

use std::time::Duration;

use crate::{Child, Failure, Program};

/// Child processes of one test, by name. When dropped, all of them are killed and reaped.
#[derive(Debug, Default)]
pub struct Fleet(Vec<Child>);

impl Fleet {
    /// Creates an empty fleet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts one more process. A name may be used again; [`child`](Fleet::child) then returns the
    /// latest.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        &mut self,
        name: impl Into<String>,
        program: &Program,
    ) -> Result<&mut Child, Failure> {
        self.0.push(Child::start(name, program)?);
        let last = self.0.len() - 1;
        Ok(&mut self.0[last])
    }

    /// Returns the latest child of that name.
    ///
    /// # Panics
    /// The fleet has no such child.
    #[track_caller]
    pub fn child(&mut self, name: &str) -> &mut Child {
        let found = self.0.iter_mut().rev().find(|child| child.name() == name);
        found.unwrap_or_else(|| panic!("the fleet has no {name}"))
    }

    /// Returns all children in the order in which they were started, including those that have
    /// ended.
    pub fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut()
    }

    /// Fails the test if a child does not run.
    ///
    /// # Panics
    /// A child has ended; the message shows its output.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        for child in &mut self.0 {
            child.assert_alive();
        }
    }

    /// Sends SIGTERM to all running children and waits until all have ended.
    ///
    /// # Errors
    /// A child was still running after `within`.
    ///
    /// # Cancel safety
    /// The first poll signals all children; call it again to keep waiting.
    pub async fn stop(&mut self, within: Duration) -> Result<(), Failure> {
        for child in &mut self.0 {
            // A child that has already ended needs no signal.
            let _ = child.sigterm();
        }
        let deadline = tokio::time::Instant::now() + within;
        for child in &mut self.0 {
            child
                .wait(deadline.saturating_duration_since(tokio::time::Instant::now()))
                .await?;
        }
        Ok(())
    }
}
