//! The one task of a server: serve, drain, stop, and if need be cut.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use waypost_core::registrar::Registration;

use super::Error;
use super::connection::Cutter;
use super::health::Health;
use super::hooks::Hooks;

/// How long connections that were cut may take to end; their handlers are dropped, unless one blocks its thread.
const CUT_LIMIT: Duration = Duration::from_secs(1);

/// What the owner wants of a server; it only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Serve,
    Drain,
    Cut,
}

/// What the task holds.
pub(super) struct Run {
    pub(super) transport: tonic::transport::Server,
    pub(super) routes: Routes,
    pub(super) listener: TcpListener,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) registration: Arc<Registration>,
    pub(super) health: Option<Health>,
    pub(super) before_stop: Hooks,
    pub(super) after_stop: Hooks,
    pub(super) drain_limit: Duration,
}

/// How serving ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Drained,
    Cut,
}

impl Run {
    /// Serves until ordered to stop, and stops.
    ///
    /// # Errors
    /// [`Error::Serve`] if tonic gives up.
    pub(super) async fn run(self) -> Result<(), Error> {
        let Self { transport, routes, listener, orders, registration, health, before_stop, mut after_stop, drain_limit } = self;
        let cutter = Cutter::default();
        let (stopping, stopped) = oneshot::channel();
        let leave = leave(&registration, orders.clone(), health.clone(), before_stop, drain_limit);
        let signal = wind_down(leave, orders.clone(), health.clone(), stopping);
        let end = {
            let serve = transport.serve_with_incoming_shutdown(routes, cutter.incoming(listener), signal);
            let mut serve = std::pin::pin!(serve);
            tokio::select! {
                biased;
                result = &mut serve => result.map(|()| End::Drained).map_err(Error::Serve),
                why = overdue(stopped, orders, drain_limit) => {
                    let connections = cutter.cut();
                    tracing::warn!(connections, why, "cutting what is in flight");
                    let _ = timeout(CUT_LIMIT, serve).await;
                    Ok(End::Cut)
                }
                never = follow(health.as_ref(), &registration) => match never {},
            }
        };
        drop(cutter);
        if !matches!(end, Ok(End::Cut)) {
            close(registration).await;
            after_stop.run_at_the_end(drain_limit).await;
        }
        end.map(drop)
    }
}

/// On the order to drain: hooks, health, out of the registry, and the drain delay.
fn leave(
    registration: &Registration,
    mut orders: watch::Receiver<Order>,
    health: Option<Health>,
    mut before_stop: Hooks,
    limit: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    registration.drain_on(async move {
        ordered(&mut orders, Order::Drain).await;
        before_stop.run_at_the_end(limit).await;
        if let Some(health) = health {
            health.draining().await;
        }
    })
}

/// Resolves when the server is to stop accepting: it has left, or was ordered to cut.
async fn wind_down(
    leave: impl Future<Output = ()>,
    mut orders: watch::Receiver<Order>,
    health: Option<Health>,
    stopping: oneshot::Sender<()>,
) {
    tokio::select! {
        () = leave => {}
        () = ordered(&mut orders, Order::Cut) => {}
    }
    if let Some(health) = health {
        health.end().await;
    }
    let _ = stopping.send(());
}

/// Resolves when what is in flight has had its time, with the reason.
async fn overdue(stopped: oneshot::Receiver<()>, mut orders: watch::Receiver<Order>, limit: Duration) -> &'static str {
    let over = async {
        let _ = stopped.await;
        sleep(limit).await;
    };
    tokio::select! {
        () = over => "the drain limit is over",
        () = ordered(&mut orders, Order::Cut) => "stopped twice",
    }
}

/// Waits for `order` or more; an owner that is gone orders nothing.
async fn ordered(orders: &mut watch::Receiver<Order>, order: Order) {
    if orders.wait_for(|now| *now >= order).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn follow(health: Option<&Health>, registration: &Registration) -> Infallible {
    if let Some(health) = health {
        health.follow(registration.watch()).await;
    }
    std::future::pending().await
}

/// Joins a registration that has left, or takes it out if serving failed.
async fn close(registration: Arc<Registration>) {
    let Some(registration) = Arc::into_inner(registration) else { return };
    if let Err(error) = registration.close().await {
        tracing::warn!(error = %error.chain(), "left without being deregistered; the record expires by itself");
    }
}
