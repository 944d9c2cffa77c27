//! Tables and a property for the machine, and the task in paused time: against a scripted registry, and against the one in memory. Ends
//! of runtimes and panics in real time.

mod lifetime;
mod machine;
mod memory;
mod property;
mod scripted;
mod task;

use tokio::time::Instant;

#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning; it is only counted from")]
fn start() -> Instant {
    Instant::from_std(std::time::Instant::now())
}
