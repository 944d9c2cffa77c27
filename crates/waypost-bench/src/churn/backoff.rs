//! CPU share of an idle client whose channel uses 100 nodes that all refuse connections, among many
//! that it knows.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost::Client;
use waypost_testkit::Port;
use waypost_testkit::report::{Result, one_thread};

use crate::cpu::thread_cpu;
use crate::records::{POOL, RecordSet, SERVICE, id};
use crate::registry::PushRegistry;

const UNREACHABLE: usize = 100;
/// Time until backoffs have grown.
const SETTLE: Duration = Duration::from_secs(10);

/// Returns the CPU share over `seconds`, in percent of a core.
pub(super) fn measure(nodes: usize, seconds: u64) -> Result<f64> {
    one_thread()?.block_on(async {
        let refusing = Port::take()?;
        let (records, registry, address) = (
            RecordSet::new(),
            PushRegistry::new(),
            refusing.address().to_string(),
        );
        let record = |number| {
            let id = id(number, 0);
            let pool = if number < UNREACHABLE {
                "used"
            } else {
                "unused"
            };
            (
                RecordSet::key(&id),
                records.json(&id, &address, &[(POOL, pool)]),
            )
        };
        registry.load((0..nodes).map(record))?;
        let client = Client::new(registry.handle());
        let channel = client
            .channel_builder(SERVICE)
            .label(POOL, "used")
            .build()?;
        let _ = channel.snapshot();
        sleep(SETTLE).await;
        let (start, cpu) = (Instant::now(), thread_cpu());
        sleep(Duration::from_secs(seconds)).await;
        let share = (thread_cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        client.close().await;
        Ok(share * 100.0)
    })
}
