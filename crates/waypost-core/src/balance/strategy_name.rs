//! Built-in strategies by name, for flags and configuration.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{LeastRequest, Random, RoundRobin, Strategy};

/// Name of a built-in strategy. Parses `random`, `round-robin` and `least-request`, go-micro's
/// `roundrobin`, and the names of [`Strategy::name`].
///
/// ```
/// use waypost_core::balance::{Config, StrategyName};
///
/// let flag = "round-robin";
/// let mut config = Config::default();
/// config.strategy = flag.parse::<StrategyName>()?.strategy();
/// assert_eq!(config.strategy.name(), "round_robin");
///
/// let error = "fastest".parse::<StrategyName>().unwrap_err();
/// assert_eq!(error.why(), "is not known: give random, round-robin or least-request");
/// # Ok::<(), waypost_core::balance::UnknownStrategy>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StrategyName {
    /// Strategy [`Random`].
    Random,
    /// Strategy [`RoundRobin`].
    RoundRobin,
    /// Strategy [`LeastRequest`], the default of a channel.
    LeastRequest,
}

/// Error of an unknown strategy name. The text lists the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strategy {given:?} {}", self.why())]
pub struct UnknownStrategy {
    given: String,
}

impl UnknownStrategy {
    /// Returns the reason and the fix.
    pub fn why(&self) -> String {
        let [most @ .., last] = StrategyName::ALL.map(StrategyName::as_str);
        format!("is not known: give {} or {last}", most.join(", "))
    }
}

impl StrategyName {
    /// All names.
    pub const ALL: [Self; 3] = [Self::Random, Self::RoundRobin, Self::LeastRequest];

    /// Returns the name as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastRequest => "least-request",
        }
    }

    /// Creates the strategy. Each call returns a new object, so that no two channels share a
    /// round-robin position.
    pub fn strategy(self) -> Arc<dyn Strategy> {
        match self {
            Self::Random => Arc::new(Random),
            Self::RoundRobin => Arc::new(RoundRobin::default()),
            Self::LeastRequest => Arc::new(LeastRequest),
        }
    }
}

impl FromStr for StrategyName {
    type Err = UnknownStrategy;

    fn from_str(given: &str) -> Result<Self, UnknownStrategy> {
        match given {
            "random" => Ok(Self::Random),
            "round-robin" | "round_robin" | "roundrobin" => Ok(Self::RoundRobin),
            "least-request" | "least_request" => Ok(Self::LeastRequest),
            _ => Err(UnknownStrategy {
                given: given.to_owned(),
            }),
        }
    }
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_is_found_by_the_name_it_has_anywhere() {
        for name in StrategyName::ALL {
            assert_eq!(name.to_string().parse(), Ok(name));
            assert_eq!(name.strategy().name().parse(), Ok(name));
        }
        assert_eq!("roundrobin".parse(), Ok(StrategyName::RoundRobin));
    }

    #[test]
    fn an_error_lists_the_known_names() {
        let error = "Fastest".parse::<StrategyName>().unwrap_err();
        insta::assert_snapshot!(error, @r#"strategy "Fastest" is not known: give random, round-robin or least-request"#);
    }
}
