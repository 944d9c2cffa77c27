//! Dialling one member, and running the connection.
//!
//! It is nobody's: who asked for it may have no time left when it is there, and the next who asks finds it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use waypost_http::single::{Driver, KeepAlive, Single};
use waypost_http::{AddressPolicy, Connect};

use super::slot::Line;
use super::{Member, now};

/// How long one waits for a member's hello before asking another.
pub(super) const DIAL: Duration = Duration::from_millis(900);

/// How long a hello may take at all: over TLS it is three ways there and back, and the member may be far away.
const LONGEST_DIAL: Duration = Duration::from_millis(3_600);

/// Dials, says so on the line, and runs the connection to its end.
pub(super) async fn serve(
    member: Arc<Member>,
    connect: Arc<dyn Connect>,
    line: Line,
    sender: watch::Sender<Option<Single>>,
    news: Arc<Notify>,
) {
    let dialled = dial(&member, &*connect).await.map(|(single, driver)| {
        member.slot().answers();
        sender.send_replace(Some(single));
        driver
    });
    if let Err(why) = &dialled {
        tell(&member, member.fails(why.clone()), why);
        member.slot().hang_up(&line);
    }
    // Who holds the line holds the connection, and else nobody.
    drop((sender, line));
    news.notify_waiters();
    if let Ok(driver) = dialled {
        drive(&member, driver).await;
    }
}

async fn dial(member: &Member, connect: &dyn Connect) -> Result<(Single, Driver), String> {
    let policy = AddressPolicy { loopback: true };
    let mut connecting = pin!(Single::connect(connect, &member.address, &policy, KeepAlive::default()));
    let connected = match timeout(DIAL, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let (why, more) = (format!("no hello within {DIAL:?}"), LONGEST_DIAL - DIAL);
            tell(member, member.slot().failed(now() + more, why.clone()), &why);
            let connected = timeout(more, connecting).await;
            connected.map_err(|_| format!("no hello within {LONGEST_DIAL:?}"))?
        }
    };
    connected.map_err(|error| with_hint(error.to_string(), connect.scheme() == Scheme::HTTPS))
}

fn tell(member: &Member, first: bool, why: &str) {
    if first {
        tracing::info!(member = %member.address, why, "etcd member unreachable");
    }
}

async fn drive(member: &Member, driver: Driver) {
    match driver.run().await {
        Ok(()) => tracing::debug!(member = %member.address, "connection closed"),
        Err(error) => tracing::info!(member = %member.address, %error, "etcd connection lost"),
    }
}

/// Says what to do where the other side says only that it hung up, or TLS only what it got.
fn with_hint(why: String, encrypted: bool) -> String {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    let hint = match encrypted {
        true if says(&["CertificateRequired", "BadCertificate", "HandshakeFailure"]) => {
            "does it want a certificate? show yours with cert= and key="
        }
        true if says(&["invalid peer certificate"]) => "is it signed by ca=, and for this host or server_name=?",
        true if says(&["InvalidContentType", "handshake eof"]) => "does it encrypt at all? etcd:// is without",
        // Which of the two came first is chance.
        true if says(&["broken pipe", "reset", "closed"]) => {
            "does it want a certificate? show yours with cert= and key=; or does it not encrypt? etcd:// is without"
        }
        false if says(&["closed", "reset", "protocol error", "frame"]) => "does it want TLS? etcds:// is with",
        _ => return why,
    };
    format!("{why} ({hint})")
}
