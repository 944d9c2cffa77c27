//! Task of a server: it serves, drains, stops, and aborts the calls in flight if necessary.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use waypost_core::panics::contain_future;
use waypost_core::registrar::Registration;
use waypost_core::registry;

use super::Error;
use super::connection::ConnectionGuard;
use super::deadline::Deadlines;
use super::health::HealthServices;
use super::hooks::Hooks;
use super::layers::Stack;
#[cfg(feature = "tls")]
use super::tls::TlsIncoming;

/// Maximum time of each step of a stop that was ordered twice, and for aborted connections to end.
/// Their handlers are dropped, unless one blocks its thread.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

/// Order to a server. It is never weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Serve,
    Drain,
    Abort,
}

/// State of the task.
pub(super) struct Run {
    pub(super) transport: tonic::transport::Server,
    pub(super) service: Stack,
    pub(super) listener: TcpListener,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) registration: Arc<Registration>,
    pub(super) health: Option<HealthServices>,
    pub(super) before_stop: Hooks,
    pub(super) after_stop: Hooks,
    pub(super) drain_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(super) acceptor: Option<waypost_http::TlsAcceptor>,
}

/// Reason for aborting the calls in flight.
#[derive(Clone, Copy)]
enum Overdue {
    DrainTimeout,
    Ordered,
}

impl Run {
    /// Serves until ordered to stop, and stops. However serving ended, the record is removed and
    /// the hooks of the stop run.
    ///
    /// # Errors
    /// [`Error::Serve`] if tonic fails, [`Error::Panicked`] if serving panics.
    pub(super) async fn run(self) -> Result<(), Error> {
        let Self {
            transport,
            service,
            listener,
            orders,
            registration,
            health,
            before_stop,
            after_stop,
            drain_timeout,
            #[cfg(feature = "tls")]
            acceptor,
        } = self;
        let drain = drain(
            &registration,
            orders.clone(),
            health.clone(),
            before_stop,
            drain_timeout,
        );
        let (stopping, stopped) = oneshot::channel();
        let shutdown = graceful_shutdown(drain, orders.clone(), health.clone(), stopping);
        let guard = ConnectionGuard::default();
        let incoming = guard.incoming(listener);
        let serve = async {
            let service = Deadlines(service);
            #[cfg(feature = "tls")]
            if let Some(acceptor) = acceptor {
                let incoming = TlsIncoming::new(incoming, acceptor);
                return transport
                    .serve_with_incoming_shutdown(service, incoming, shutdown)
                    .await;
            }
            transport
                .serve_with_incoming_shutdown(service, incoming, shutdown)
                .await
        };
        let serve = serve_until(
            serve,
            overdue(stopped, orders.clone(), drain_timeout),
            &guard,
        );
        let end = tokio::select! {
            end = contain_future(serve) => end.unwrap_or(Err(Error::Panicked)),
            never = follow(health.as_ref(), &registration) => match never {},
        };
        drop(guard);
        let limit = if *orders.borrow() == Order::Abort {
            ABORT_LIMIT
        } else {
            Duration::MAX
        };
        leave(&registration, limit).await;
        after_stop.run_at_stop(drain_timeout.min(limit)).await;
        end
    }
}

/// Drives `serve` to its end, or aborts its connections when `overdue` resolves.
async fn serve_until(
    serve: impl Future<Output = Result<(), tonic::transport::Error>>,
    overdue: impl Future<Output = Overdue>,
    guard: &ConnectionGuard,
) -> Result<(), Error> {
    let mut serve = std::pin::pin!(serve);
    let reason = tokio::select! {
        biased;
        result = &mut serve => return result.map_err(Error::Serve),
        reason = overdue => reason,
    };
    let connections = guard.abort();
    match reason {
        Overdue::DrainTimeout => tracing::warn!(
            connections,
            "drain timeout expired; aborting requests in flight"
        ),
        Overdue::Ordered => tracing::info!(
            connections,
            "second stop signal; aborting requests in flight"
        ),
    }
    timeout(ABORT_LIMIT, serve)
        .await
        .unwrap_or(Ok(()))
        .map_err(Error::Serve)
}

/// Waits for the order to drain. Then runs the hooks, reports the server as not serving, leaves the
/// registry, and waits for the drain delay.
fn drain(
    registration: &Registration,
    mut orders: watch::Receiver<Order>,
    health: Option<HealthServices>,
    before_stop: Hooks,
    limit: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    registration.drain_on(async move {
        ordered(&mut orders, Order::Drain).await;
        before_stop.run_at_stop(limit).await;
        if let Some(health) = health {
            health.draining().await;
        }
    })
}

/// Resolves when the server must stop accepting: it has drained, or was ordered to abort.
async fn graceful_shutdown(
    drain: impl Future<Output = ()>,
    mut orders: watch::Receiver<Order>,
    health: Option<HealthServices>,
    stopping: oneshot::Sender<()>,
) {
    tokio::select! {
        () = drain => {}
        () = ordered(&mut orders, Order::Abort) => {}
    }
    if let Some(health) = health {
        health.end().await;
    }
    let _ = stopping.send(());
}

/// Resolves when the calls in flight must be aborted, with the reason.
async fn overdue(
    stopped: oneshot::Receiver<()>,
    mut orders: watch::Receiver<Order>,
    limit: Duration,
) -> Overdue {
    let over = async {
        let _ = stopped.await;
        sleep(limit).await;
    };
    tokio::select! {
        () = over => Overdue::DrainTimeout,
        () = ordered(&mut orders, Order::Abort) => Overdue::Ordered,
    }
}

/// Waits for `order` or a stronger one. A dropped owner gives no order.
async fn ordered(orders: &mut watch::Receiver<Order>, order: Order) {
    if orders.wait_for(|now| *now >= order).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn follow(health: Option<&HealthServices>, registration: &Registration) -> Infallible {
    if let Some(health) = health {
        health.follow(registration.watch()).await;
    }
    std::future::pending().await
}

/// Joins a registration that has left, or takes its record out if it has not.
async fn leave(registration: &Registration, limit: Duration) {
    match timeout(limit, registration.leave()).await {
        // A static list has no records of its own, and a closed registry has taken care of its
        // records.
        Ok(Ok(()) | Err(registry::Error::Unsupported { .. } | registry::Error::Closed)) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = %error.chain(), "deregistration fails; the record expires by its TTL");
        }
        Err(_) => tracing::warn!(
            ?limit,
            "second stop signal before deregistration; the record expires by its TTL"
        ),
    }
}
