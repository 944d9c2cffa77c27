//! The ways in which a connection of a hostile server misbehaves, and where it draws them from. Pure: it knows no socket.

use std::fmt;

/// One connection's behaviour towards its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// Answers every call.
    Well,
    /// Sends SETTINGS and closes, in order or by RST.
    CloseAfterHello,
    /// Accepts and never speaks.
    Mute,
    /// Resets the TCP connection once some bytes were read, maybe none.
    Reset,
    /// Sends GOAWAY in the middle of calls, with any last stream id and any error code, and closes at once or after its answers.
    GoAway,
    /// Sends SETTINGS and GOAWAY(ENHANCE_YOUR_CALM) on each connection.
    Calm,
    /// Changes its limit of concurrent streams all the time, down to 0 and up again.
    ChangeLimits,
    /// Reads some bytes at a time, with pauses.
    ReadSlowly,
    /// Resets each stream with REFUSED_STREAM.
    RefuseStreams,
    /// Stops reading and writing for a while, again and again, as a stopped process does.
    Freeze,
    /// Answers with headers and then resets the stream with any error code.
    AnswerThenReset,
    /// Answers with DATA frames of one byte that do not end.
    TinyData,
    /// Stops reading and writing for good at its first request, PINGs included.
    Hang,
    /// Allows so many concurrent streams and answers none of them; healed, it allows 100 and answers all.
    Limit(u32),
}

impl Behavior {
    /// Those that a seed draws from, the well one first.
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

    /// Whether its connections act from time to time, also when nothing is sent to them.
    pub(super) fn acts_by_itself(self) -> bool {
        matches!(self, Self::ChangeLimits | Self::TinyData | Self::Limit(_))
    }

    /// Whether its connections go on once the server is healed. The others end by RST, as those of a restarted process do.
    pub(super) fn survives_healing(self) -> bool {
        matches!(self, Self::Well | Self::ChangeLimits | Self::ReadSlowly | Self::Freeze | Self::Limit(_))
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

/// Source of the behaviour of each new connection.
#[derive(Clone, Debug)]
pub enum Script {
    /// Each connection draws one of these; the same seed draws the same sequence.
    Drawn(Vec<Behavior>),
    /// The first connections behave so, one each; all later ones are well.
    First(Vec<Behavior>),
}

impl Script {
    /// The behaviour of the connection with this number, counted from 0.
    pub(super) fn behavior(&self, number: u64, rng: &mut fastrand::Rng) -> Behavior {
        match self {
            Self::Drawn(behaviors) => rng.choice(behaviors).copied().unwrap_or(Behavior::Well),
            Self::First(behaviors) => {
                usize::try_from(number).ok().and_then(|number| behaviors.get(number)).copied().unwrap_or(Behavior::Well)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_connections_follow_the_script_and_later_ones_are_well() {
        let script = Script::First(vec![Behavior::Mute, Behavior::Calm]);
        let drawn: Vec<_> = (0..4).map(|number| script.behavior(number, &mut fastrand::Rng::with_seed(1))).collect();
        assert_eq!(drawn, [Behavior::Mute, Behavior::Calm, Behavior::Well, Behavior::Well]);
    }

    #[test]
    fn the_same_seed_draws_the_same_behaviors() {
        let script = Script::Drawn(Behavior::ALL.to_vec());
        let draw = || {
            let mut rng = fastrand::Rng::with_seed(7);
            (0..20).map(|number| script.behavior(number, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
