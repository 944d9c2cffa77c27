//! Detection of a surplus connection to a node, pure.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which one connection fewer must have been enough before one is drained.
const WINDOW: Duration = Duration::from_secs(60);

/// Load of the connections of a node since the last check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    /// Sum of the maximum number of concurrent streams of each connection: at least the maximum of
    /// all together.
    pub(super) peak: usize,
    /// Number of streams on each connection from which another one is opened.
    pub(super) busy: usize,
}

/// Surplus detector for the connections of one node.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    count: usize,
    ends: Option<Instant>,
}

impl Surplus {
    /// Updates the number of ready connections; `carried` is called at the end of each window, and
    /// when a connection was added. Returns true if one is to be drained: the others would have
    /// been at most half as busy as it takes to open another.
    pub(super) fn look(
        &mut self,
        now: Instant,
        count: usize,
        carried: impl FnOnce() -> Carried,
    ) -> bool {
        let grown = count > std::mem::replace(&mut self.count, count);
        if count < 2 {
            self.ends = None;
            return false;
        }
        if !grown && self.ends.is_some_and(|ends| now < ends) {
            return false;
        }
        let Carried { peak, busy } = carried();
        self.ends = now.checked_add(WINDOW);
        !grown && peak <= (count - 1).saturating_mul(busy / 2)
    }

    /// Returns the time of the next check if no event occurs before.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Carried = Carried { peak: 3, busy: 32 };

    #[tokio::test(start_paused = true)]
    async fn one_connection_goes_at_the_end_of_each_window_until_one_is_left() {
        let (start, mut surplus) = (Instant::now(), Surplus::default());
        assert!(!surplus.look(start, 3, || IDLE));
        assert_eq!(surplus.next_wake(), Some(start + WINDOW));
        assert!(!surplus.look(start + WINDOW / 2, 3, || unreachable!("asked too early")));
        assert!(surplus.look(start + WINDOW, 3, || IDLE));
        assert!(!surplus.look(start + WINDOW, 2, || unreachable!("asked too early")));
        assert!(surplus.look(start + 2 * WINDOW, 2, || IDLE));
        assert!(!surplus.look(start + 2 * WINDOW, 1, || unreachable!("one is needed")));
        assert_eq!(surplus.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn none_goes_that_would_soon_be_opened_again() {
        let (start, mut surplus) = (Instant::now(), Surplus::default());
        surplus.look(start, 4, || IDLE);
        assert!(
            !surplus.look(start + WINDOW, 4, || Carried { peak: 49, busy: 32 }),
            "three would be more than half busy"
        );
        assert!(surplus.look(start + 2 * WINDOW, 4, || Carried { peak: 48, busy: 32 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_begins_a_new_window() {
        let (start, mut surplus) = (Instant::now(), Surplus::default());
        surplus.look(start, 2, || IDLE);
        assert!(!surplus.look(start + WINDOW, 3, || IDLE));
        assert_eq!(surplus.next_wake(), Some(start + 2 * WINDOW));
    }
}
