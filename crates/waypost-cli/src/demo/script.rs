//! Script of the demo: the actions on the servers, and their times.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use waypost::Channel;

use super::certificates::DemoCertificates;
use super::fleet::DemoFleet;
use super::load::DemoLoad;
use super::runner::DemoEvent;
use crate::error::CliError;

/// Maximum time for the first connection.
const READY: Duration = Duration::from_secs(10);

/// Maximum time for a server to serve a certificate that was replaced.
const RELOAD: Duration = Duration::from_secs(5);

pub(super) struct DemoScript {
    pub(super) servers: u16,
    pub(super) rate: u32,
    /// Length of the steady phase. After the kill, a third of it passes before another server
    /// starts, and half of it after that.
    pub(super) phase: Duration,
    pub(super) channel: Channel,
    pub(super) events: mpsc::Sender<DemoEvent>,
}

impl DemoScript {
    /// Starts the servers, then the load; restarts every server in turn; kills one, starts another;
    /// replaces the servers' certificate, if there is one; ends the load.
    pub(super) async fn run(
        self,
        fleet: &mut DemoFleet,
        certificates: Option<&mut DemoCertificates>,
    ) -> Result<(), CliError> {
        let slots = usize::from(self.servers);
        self.act(format!("starting {slots} servers")).await;
        fleet.start_all(slots).await?;
        self.channel
            .ready(READY)
            .await
            .map_err(|error| CliError::no(error.to_string()))?;
        self.phase("steady").await;
        let load = DemoLoad::start(self.channel.clone(), self.rate, self.events.clone());
        sleep(self.phase).await;
        self.restart_each(fleet, slots).await?;
        self.kill_one(fleet).await?;
        if let Some(certificates) = certificates {
            self.replace_certificate(fleet, certificates).await?;
        }
        self.emit(|| DemoEvent::End(Instant::now())).await;
        load.finish().await;
        Ok(())
    }

    async fn restart_each(&self, fleet: &mut DemoFleet, slots: usize) -> Result<(), CliError> {
        self.phase("rolling-restart").await;
        for slot in 0..slots {
            let old = fleet.name(slot).to_owned();
            self.act(format!("{old}: SIGTERM")).await;
            fleet.terminate(slot).await?;
            let new = fleet.start(slot).await?;
            self.act(format!("{new} in place of {old}")).await;
        }
        Ok(())
    }

    async fn kill_one(&self, fleet: &mut DemoFleet) -> Result<(), CliError> {
        self.phase("kill").await;
        let old = fleet.name(0).to_owned();
        self.act(format!("{old}: SIGKILL")).await;
        fleet.kill(0).await?;
        sleep(self.phase / 3).await;
        let new = fleet.start(0).await?;
        self.act(format!("{new} in place of {old}")).await;
        sleep(self.phase / 2).await;
        Ok(())
    }

    /// Replaces the certificate, and waits until a handshake with each server shows the new one.
    async fn replace_certificate(
        &self,
        fleet: &DemoFleet,
        certificates: &mut DemoCertificates,
    ) -> Result<(), CliError> {
        self.phase("certificate").await;
        let serial = certificates.replace()?;
        let replaced = Instant::now();
        self.act(format!("certificate replaced: serial {serial}"))
            .await;
        for (name, address) in fleet.addresses() {
            while !certificates.is_served(address).await? {
                if replaced.elapsed() > RELOAD {
                    return Err(CliError::no(format!(
                        "{name} did not serve the new certificate within {RELOAD:?}"
                    )));
                }
                sleep(Duration::from_millis(50)).await;
            }
            let after = replaced.elapsed();
            self.act(format!(
                "{name} serves serial {serial} after {} ms",
                after.as_millis()
            ))
            .await;
            self.emit(|| DemoEvent::CertificateServed(after)).await;
        }
        sleep(self.phase / 3).await;
        Ok(())
    }

    async fn phase(&self, name: &'static str) {
        self.emit(|| DemoEvent::DemoPhase(name, Instant::now()))
            .await;
    }

    async fn act(&self, act: String) {
        self.emit(|| DemoEvent::Act(act)).await;
    }

    /// Sends an event. It is created once the queue has capacity for it, so that its time is right.
    async fn emit(&self, events: impl FnOnce() -> DemoEvent) {
        // The receiver is gone only if the demo is over.
        if let Ok(room) = self.events.reserve().await {
            room.send(events());
        }
    }
}
