//! Health service `grpc.health.v1`: serving, not serving while draining, and the state of the
//! registration.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use waypost_core::registrar::State;

/// Name under which the health service reports the registration: SERVING while the server is
/// registered.
///
/// An outage of the registry makes no server unhealthy, so the registration has a name of its own.
pub const REGISTRATION: &str = "waypost.registration";

/// Health of a server, its services, and its registration.
#[derive(Clone, Debug)]
pub(super) struct HealthServices {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl HealthServices {
    pub(super) fn new(reporter: HealthReporter, services: Vec<&'static str>) -> Self {
        Self { reporter, services }
    }

    /// Returns the name of the server as a whole, which is empty, and of each service.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("").chain(self.services.iter().copied())
    }

    pub(super) async fn serving(&self) {
        for name in self.names() {
            self.reporter
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        self.reporter
            .set_service_status(REGISTRATION, ServingStatus::NotServing)
            .await;
    }

    pub(super) async fn draining(&self) {
        for name in self.names() {
            self.reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
    }

    /// Ends the streams of watching clients, which would otherwise hold up the drain.
    pub(super) async fn end(&self) {
        let mut reporter = self.reporter.clone();
        for name in self.names().chain([REGISTRATION]) {
            reporter.clear_service_status(name).await;
        }
    }

    /// Reports the state of the registration until it has left.
    pub(super) async fn follow(&self, mut registration: watch::Receiver<State>) {
        loop {
            let state = registration.borrow_and_update().clone();
            let status = if state.is_registered() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            self.reporter.set_service_status(REGISTRATION, status).await;
            if state.is_left() || registration.changed().await.is_err() {
                return;
            }
        }
    }
}
