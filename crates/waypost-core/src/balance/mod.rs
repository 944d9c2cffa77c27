//! Balancing: filters, subset, strategies, and the balancer that publishes the ready set.
//!
//! The work is split between two rates. When the ready set changes, a strategy builds a picker. For
//! each attempt the picker picks, without a lock, a clock or I/O. This module does not depend on
//! sockets or on the events of registries: its input is the set of ready peers, its output the next
//! peer.

mod balancer;
mod filter;
mod judgement;
mod node_view;
mod ready_set;
mod selector;
mod strategy;
mod strategy_name;
pub mod subset;
#[cfg(test)]
mod testing;

pub use balancer::{Balancer, Config, Pick, Pickable};
pub use filter::{Filter, Filters};
pub use judgement::{Basis, Judgement, Judgements, Observed};
pub use node_view::{Decision, NodeView};
pub use ready_set::ReadySet;
pub use selector::{NodeIter, SelectError, SelectedNode, Selector};
pub use strategy::{BuildContext, LeastRequest, PickContext, Picker, Random, RoundRobin, Strategy};
pub use strategy_name::{StrategyName, UnknownStrategy};
