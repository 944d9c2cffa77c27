//! Tables and a property for the machine, and the driver in paused time: against a scripted registry, and against the one in memory.

mod driver;
mod machine;
mod memory;
mod scripted;
