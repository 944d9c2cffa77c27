//! `compare-allocations`: number of allocations, and of their bytes, per call of each side.
//!
//! Counting slows every allocation down, so it has a program of its own. `compare` starts it; it
//! prints one line of JSON.

#[expect(dead_code, reason = "shared with compare, which uses all of it")]
mod caller;
#[expect(dead_code, reason = "shared with compare, which uses all of it")]
mod servers;

use std::process::ExitCode;

use caller::{Caller, balance_list, ours};
use serde_json::{Value, json};
use servers::{RunningServer, addresses};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use waypost_testkit::report::{Result, exit, one_thread};

const SERVERS: usize = 4;
const CALLERS: usize = 64;
const CALLS_EACH: usize = 200;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("server") => servers::serve(&args[1..]),
        _ => count().map(|counted| println!("{counted}")),
    };
    exit("compare-allocations", result.map(|()| true))
}

fn count() -> Result<Value> {
    let runtime = one_thread()?;
    let servers = runtime.block_on(RunningServer::plain(SERVERS))?;
    let addresses = addresses(&servers);
    let (client, mine) = runtime.block_on(ours(&addresses))?;
    let theirs = {
        let _context = runtime.enter();
        balance_list(&addresses)?
    };
    let counted = json!({ "waypost": per_call(&runtime, &mine)?, "balance_list": per_call(&runtime, &theirs)? });
    runtime.block_on(client.close());
    // Child processes are reaped in the runtime that started them.
    let _context = runtime.enter();
    drop(servers);
    Ok(counted)
}

/// Returns all allocations of this thread, those of the connections' tasks included, divided by the
/// number of calls.
fn per_call(runtime: &Runtime, caller: &impl Caller) -> Result<Value> {
    runtime.block_on(call(caller))?;
    let mut result = Ok(());
    let info = allocation_counter::measure(|| result = runtime.block_on(call(caller)));
    result?;
    let each = |total: u64| (total as f64 / (CALLERS * CALLS_EACH) as f64 * 10.0).round() / 10.0;
    Ok(json!({ "allocations": each(info.count_total), "bytes": each(info.bytes_total) }))
}

async fn call(caller: &impl Caller) -> Result<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut caller = caller.clone();
        callers.spawn(async move {
            for _ in 0..CALLS_EACH {
                caller.hello(None).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}
