//! What was tried before a call failed: for the error's text.

use std::fmt;

/// One attempt that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The node's id.
    pub node: String,
    /// The node's address.
    pub address: String,
    /// How it ended.
    pub why: String,
}

/// The attempts of a call that did not answer, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail(Vec<Step>);

impl Trail {
    /// Adds an attempt.
    pub fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// The attempts, in order.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// How many there were.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "; " };
            write!(f, "{comma}{} at {}: {}", step.node, step.address, step.why)?;
        }
        Ok(())
    }
}
