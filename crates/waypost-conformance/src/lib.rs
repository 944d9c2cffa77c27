//! Conformance suite that every Waypost registry must pass, for authors of registries too.
//!
//! Implement [`Harness`] for your backend and call [`suite!`] from an integration test; each case
//! becomes a test of its own. For an ability that it lacks, a backend returns `Unsupported`, and
//! the cases that need it are skipped by name. The last test to end lists how many cases were run
//! and which were skipped. The suite knows the contract, and no backend.
//!
//! ```
//! use waypost_conformance::{Harness, Time, suite};
//! use waypost_core::memory::MemoryRegistry;
//! use waypost_core::registry::{AnyRegistry, Result};
//!
//! struct Memory(MemoryRegistry);
//!
//! impl Harness for Memory {
//!     async fn open(&self) -> Result<AnyRegistry> {
//!         Ok(AnyRegistry::new(self.0.open()))
//!     }
//! }
//!
//! suite!(Time::Paused, || Memory(MemoryRegistry::new()));
//! # fn main() {}
//! ```

mod case_log;
mod cases;
mod context;
mod event_checker;
mod harness;
mod runner;
mod time;

pub use case_log::{CaseLog, seeds};
pub use harness::{Harness, RawChange};
pub use runner::{SuiteReport, check, run};
pub use time::Time;

/// Calls `$then!` with the name of every case, so that each is written once.
#[doc(hidden)]
#[macro_export]
macro_rules! every_case {
    ($($then:ident)::+ !($($given:tt)*)) => {
        $($then)::+! {
            ($($given)*)
            watching::first_item_is_a_reset,
            watching::changes_come_in_order,
            watching::no_gap_between_list_and_watch,
            watching::every_change_of_a_batch_is_emitted,
            watching::a_delete_needs_no_previous_value,
            watching::a_garbage_record_hides_nothing,
            watching::one_service_is_watched_alone,
            watching::a_cut_gives_a_reset,
            watching::next_is_cancel_safe,
            watching::a_watcher_that_lags_loses_nothing,
            watching::a_watcher_outlives_the_runtime_that_it_was_opened_on,
            living::expiry_is_a_loss,
            living::deregister_is_a_leave,
            living::an_unchanged_heartbeat_emits_no_event,
            living::changed_metadata_is_an_update,
            living::a_removed_record_comes_back,
            living::an_expired_record_comes_back,
            living::an_undecodable_record_is_repaired,
            living::a_deregistered_node_may_return,
            living::a_record_without_heartbeats_ends_after_its_ttl,
            living::heartbeats_keep_a_record,
            living::a_registration_does_not_keep_another_of_its_handle,
            owning::two_owners_of_one_id,
            owning::a_predecessor_is_taken_over,
            owning::deregister_removes_only_ours,
            owning::force_removes_any_owners_record,
            owning::a_missing_record_may_be_deregistered,
            reading::a_registered_service_is_read_back,
            reading::get_service_groups_by_version,
            reading::the_list_is_sorted,
            reading::names_are_checked,
            reading::a_skipped_record_is_counted_until_it_is_repaired,
            reading::a_short_ttl_is_refused,
            closing::a_watcher_ends_with_its_registry,
            closing::a_second_close_does_nothing,
            closing::calls_after_close_are_closed,
            closing::close_releases_its_registrations,
            random::the_node_set_equals_a_fresh_list,
        }
    };
}

/// Creates one test for each case: `suite!(Time::Real, make)`, where `make` is a
/// `fn() -> impl Harness` that returns a fresh, empty registry.
#[macro_export]
macro_rules! suite {
    ($time:expr, $make:expr) => {
        $crate::every_case!($crate::tests!($time, $make));
    };
}

/// Tests of [`suite!`].
#[doc(hidden)]
#[macro_export]
macro_rules! tests {
    (($time:expr, $make:expr) $($room:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                $crate::check(module_path!(), stringify!($case), $time, $make);
            }
        )*
    };
}
