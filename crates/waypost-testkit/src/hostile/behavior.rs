//! Misbehaviors of a hostile server's connections, and the source that they are drawn from. Pure:
//! knows no socket.

use std::fmt;

/// Behavior of one connection towards its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// Responds to every call.
    Well,
    /// Sends SETTINGS and closes, gracefully or by RST.
    CloseAfterHello,
    /// Accepts and never sends a byte.
    Mute,
    /// Resets the TCP connection after some bytes were read, possibly none.
    Reset,
    /// Sends GOAWAY in the middle of calls, with any last stream id and any error code, and closes
    /// at once or after its responses.
    GoAway,
    /// Sends SETTINGS and GOAWAY(ENHANCE_YOUR_CALM) on each connection.
    Calm,
    /// Changes its limit of concurrent streams continuously, down to 0 and up again.
    ChangeLimits,
    /// Reads a few bytes at a time, with pauses.
    ReadSlowly,
    /// Resets each stream with REFUSED_STREAM.
    RefuseStreams,
    /// Stops reading and writing for a while, repeatedly, as a stopped process does.
    Freeze,
    /// Responds with headers and then resets the stream with any error code.
    AnswerThenReset,
    /// Responds with DATA frames of one byte and never ends the stream.
    TinyData,
    /// Stops reading and writing for good at its first request, PINGs included.
    Hang,
    /// Allows this many concurrent streams and responds to none; once healed, it allows 100 and
    /// responds to all.
    Limit(u32),
}

impl Behavior {
    /// Behaviors that a seed draws from; the first is [`Well`](Self::Well).
    pub const ALL: [Self; 12] = [
        Self::Well,
        Self::CloseAfterHello,
        Self::Mute,
        Self::Reset,
        Self::GoAway,
        Self::Calm,
        Self::ChangeLimits,
        Self::ReadSlowly,
        Self::RefuseStreams,
        Self::Freeze,
        Self::AnswerThenReset,
        Self::TinyData,
    ];

    /// Returns true if its connections act periodically, even when they receive nothing.
    pub(super) fn acts_by_itself(self) -> bool {
        matches!(self, Self::ChangeLimits | Self::TinyData | Self::Limit(_))
    }

    /// Returns true if its connections continue once the server is healed. The others end by RST,
    /// as those of a restarted process do.
    pub(super) fn survives_healing(self) -> bool {
        matches!(
            self,
            Self::Well | Self::ChangeLimits | Self::ReadSlowly | Self::Freeze | Self::Limit(_)
        )
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Well => "well",
            Self::CloseAfterHello => "close after hello",
            Self::Mute => "mute",
            Self::Reset => "reset",
            Self::GoAway => "goaway",
            Self::Calm => "calm",
            Self::ChangeLimits => "changing limits",
            Self::ReadSlowly => "slow reader",
            Self::RefuseStreams => "refuses streams",
            Self::Freeze => "freezes",
            Self::AnswerThenReset => "answers then resets",
            Self::TinyData => "tiny data",
            Self::Hang => "hangs",
            Self::Limit(_) => "limited",
        };
        f.pad(name)
    }
}

/// Source of the behavior of each new connection.
#[derive(Clone, Debug)]
pub enum Script {
    /// Behaviors of which each connection draws one; the same seed draws the same sequence.
    Drawn(Vec<Behavior>),
    /// Behaviors of the first connections, one each; all later ones are well.
    First(Vec<Behavior>),
}

impl Script {
    /// Returns the behavior of the connection with this number, counted from 0.
    pub(super) fn behavior(&self, number: u64, rng: &mut fastrand::Rng) -> Behavior {
        match self {
            Self::Drawn(behaviors) => rng.choice(behaviors).copied().unwrap_or(Behavior::Well),
            Self::First(behaviors) => usize::try_from(number)
                .ok()
                .and_then(|number| behaviors.get(number))
                .copied()
                .unwrap_or(Behavior::Well),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_connections_follow_the_script_and_later_ones_are_well() {
        let script = Script::First(vec![Behavior::Mute, Behavior::Calm]);
        let drawn: Vec<_> = (0..4)
            .map(|number| script.behavior(number, &mut fastrand::Rng::with_seed(1)))
            .collect();
        assert_eq!(
            drawn,
            [
                Behavior::Mute,
                Behavior::Calm,
                Behavior::Well,
                Behavior::Well
            ]
        );
    }

    #[test]
    fn the_same_seed_draws_the_same_behaviors() {
        let script = Script::Drawn(Behavior::ALL.to_vec());
        let draw = || {
            let mut rng = fastrand::Rng::with_seed(7);
            (0..20)
                .map(|number| script.behavior(number, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
