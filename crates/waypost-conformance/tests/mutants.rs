//! The suite finds what is wrong: mutants of the memory registry, each with a fault of its own, and
//! the cases that fail for it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use waypost_conformance::{Harness, RawChange, Time, check};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Key, Service};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Error, Event, Options, RegisterOptions, Registry, Result,
    SkippedRecords, WatchOptions, Watcher,
};

/// Fault of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No fault: no case fails.
    None,
    /// A record never expires.
    NeverExpires,
    /// A record expires after a third of its TTL.
    ExpiresEarly,
    /// A heartbeat of an unchanged record does not renew it.
    RefreshesNothing,
    /// A heartbeat renews all records of its handle.
    KeepsCoTenants,
    /// A heartbeat writes the record again.
    HeartbeatsEmitEvents,
    /// A registration takes over the record of a live owner.
    TakesOver,
    /// A deregistration removes the record of any owner.
    RemovesOthers,
    /// A deregistration without a record of that name is an error.
    MissingIsAnError,
    /// A node leaves without the mark.
    UnmarkedLeave,
    /// The last event of a node is lost.
    LosesDeletions,
    /// Events come twice.
    RepeatsEvents,
    /// The first item of a watcher is not a `Reset`.
    NoFirstReset,
    /// A watcher of one service gets the events of all.
    WatchesAll,
    /// The list is in reverse order.
    ListsBackwards,
    /// A service has only its first version.
    OneVersion,
    /// Names are not checked.
    AnyName,
    /// TTLs are not checked.
    AnyTtl,
    /// Skipped records are not counted.
    CountsNoSkipped,
    /// A close leaves the records and watchers as they are.
    ClosesNothing,
}

const MUTANTS: [Fault; 19] = [
    Fault::NeverExpires,
    Fault::ExpiresEarly,
    Fault::RefreshesNothing,
    Fault::KeepsCoTenants,
    Fault::HeartbeatsEmitEvents,
    Fault::TakesOver,
    Fault::RemovesOthers,
    Fault::MissingIsAnError,
    Fault::UnmarkedLeave,
    Fault::LosesDeletions,
    Fault::RepeatsEvents,
    Fault::NoFirstReset,
    Fault::WatchesAll,
    Fault::ListsBackwards,
    Fault::OneVersion,
    Fault::AnyName,
    Fault::AnyTtl,
    Fault::CountsNoSkipped,
    Fault::ClosesNothing,
];

#[derive(Debug)]
struct Mutant {
    fault: Fault,
    memory: MemoryRegistry,
    /// Registrations of this handle.
    registered: Mutex<HashMap<Key, (Service, RegisterOptions)>>,
}

impl Mutant {
    fn new(fault: Fault, memory: MemoryRegistry) -> Self {
        Self {
            fault,
            memory,
            registered: Mutex::default(),
        }
    }

    fn registered(&self) -> MutexGuard<'_, HashMap<Key, (Service, RegisterOptions)>> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a registration. Returns true if it is the first one of this record.
    fn remember(&self, service: &Service, options: &RegisterOptions) -> bool {
        let mut registered = self.registered();
        let registration = (service.clone(), options.clone());
        let key = service.entries()[0].key();
        let before = registered.insert(key, registration);
        before.is_none_or(|(before, _)| before != *service)
    }
}

impl Registry for Mutant {
    fn name(&self) -> &'static str {
        "mutant"
    }

    fn options(&self) -> &Options {
        self.memory.options()
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        let (mut service, mut options) = (service.clone(), options.clone());
        match self.fault {
            Fault::NeverExpires => options.ttl = Duration::from_secs(1_000_000),
            Fault::ExpiresEarly => options.ttl = (options.ttl / 3).max(Duration::from_secs(1)),
            Fault::AnyTtl => options.ttl = options.ttl.max(Duration::from_secs(1)),
            Fault::AnyName if service.name.contains('/') => service.name = "any".to_owned(),
            Fault::HeartbeatsEmitEvents => {
                let leave = DeregisterOptions::ours(options.instance.clone());
                let _ = self.memory.deregister(&service, &leave).await;
            }
            Fault::TakesOver => {
                let forced = DeregisterOptions {
                    force: true,
                    ..DeregisterOptions::default()
                };
                let _ = self.memory.deregister(&service, &forced).await;
            }
            Fault::KeepsCoTenants => {
                let others: Vec<_> = self.registered().values().cloned().collect();
                for (service, options) in others {
                    let _ = self.memory.register(&service, &options).await;
                }
            }
            _ => {}
        }
        let is_first = service.nodes.is_empty() || self.remember(&service, &options);
        if self.fault == Fault::RefreshesNothing && !is_first {
            return Ok(());
        }
        self.memory.register(&service, &options).await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        let mut options = options.clone();
        for entry in service.entries() {
            self.registered().remove(&entry.key());
        }
        match self.fault {
            Fault::RemovesOthers => options.force = true,
            Fault::MissingIsAnError if self.memory.get_service(&service.name).await.is_err() => {
                let service = service.name.clone();
                return Err(Error::NotFound { service });
            }
            _ => {}
        }
        self.memory.deregister(service, &options).await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        let name = if self.fault == Fault::AnyName {
            "any"
        } else {
            name
        };
        let mut found = self.memory.get_service(name).await?;
        if self.fault == Fault::OneVersion {
            found.truncate(1);
        }
        Ok(found)
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        let mut found = self.memory.list_services().await?;
        if self.fault == Fault::ListsBackwards {
            found.reverse();
        }
        Ok(found)
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        let mut options = options.clone();
        if self.fault == Fault::WatchesAll {
            options.service = None;
        }
        let inner = self.memory.watch(&options).await?;
        Ok(Watcher::new(MutantStream {
            fault: self.fault,
            inner,
            is_first: true,
            again: None,
        }))
    }

    fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        match self.fault {
            Fault::CountsNoSkipped => SkippedRecords::default(),
            _ => self.memory.skipped(service),
        }
    }

    async fn close(&self) -> Result<()> {
        match self.fault {
            Fault::ClosesNothing => Ok(()),
            _ => self.memory.close().await,
        }
    }
}

/// Events of a watcher, with the fault.
struct MutantStream {
    fault: Fault,
    inner: Watcher,
    is_first: bool,
    /// Event that is emitted once more.
    again: Option<Event>,
}

impl Stream for MutantStream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(again) = self.again.take() {
            return Poll::Ready(Some(Ok(again)));
        }
        loop {
            let item = std::task::ready!(Pin::new(&mut self.inner).poll_next(cx));
            let is_first = std::mem::replace(&mut self.is_first, false);
            let Some(Ok(event)) = &item else {
                return Poll::Ready(item);
            };
            let is_hidden = match (self.fault, event) {
                (Fault::NoFirstReset, _) => is_first,
                (Fault::UnmarkedLeave, Event::Updated(entry)) => entry.node.is_leaving(),
                (Fault::LosesDeletions, Event::Deleted(_)) => true,
                _ => false,
            };
            if is_hidden {
                continue;
            }
            if self.fault == Fault::RepeatsEvents && !is_first {
                self.again = Some(event.clone());
            }
            return Poll::Ready(item);
        }
    }
}

struct Mutants {
    fault: Fault,
    memory: MemoryRegistry,
}

impl Harness for Mutants {
    async fn open(&self) -> Result<AnyRegistry> {
        let handle = Mutant::new(self.fault, self.memory.open());
        Ok(AnyRegistry::new(handle))
    }

    async fn batch(&self, changes: Vec<RawChange>) -> Result<()> {
        self.memory.faults().batch(changes);
        Ok(())
    }

    async fn expire(&self, key: &Key) -> Result<()> {
        self.memory.faults().expire(key);
        Ok(())
    }

    async fn cut(&self) -> Result<()> {
        self.memory.faults().cut();
        Ok(())
    }

    fn may_skip(&self) -> bool {
        false
    }
}

macro_rules! names {
    (() $($room:ident::$case:ident,)*) => {
        &[$(stringify!($case)),*]
    };
}

const CASES: &[&str] = waypost_conformance::every_case!(names!());

/// Returns the cases that fail for a fault.
fn failed(fault: Fault) -> Vec<&'static str> {
    let fails = |case: &&&str| {
        let make = || Mutants {
            fault,
            memory: MemoryRegistry::new(),
        };
        catch_unwind(AssertUnwindSafe(|| {
            check("mutants", case, Time::Paused, make);
        }))
        .is_err()
    };
    CASES.iter().filter(fails).copied().collect()
}

#[test]
fn every_mutant_is_found() {
    // The panics of the cases are expected.
    let hook = std::panic::take_hook();
    let texts = Arc::new(Mutex::new(Vec::new()));
    let of_hook = Arc::clone(&texts);
    std::panic::set_hook(Box::new(move |panic| {
        of_hook.lock().unwrap().push(panic.to_string());
    }));
    let without_fault = failed(Fault::None);
    let found: Vec<_> = MUTANTS.map(|fault| (fault, failed(fault))).into();
    std::panic::set_hook(hook);
    assert_eq!(without_fault, [""; 0], "{:?}", texts.lock().unwrap());
    for (fault, cases) in &found {
        println!("{fault:?}: {}", cases.join(", "));
    }
    let survivors: Vec<_> = found
        .iter()
        .filter(|(_, cases)| cases.is_empty())
        .map(|(fault, _)| fault)
        .collect();
    assert!(survivors.is_empty(), "no case finds {survivors:?}");
}
