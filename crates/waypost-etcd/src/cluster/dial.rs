//! Dialing of one member, and the task that runs its connection.
//!
//! The dial belongs to no caller: the one that started it may have timed out when it completes, and
//! the next one uses the connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use waypost_http::direct::{ConnectionDriver, DirectConnection};
use waypost_http::{AddressPolicy, Connect, ConnectionConfig, Silence};

use super::member::Dial;
use super::{ClusterMember, now};

/// Time that a caller waits for a member's handshake before it tries another.
pub(super) const DIAL_WAIT: Duration = Duration::from_millis(900);

/// Timeout of a handshake. Over TLS it takes three round trips, and the member may be distant.
const DIAL_TIMEOUT: Duration = Duration::from_millis(3_600);

/// Dials the member, publishes the connection, and runs it to its end.
pub(super) async fn run(
    member: Arc<ClusterMember>,
    connect: Arc<dyn Connect>,
    dial: Dial,
    sender: watch::Sender<Option<DirectConnection>>,
    dial_ended: Arc<Notify>,
) {
    let connected = connect_member(&member, &*connect)
        .await
        .map(|(connection, driver)| {
            member.state().on_connected();
            sender.send_replace(Some(connection));
            driver
        });
    if let Err(error) = &connected {
        log_unreachable(&member, member.record_failure(error.clone()), error);
        member.state().remove_dial(&dial);
    }
    // Only the holders of the `Dial` keep the connection open.
    drop((sender, dial));
    dial_ended.notify_waiters();
    if let Ok(driver) = connected {
        drive(&member, driver).await;
    }
}

async fn connect_member(
    member: &ClusterMember,
    connect: &dyn Connect,
) -> Result<(DirectConnection, ConnectionDriver), String> {
    let (policy, config) = (AddressPolicy { loopback: true }, connection_config());
    let mut connecting = pin!(DirectConnection::connect(
        connect,
        &member.address,
        &policy,
        &config
    ));
    let connected = match timeout(DIAL_WAIT, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let (error, remaining) = (
                format!("no handshake within {DIAL_WAIT:?}"),
                DIAL_TIMEOUT - DIAL_WAIT,
            );
            log_unreachable(
                member,
                member
                    .state()
                    .record_failure(now() + remaining, error.clone()),
                &error,
            );
            let connected = timeout(remaining, connecting).await;
            connected.map_err(|_| format!("no handshake within {DIAL_TIMEOUT:?}"))?
        }
    };
    connected.map_err(|error| with_hint(error.to_string(), connect.scheme() == Scheme::HTTPS))
}

/// Returns the settings of a connection to etcd. Its watches and leases have deadlines of their own,
/// so that an idle connection needs no proof; a silent one is dead 9 s after the last byte. etcd
/// accepts a PING every 5 s.
fn connection_config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::MAX;
    config.silence = Silence::Every(Duration::from_secs(6));
    config.ping_timeout = Duration::from_secs(3);
    config.close_timeout = config.ping_timeout;
    config
}

fn log_unreachable(member: &ClusterMember, is_first: bool, error: &str) {
    if is_first {
        tracing::info!(member = %member.address, error, "etcd member unreachable");
    }
}

async fn drive(member: &ClusterMember, driver: ConnectionDriver) {
    match driver.run().await {
        Ok(()) => tracing::debug!(member = %member.address, "etcd connection closed"),
        Err(error) => tracing::info!(member = %member.address, %error, "etcd connection lost"),
    }
}

/// Appends a hint for errors where the peer only closed the connection, or TLS only reports the
/// bytes received.
fn with_hint(error: String, is_tls: bool) -> String {
    let has = |texts: &[&str]| texts.iter().any(|text| error.contains(text));
    let hint = match is_tls {
        true if has(&["CertificateRequired", "BadCertificate", "HandshakeFailure"]) => {
            "the member requires a client certificate: set cert= and key="
        }
        true if has(&["invalid peer certificate"]) => {
            "the certificate must be signed by ca=, for this host or server_name="
        }
        true if has(&["InvalidContentType", "handshake eof"]) => {
            "the member does not speak TLS: use etcd://"
        }
        // The order of these two errors is random.
        true if has(&["broken pipe", "reset", "closed"]) => {
            "the member requires a client certificate: set cert= and key=; or it does not speak TLS: use etcd://"
        }
        false if has(&["closed", "reset", "protocol error", "frame"]) => {
            "the member speaks TLS: use etcds://"
        }
        _ => return error,
    };
    format!("{error} ({hint})")
}
