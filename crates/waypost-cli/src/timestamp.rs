//! Wall-clock times for people and other programs, in UTC.

use std::fmt;
use std::time::{Duration, SystemTime};

/// Time since 1970-01-01, formatted by RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp(Duration);

impl Timestamp {
    /// Returns the current time.
    pub(crate) fn now() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "people compare these times with those of their own programs"
        )]
        let now = SystemTime::now();
        Self(
            now.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    /// Returns the time since 1970-01-01.
    pub(crate) fn since_epoch(self) -> Duration {
        self.0
    }

    /// Formats the time of day, such as `05:02:21.123`.
    pub(crate) fn time_of_day(self) -> String {
        let seconds = self.0.as_secs() % 86_400;
        let (hour, minute) = (seconds / 3_600, seconds / 60 % 60);
        let (second, millis) = (seconds % 60, self.0.subsec_millis());
        format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
    }
}

impl fmt::Display for Timestamp {
    /// Formats as `2026-11-30T05:02:21.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.as_secs() / 86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{}Z", self.time_of_day())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Returns year, month and day of the day after this number of days since 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_that_of_rfc_3339() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (978_307_199_999, "2000-12-31T23:59:59.999Z"),
            (978_307_200_000, "2001-01-01T00:00:00.000Z"),
            (1_796_014_941_123, "2026-11-30T05:02:21.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (millis, text) in table {
            assert_eq!(Timestamp(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
