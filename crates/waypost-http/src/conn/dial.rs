//! Dialer of one connection, which then drives it to its end.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use waypost_core::record::Address;

use super::calm::EnhanceYourCalm;
use super::config::ConnectionConfig;
use super::connect::{AddressPolicy, Connect};
use super::connection::Connection;
use super::driver::Driver;
use super::event::EventSender;
use super::handshake::{HandshakeError, handshake};
use super::panic::contain_panic;

/// Maximum number of concurrent dials that have not completed within the slot timeout.
const MAX_SLOW: usize = 512;

/// Dial slots of one client: those of [`max_dials`](crate::ClientConfig::max_dials), and 512 more
/// for dials that have not completed within [`dial_slot_timeout`](ConnectionConfig::dial_slot_timeout), so
/// that frozen nodes do not delay others.
#[derive(Clone, Debug)]
pub(crate) struct DialSlots {
    fast: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl DialSlots {
    /// Creates slots for `max` concurrent dials; 0 counts as 1.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            fast: Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))),
            slow: Arc::new(Semaphore::new(MAX_SLOW)),
        }
    }

    async fn acquire(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.fast)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }

    /// Runs a dial. If it takes longer than `patience`, exchanges its slot for a slow one.
    async fn run<T>(
        &self,
        patience: Duration,
        on_slow: impl FnOnce(),
        dial: impl Future<Output = T>,
    ) -> T {
        let fast = self.acquire().await;
        let mut dial = pin!(dial);
        if let Ok(result) = timeout(patience, dial.as_mut()).await {
            return result;
        }
        on_slow();
        let slow = Arc::clone(&self.slow).acquire_owned();
        let mut exchange = pin!(async { slow.await.expect("the semaphore is never closed") });
        let _slow = tokio::select! {
            biased;
            result = dial.as_mut() => return result,
            slow = exchange.as_mut() => slow,
        };
        drop(fast);
        dial.await
    }
}

/// Dialer and driver of one connection.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// Name of the service whose node is dialled.
    pub(crate) service: Arc<str>,
    pub(crate) address: Address,
    pub(crate) policy: AddressPolicy,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) config: Arc<ConnectionConfig>,
    /// `ENHANCE_YOUR_CALM` state of the peer, which decays while the connection is open.
    pub(crate) calm: EnhanceYourCalm,
}

impl Dialer {
    /// Dials, waits for the server's SETTINGS, and drives the connection until it ends. All events
    /// are sent to `events`, panics of the user's [`Connect`] included.
    ///
    /// # Cancel safety
    /// If dropped, the connection is closed, its calls are lost, and `Ended` is sent.
    pub(crate) async fn run(self, mut events: EventSender, slots: DialSlots) {
        let result = contain_panic(self.drive(&mut events, &slots)).await;
        let result = result.unwrap_or_else(|panic| {
            Err(format!("connection to {}: panicked: {panic}", self.address))
        });
        events.end(result);
    }

    async fn drive(&self, events: &mut EventSender, slots: &DialSlots) -> Result<(), String> {
        let (driver, connection) = slots
            .run(
                self.config.dial_slot_timeout,
                || events.slow(),
                self.dial_in_time(),
            )
            .await?;
        events.ready(&connection);
        drop(connection);
        driver
            .run(events)
            .await
            .map_err(|error| format!("connection to {}: {error}", self.address))
    }

    async fn dial_in_time(&self) -> Result<(Driver, Arc<Connection>), String> {
        let within = self.config.connect_timeout;
        let dialled = timeout(within, self.dial()).await;
        dialled.map_err(|_| format!("connect {}: no SETTINGS within {within:?}", self.address))?
    }

    async fn dial(&self) -> Result<(Driver, Arc<Connection>), String> {
        let failed = |why: &dyn fmt::Display| format!("connect {}: {why}", self.address);
        let begun = Instant::now();
        let io = self
            .connect
            .connect_node(&self.service, &self.address, &self.policy)
            .await
            .map_err(|error| failed(&error))?;
        let shaken = handshake(io)
            .await
            .map_err(|error| failed(&format_args!("{error}{}", self.remedy(&error))))?;
        Ok(Driver::new(shaken, &self.config, self.calm, begun))
    }

    /// Returns what to do about a server that speaks TLS, or may. Servers in Go close the connection
    /// without an alert.
    fn remedy(&self, error: &HandshakeError) -> &'static str {
        match error {
            HandshakeError::SpeaksTls => {
                "; give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA)"
            }
            HandshakeError::Closed if self.connect.scheme() == Scheme::HTTP => {
                "; if it speaks TLS, give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA)"
            }
            _ => "",
        }
    }
}
