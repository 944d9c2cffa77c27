//! Task that owns the port and all connections of a proxy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::mode::{Mode, until};
use super::{Counters, Status, relay};
use crate::Port;

/// Serves until it is aborted, or until listening on the port fails.
pub(super) async fn serve(
    port: Port,
    mode: watch::Receiver<Mode>,
    status: watch::Sender<Status>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    let mut listener = None;
    loop {
        let refuse = mode.borrow().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            let Ok(new) = port.listen() else { return };
            listener = Some(new);
        }
        status.send_modify(|status| status.listening = !refuse);
        tokio::select! {
            // Connections that came before a switch to refusing are still accepted.
            biased;
            Some(_) = connections.join_next() => {}
            client = accept(listener.as_ref(), &mode) => {
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(relay::run(client, mode.clone(), Arc::clone(&counters)));
            }
            () = until(&mode, |mode| mode.refuse != refuse) => {}
        }
        status.send_modify(|status| status.open = connections.len());
    }
}

/// Accepts the next connection; waits while the proxy is frozen or refusing.
async fn accept(listener: Option<&TcpListener>, mode: &watch::Receiver<Mode>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        until(mode, |mode| !mode.frozen).await;
        tokio::select! {
            biased;
            () = until(mode, |mode| mode.frozen) => {}
            accepted = listener.accept() => if let Ok((client, _)) = accepted { return client },
        }
    }
}
