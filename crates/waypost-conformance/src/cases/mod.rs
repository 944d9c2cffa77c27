//! The cases, by what they are about. A case panics where the promise is broken, and ends early where the harness cannot go on.

pub(crate) mod closing;
pub(crate) mod living;
pub(crate) mod owning;
pub(crate) mod random;
pub(crate) mod reading;
pub(crate) mod watching;

use crate::stage::Skip;

/// How a case ends.
pub(crate) type Verdict = Result<(), Skip>;
