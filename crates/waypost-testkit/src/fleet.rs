//! Many processes under one owner.

use std::time::Duration;

use crate::{Child, Failure, Program};

/// The processes of one test, by name. Dropped, all of them are killed and reaped.
#[derive(Debug, Default)]
pub struct Fleet(Vec<Child>);

impl Fleet {
    /// A fleet of none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts one more. A name may be used again: [`child`](Fleet::child) is then the latest.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self, name: impl Into<String>, program: &Program) -> Result<&mut Child, Failure> {
        self.0.push(Child::start(name, program)?);
        let last = self.0.len() - 1;
        Ok(&mut self.0[last])
    }

    /// The latest child of that name.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn child(&mut self, name: &str) -> &mut Child {
        let found = self.0.iter_mut().rev().find(|child| child.name() == name);
        found.unwrap_or_else(|| panic!("the fleet has no {name}"))
    }

    /// All of them, in the order they were started, the dead included.
    pub fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut()
    }

    /// Fails the test if one of them does not run.
    ///
    /// # Panics
    /// One has ended; the message shows what it said.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        for child in &mut self.0 {
            child.assert_alive();
        }
    }

    /// Asks all that run to end (SIGTERM), and waits for all.
    ///
    /// # Errors
    /// One of them was still running after `within`.
    ///
    /// # Cancel safety
    /// All have been asked at the first poll; call it again to wait on.
    pub async fn stop(&mut self, within: Duration) -> Result<(), Failure> {
        for child in &mut self.0 {
            // One that has ended already is as asked.
            let _ = child.sigterm();
        }
        let deadline = tokio::time::Instant::now() + within;
        for child in &mut self.0 {
            child.wait(deadline.saturating_duration_since(tokio::time::Instant::now())).await?;
        }
        Ok(())
    }
}
