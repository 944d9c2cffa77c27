//! Who is picked: filters, subset, strategies, and the balancer that publishes the ready set.
//!
//! Picking has two tempos. When the ready set changes, a strategy builds a picker; per attempt the picker picks, without a lock, a clock
//! or I/O. This room never knows sockets or registries' events; it is told which peers are ready and says which one is next.

mod balancer;
mod filter;
mod named;
mod selector;
mod strategy;
mod subset;

pub use balancer::{Balancer, Candidate, Config, Decision, NodeView, Pick, Pickable};
pub use filter::{Filter, Filters};
pub use named::{StrategyName, UnknownStrategy};
pub use selector::{Next, SelectError, Selector};
pub use strategy::{LeastRequest, PickContext, Picker, Random, RoundRobin, Strategy};
