//! Cases by subject. A case panics if the contract is broken, and ends early if the harness lacks
//! an ability.

pub(crate) mod closing;
pub(crate) mod living;
pub(crate) mod owning;
pub(crate) mod random;
pub(crate) mod reading;
pub(crate) mod watching;

use crate::context::Skip;

/// Result of a case.
pub(crate) type Verdict = Result<(), Skip>;
