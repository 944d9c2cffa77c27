//! Runner of the cases, each on a runtime of its own that must be empty at the end. It also
//! collects the results.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};

use crate::cases;
use crate::context::{Skip, TestContext};
use crate::harness::Harness;
use crate::time::Time;

type Case = for<'a> fn(&'a TestContext) -> Pin<Box<dyn Future<Output = Result<(), Skip>> + 'a>>;

macro_rules! table {
    (() $($room:ident::$case:ident,)*) => {
        &[$((stringify!($case), |context| Box::pin(cases::$room::$case(context)))),*]
    };
}

const CASES: &[(&str, Case)] = crate::every_case!(table!());

/// Result of each case.
#[derive(Clone, Debug, Default)]
pub struct SuiteReport(BTreeMap<&'static str, Option<String>>);

impl SuiteReport {
    /// Returns the skipped cases, with the reasons.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .filter_map(|(case, why)| Some((*case, why.as_deref()?)))
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped().count();
        write!(f, "{} cases run, {skipped} skipped", self.0.len() - skipped)?;
        self.skipped()
            .try_for_each(|(case, why)| write!(f, "\n  skipped {case}: {why}"))
    }
}

/// Runs all cases one after the other, without a test for each.
///
/// ```
/// use waypost_conformance::{Harness, Time, run};
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::registry::{AnyRegistry, Result};
/// # struct Memory(MemoryRegistry);
/// # impl Harness for Memory {
/// #     async fn open(&self) -> Result<AnyRegistry> {
/// #         Ok(AnyRegistry::new(self.0.open()))
/// #     }
/// # }
///
/// let report = run(Time::Paused, || Memory(MemoryRegistry::new()));
/// println!("{report}");
/// assert!(report.skipped().any(|(case, _)| case == "a_garbage_record_hides_nothing"));
/// ```
///
/// # Panics
/// At the first case that fails.
pub fn run<H: Harness>(time: Time, make: impl Fn() -> H) -> SuiteReport {
    let mut report = SuiteReport::default();
    for (name, case) in CASES {
        report.0.insert(name, run_case(*case, time, &make));
    }
    report
}

/// Runs one case. [`suite!`](crate::suite) calls it. The last case of `suite` to end prints the
/// number of cases that ran, and the skipped ones.
///
/// # Panics
/// If the case fails, or there is none of that name.
pub fn check<H: Harness>(suite: &'static str, name: &str, time: Time, make: impl Fn() -> H) {
    let found = CASES.iter().find(|(case, _)| *case == name);
    let (name, case) = found.unwrap_or_else(|| panic!("there is no case {name}"));
    let skipped = run_case(*case, time, &make);
    if let Some(report) = collect(suite, name, skipped) {
        // Written directly to the stream: the test harness captures printed output, and a skip must
        // be visible.
        drop(writeln!(
            std::io::stderr(),
            "conformance of {suite}: {report}"
        ));
    }
}

/// Records one result, and returns the report once it is complete.
fn collect(
    suite: &'static str,
    case: &'static str,
    skipped: Option<String>,
) -> Option<SuiteReport> {
    static REPORTS: Mutex<BTreeMap<&str, SuiteReport>> = Mutex::new(BTreeMap::new());
    let mut collect = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let report = collect.entry(suite).or_default();
    report.0.insert(case, skipped);
    (report.0.len() == CASES.len()).then(|| report.clone())
}

/// Runs one case, and returns the reason if it was skipped.
fn run_case<H: Harness>(case: Case, time: Time, make: &impl Fn() -> H) -> Option<String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(time == Time::Paused)
        .build();
    let runtime = runtime.expect("a runtime can be built");
    runtime.block_on(async {
        let harness = make();
        let (may_skip, seed) = (harness.may_skip(), harness.seed());
        let context = TestContext::new(harness, time, seed);
        let skipped = case(&context).await.err().map(|Skip(why)| why);
        context.close().await;
        no_task_is_left().await;
        assert!(
            may_skip || skipped.is_none(),
            "skipped, though this backend can do all: {skipped:?}"
        );
        skipped
    })
}

async fn no_task_is_left() {
    let metrics = Handle::current().metrics();
    // A dropped handle aborts its tasks. They end when the runtime has polled them.
    for _ in 0..100 {
        if metrics.num_alive_tasks() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} tasks are left after close", metrics.num_alive_tasks());
}
