//! Failure of a call without any endpoint, within its deadline of 200 ms.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};
use waypost_testkit::report::{Figures, Result, one_thread};

use crate::caller::{Caller, balance_channel, ours};

const DEADLINE: Duration = Duration::from_millis(200);
const WITHIN: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(2);

pub(crate) fn run() -> Result<Figures> {
    one_thread()?.block_on(async {
        let (client, mine) = ours(&[]).await?;
        let waypost = one_call(mine).await;
        client.close().await;
        // Keep the sender, so that the set is empty and not closed.
        let (_changes, theirs) = balance_channel();
        Ok(figures(&waypost, &one_call(theirs).await))
    })
}

/// Result of a call with a deadline, and the time it took.
struct EmptyEnd {
    after: Duration,
    how: String,
}

async fn one_call(mut caller: impl Caller) -> EmptyEnd {
    let start = Instant::now();
    let how = match timeout(CAP, caller.hello(Some(DEADLINE))).await {
        Ok(Ok(())) => "answered".to_owned(),
        Ok(Err(status)) => format!("{:?}", status.code()),
        Err(_) => "still waiting".to_owned(),
    };
    EmptyEnd {
        after: start.elapsed(),
        how,
    }
}

fn figures(waypost: &EmptyEnd, tonic: &EmptyEnd) -> Figures {
    let ms = |ended: &EmptyEnd| ended.after.as_secs_f64() * 1e3;
    let table = format!(
        "no endpoint, a deadline of {} ms (given up after {} ms)\n  \
         waypost          {:>6.0} ms  {}\n  balance_channel  {:>6.0} ms  {}",
        DEADLINE.as_millis(),
        CAP.as_millis(),
        ms(waypost),
        waypost.how,
        ms(tonic),
        tonic.how,
    );
    let side = |ended: &EmptyEnd| json!({ "after_ms": ms(ended).round(), "ended": ended.how });
    let json = json!({
        "deadline_ms": DEADLINE.as_millis() as u64, "cap_ms": CAP.as_millis() as u64,
        "waypost": side(waypost), "balance_channel": side(tonic),
    });
    let failure = (waypost.after > WITHIN).then(|| {
        format!(
            "waypost answered after {:.0} ms, not within {WITHIN:?}",
            ms(waypost)
        )
    });
    Figures {
        table,
        json,
        failures: failure.into_iter().collect(),
    }
}
