//! Fixtures and fault injection for Waypost's own tests: a [`Fleet`] of real processes, a real
//! [`etcd`], a [`Proxy`] that delays, resets and discards, [`hostile`] servers, hosts in network
//! namespaces ([`netns`]), the [`paths`] of the workspace's binaries, and the [`report`] of
//! measurements.
//!
//! Everything is owned: all that a test starts ends when its value is dropped. Every wait has a
//! deadline, and its failure shows the output of the process. The testkit uses only loopback, and
//! namespaces and processes that it created itself.

mod child;
pub mod etcd;
mod failure;
mod fleet;
pub mod hostile;
pub mod netns;
mod output;
pub mod paths;
mod port;
mod program;
mod proxy;
pub mod report;

pub use child::Child;
pub use failure::Failure;
pub use fleet::Fleet;
pub use port::Port;
pub use program::Program;
pub use proxy::Proxy;
