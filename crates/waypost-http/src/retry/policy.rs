//! Retry policy: the methods that may be sent twice, and the maximum number of attempts.

use std::collections::HashSet;
use std::time::Duration;

/// Instruction of a server about retries (`grpc-retry-pushback-ms`, gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushback {
    /// No instruction.
    None,
    /// Do not retry before this time has passed.
    After(Duration),
    /// Do not retry.
    Never,
}

/// Retry policy of a channel.
///
/// *Moves* are free: an attempt that no node processed moves to another node, whatever the method
/// is, and an idempotent call moves off its first lost connection. Moves are not counted as
/// attempts, need no budget, and are limited to five per call.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{ChannelConfig, Policy, ServedBy};
///
/// let mut policy = Policy::default();
/// policy.idempotent.insert("/users".to_owned());
/// policy.max_attempts = 2;
/// let mut config = ChannelConfig::default();
/// config.policy = Arc::new(policy);
///
/// // The only node responds 503 (unavailable).
/// # let client = client_of(serve(503).await);
/// let users = client.channel("users".parse()?, config, Arc::new(PlainHttp));
/// let response = users.call(Request::get("/users").body(Empty::<Bytes>::new())?).await?;
/// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
/// assert_eq!((response.status().as_u16(), served_by.attempts), (503, 2));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Maximum number of attempts, the first included; moves are not counted. Default 3. With 0 or
    /// 1, only moves are made.
    pub max_attempts: u32,
    /// Full paths (`/package.Service/Method`) of methods that may be sent twice, in addition to
    /// those that the registry declares idempotent. Default none.
    pub idempotent: HashSet<String>,
    /// Full paths of methods that are never sent twice, whatever the registry declares. Default
    /// none.
    pub never: HashSet<String>,
    /// Bounds of the delay before a node is tried a second time in one call, in either order. The
    /// delay is drawn uniformly between them. Default 25 to 250 ms.
    pub retry_delay: (Duration, Duration),
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            idempotent: HashSet::new(),
            never: HashSet::new(),
            retry_delay: (Duration::from_millis(25), Duration::from_millis(250)),
        }
    }
}

impl Policy {
    /// Returns true if the method at `path` may be sent twice; `declared` is the value in its
    /// service's record.
    pub fn is_idempotent(&self, path: &str, declared: bool) -> bool {
        (declared || self.idempotent.contains(path)) && !self.never.contains(path)
    }

    /// Returns the delay before a node is tried a second time; `chance` is uniform in 0..1.
    pub(crate) fn draw_retry_delay(&self, chance: f64) -> Duration {
        let (a, b) = self.retry_delay;
        let (min, max) = (a.min(b), a.max(b));
        let drawn = Duration::try_from_secs_f64((max - min).as_secs_f64() * chance).unwrap_or(max);
        min.saturating_add(drawn).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_adds_to_what_a_service_declares_and_may_forbid_it() {
        let paths = |path: &str| HashSet::from([path.to_owned()]);
        let policy = Policy {
            idempotent: paths("/a"),
            never: paths("/n"),
            ..Policy::default()
        };
        let table = [
            ("/a", false, true),
            ("/b", false, false),
            ("/b", true, true),
            ("/n", true, false),
        ];
        for (path, declared, expected) in table {
            assert_eq!(
                policy.is_idempotent(path, declared),
                expected,
                "{path} {declared}"
            );
        }
    }

    #[test]
    fn every_pair_of_bounds_gives_a_delay_between_them() {
        let s = Duration::from_secs;
        for (a, b) in [
            (s(1), s(2)),
            (s(2), s(1)),
            (s(0), s(0)),
            (s(0), Duration::MAX),
            (Duration::MAX, s(3)),
            (Duration::MAX, Duration::MAX),
        ] {
            let policy = Policy {
                retry_delay: (a, b),
                ..Policy::default()
            };
            for chance in [
                0.0,
                0.5,
                1.0 - f64::EPSILON / 2.0,
                1.0,
                -1.0,
                f64::NAN,
                f64::INFINITY,
            ] {
                let delay = policy.draw_retry_delay(chance);
                assert!(
                    (a.min(b)..=a.max(b)).contains(&delay),
                    "{a:?} {b:?} {chance}: {delay:?}"
                );
            }
        }
        let policy = Policy {
            retry_delay: (s(2), s(1)),
            ..Policy::default()
        };
        assert_eq!(policy.draw_retry_delay(0.5), Duration::from_millis(1_500));
    }
}
