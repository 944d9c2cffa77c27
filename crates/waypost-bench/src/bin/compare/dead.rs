//! Failed calls over three endpoints of which one is dead.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use waypost_testkit::report::{Figures, Result, one_thread};

use crate::caller::{Caller, balance_list, ours};
use crate::servers::{RunningServer, addresses};

const CALLS: usize = 3_000;
const CALLERS: usize = 16;
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<Figures> {
    one_thread()?.block_on(async {
        let servers = RunningServer::plain(2).await?;
        // Bound and never listening: no other process gets the port, and connections are refused.
        let dead = TcpSocket::new_v4()?;
        dead.bind(([127, 0, 0, 1], 0).into())?;
        let mut all = addresses(&servers);
        all.insert(1, dead.local_addr()?.to_string());
        let (client, mine) = ours(&all).await?;
        let failed = failed_calls(&mine).await;
        client.close().await;
        let tonic_failed = failed_calls(&balance_list(&all)?).await;
        Ok(figures(failed, tonic_failed))
    })
}

async fn failed_calls(caller: &impl Caller) -> usize {
    let mut callers = JoinSet::new();
    for i in 0..CALLERS {
        let mut caller = caller.clone();
        callers.spawn(async move {
            let mut failed = 0;
            for _ in (i..CALLS).step_by(CALLERS) {
                let answered = timeout(LIMIT, caller.hello(None))
                    .await
                    .is_ok_and(|answer| answer.is_ok());
                failed += usize::from(!answered);
            }
            failed
        });
    }
    callers.join_all().await.into_iter().sum()
}

fn figures(waypost: usize, tonic: usize) -> Figures {
    let percent = |failed: usize| failed as f64 * 100.0 / CALLS as f64;
    let table = format!(
        "three endpoints, one of them dead: failed of {CALLS} calls by {CALLERS} callers\n  \
         waypost       {waypost:>6}  {:>5.1} %\n  balance_list  {tonic:>6}  {:>5.1} %",
        percent(waypost),
        percent(tonic),
    );
    let json = json!({
        "endpoints": 3, "dead": 1, "calls": CALLS, "callers": CALLERS,
        "waypost": { "failed": waypost }, "balance_list": { "failed": tonic },
    });
    Figures {
        table,
        json,
        failures: (waypost > 0)
            .then(|| format!("waypost failed {waypost} calls beside a dead endpoint"))
            .into_iter()
            .collect(),
    }
}
