//! Happy Eyeballs (RFC 8305): all addresses of a name are tried, alternating between families, and
//! the first that connects wins.
//!
//! An address that drops the first packet costs a quarter of a second, not the whole connect
//! timeout. This file never resolves a name.

use std::collections::HashSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Time between the starts of two attempts (RFC 8305, 5: Connection Attempt Delay).
const DELAY: Duration = Duration::from_millis(250);
const MIN_DELAY: Duration = Duration::from_millis(10);
/// Time within which the last of many addresses is tried, well within every connect timeout.
const ALL_BEGUN_WITHIN: Duration = Duration::from_secs(1);
/// Maximum number of addresses that an error lists.
const LISTED: usize = 8;

/// Orders addresses for the race: in the resolver's order, but alternating between families,
/// starting with that of the first; duplicates are removed.
pub(super) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    let unique: Vec<SocketAddr> = addresses
        .into_iter()
        .filter(|address| seen.insert(*address))
        .collect();
    let first_is_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        unique.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let longer = first.len().max(second.len());
    (0..longer)
        .flat_map(|i| [first.get(i), second.get(i)])
        .flatten()
        .copied()
        .collect()
}

/// Connects to the first address that answers. Attempts start in order, each after a delay or as
/// soon as the one before failed.
///
/// # Errors
/// All addresses failed: lists each with its error.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>> + Send,
{
    let mut race = Race {
        waiting: addresses.iter().copied(),
        connect,
        running: Vec::new(),
        failed: Vec::new(),
    };
    let delay = delay(addresses.len());
    let mut timer = std::pin::pin!(sleep_until(Instant::now()));
    race.begin_next();
    reset(timer.as_mut(), delay);
    poll_fn(|cx| race.poll(cx, timer.as_mut(), delay)).await
}

fn delay(addresses: usize) -> Duration {
    let share = ALL_BEGUN_WITHIN / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
    share.clamp(MIN_DELAY, DELAY)
}

fn reset(timer: Pin<&mut Sleep>, delay: Duration) {
    timer.reset(Instant::now() + delay);
}

struct Race<I, C, F> {
    waiting: I,
    connect: C,
    running: Vec<(SocketAddr, Pin<Box<F>>)>,
    failed: Vec<(SocketAddr, io::Error)>,
}

impl<T, I, C, F> Race<I, C, F>
where
    I: Iterator<Item = SocketAddr>,
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    fn begin_next(&mut self) -> bool {
        let Some(address) = self.waiting.next() else {
            return false;
        };
        self.running
            .push((address, Box::pin((self.connect)(address))));
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        delay: Duration,
    ) -> Poll<io::Result<T>> {
        loop {
            let failed = self.failed.len();
            if let Some(connected) = self.poll_running(cx) {
                return Poll::Ready(Ok(connected));
            }
            let due = self.failed.len() > failed || timer.as_mut().poll(cx).is_ready();
            if due && self.begin_next() {
                reset(timer.as_mut(), delay);
            } else if self.running.is_empty() {
                return Poll::Ready(Err(all_failed(&self.failed)));
            } else {
                return Poll::Pending;
            }
        }
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> Option<T> {
        let mut i = 0;
        while i < self.running.len() {
            let (address, attempt) = &mut self.running[i];
            match attempt.as_mut().poll(cx) {
                Poll::Ready(Ok(connected)) => return Some(connected),
                Poll::Ready(Err(error)) => {
                    self.failed.push((*address, error));
                    drop(self.running.swap_remove(i));
                }
                Poll::Pending => i += 1,
            }
        }
        None
    }
}

/// Returns an error of the kind of the last one, which names each address with the system's own
/// text.
fn all_failed(failed: &[(SocketAddr, io::Error)]) -> io::Error {
    let kind = failed
        .last()
        .map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
    io::Error::new(kind, AllFailed::new(failed).to_string())
}

struct AllFailed<'a>(&'a [(SocketAddr, io::Error)]);

impl<'a> AllFailed<'a> {
    fn new(failed: &'a [(SocketAddr, io::Error)]) -> Self {
        Self(failed)
    }
}

impl fmt::Display for AllFailed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (address, error)) in self.0.iter().take(LISTED).enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    async fn answer(
        address: SocketAddr,
        after: Option<u64>,
        refused: &[&str],
    ) -> io::Result<SocketAddr> {
        if refused.contains(&address.to_string().as_str()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        match after {
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            None => std::future::pending().await,
        }
        Ok(address)
    }

    #[test]
    fn families_take_turns_and_each_address_comes_once() {
        let order = interleave(addresses(&[
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8::1]:1",
            "10.0.0.1:1",
            "10.0.0.2:1",
            "10.0.0.3:1",
        ]));
        let expected = [
            "[2001:db8::1]:1",
            "10.0.0.1:1",
            "[2001:db8::2]:1",
            "10.0.0.2:1",
            "10.0.0.3:1",
        ];
        assert_eq!(order, addresses(&expected));
        assert_eq!(interleave([]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_costs_a_quarter_of_a_second() {
        let addresses = addresses(&["[2001:db8::1]:1", "10.0.0.1:1"]);
        let start = Instant::now();
        let won = race(&addresses, |address| {
            answer(address, address.is_ipv4().then_some(5), &[])
        })
        .await
        .unwrap();
        assert_eq!((won, start.elapsed().as_millis()), (addresses[1], 255));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_still_wins_if_it_is_first_to_connect() {
        let addresses = addresses(&["[2001:db8::1]:1", "10.0.0.1:1"]);
        let won = race(&addresses, |address| {
            answer(
                address,
                Some(if address.is_ipv6() { 300 } else { 100 }),
                &[],
            )
        })
        .await;
        assert_eq!(won.unwrap(), addresses[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_address_costs_nothing_and_the_error_names_them_all() {
        let addresses = addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let start = Instant::now();
        let won = race(&addresses, |address| {
            answer(address, Some(0), &["10.0.0.1:1", "10.0.0.2:1"])
        })
        .await
        .unwrap();
        assert_eq!((won, start.elapsed().as_millis() < 5), (addresses[2], true));
        let refused = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        let error = race(&addresses, |address| answer(address, None, &refused))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let text = "10.0.0.1:1: connection refused; 10.0.0.2:1: connection refused; 10.0.0.3:1: connection refused";
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_many_addresses_are_begun_within_a_second() {
        let many: Vec<SocketAddr> = (0..60)
            .map(|i| SocketAddr::from(([10, 0, 0, i], 1)))
            .collect();
        let start = Instant::now();
        let won = race(&many, |address| {
            answer(address, (address == many[59]).then_some(0), &[])
        })
        .await
        .unwrap();
        assert_eq!(won, many[59]);
        assert!(
            start.elapsed() <= Duration::from_millis(1_100),
            "{:?}",
            start.elapsed()
        );
    }
}
