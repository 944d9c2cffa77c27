//! Registry for tests that keeps one record and behaves as configured: respond, fail, hang, panic.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::record::{Node, Service};
use crate::registry::{
    DeregisterOptions, Error, Options, RegisterOptions, Registry, Result, WatchOptions, Watcher,
};

/// Behaviour of the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    Away,
    Hangs,
    Panics,
    Denies,
    Unsupported,
    Closed,
}

/// Received request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Register,
    Deregister,
}

#[derive(Debug, Default)]
struct Inside {
    mood: Mood,
    record: Option<Service>,
    asked: Vec<(Instant, Asked)>,
}

/// Clonable handle on the registry.
#[derive(Clone, Debug)]
pub(super) struct Scripted {
    inside: Arc<Mutex<Inside>>,
    options: Arc<Options>,
}

impl Scripted {
    pub(super) fn new(mood: Mood) -> Self {
        Self::with_timeout(mood, Options::new().timeout)
    }

    pub(super) fn with_timeout(mood: Mood, timeout: Duration) -> Self {
        let inside = Inside {
            mood,
            ..Inside::default()
        };
        let options = Options {
            timeout,
            ..Options::new()
        };
        Self {
            inside: Arc::new(Mutex::new(inside)),
            options: Arc::new(options),
        }
    }

    pub(super) fn set(&self, mood: Mood) {
        self.inside.lock().unwrap().mood = mood;
    }

    pub(super) fn lose(&self) {
        self.inside.lock().unwrap().record = None;
    }

    pub(super) fn node(&self) -> Option<Node> {
        self.inside
            .lock()
            .unwrap()
            .record
            .as_ref()
            .map(|service| service.nodes[0].clone())
    }

    /// Returns the requests received since `start`, with their times in milliseconds.
    pub(super) fn asked(&self, start: Instant) -> Vec<(u128, Asked)> {
        self.inside
            .lock()
            .unwrap()
            .asked
            .iter()
            .map(|(at, asked)| ((*at - start).as_millis(), *asked))
            .collect()
    }

    async fn ask(&self, asked: Asked) -> Result<()> {
        let mood = {
            let mut inside = self.inside.lock().unwrap();
            inside.asked.push((Instant::now(), asked));
            inside.mood
        };
        match mood {
            Mood::Well => Ok(()),
            Mood::Away => Err(Error::unavailable(
                "scripted",
                "no route",
                "down for the test",
            )),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("intended panic"),
            Mood::Denies => Err(Error::Denied {
                registry: "scripted",
                what: "no permission".to_owned(),
                source: None,
            }),
            Mood::Unsupported => Err(Error::Unsupported {
                registry: "scripted",
                operation: "do that",
            }),
            Mood::Closed => Err(Error::Closed),
        }
    }
}

impl Registry for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        self.ask(Asked::Register).await?;
        self.inside.lock().unwrap().record = Some(options.stamp(service));
        Ok(())
    }

    async fn deregister(&self, _: &Service, options: &DeregisterOptions) -> Result<()> {
        self.ask(Asked::Deregister).await?;
        self.inside
            .lock()
            .unwrap()
            .record
            .take_if(|record| options.may_remove(&record.nodes[0].metadata));
        Ok(())
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        Err(Error::NotFound {
            service: name.to_owned(),
        })
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        Ok(Vec::new())
    }

    async fn watch(&self, _: &WatchOptions) -> Result<Watcher> {
        Err(Error::Unsupported {
            registry: "scripted",
            operation: "watch",
        })
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn local_addresses(&self) -> Vec<IpAddr> {
        let mood = self.inside.lock().unwrap().mood;
        match mood {
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("intended panic"),
            _ => Vec::new(),
        }
    }
}
