//! What is asked for, and what each part gives back.

use std::time::Duration;

use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Any error; it ends the program.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One part of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Rest,
    List,
    Follow,
    Herd,
    Leave,
}

impl Part {
    pub(crate) const ALL: [Self; 5] = [Self::Rest, Self::List, Self::Follow, Self::Herd, Self::Leave];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::List => "list",
            Self::Follow => "follow",
            Self::Herd => "herd",
            Self::Leave => "leave",
        }
    }
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) json: bool,
    only: Vec<Part>,
    /// How long the fleet at rest is looked at.
    pub(crate) rest: Duration,
}

impl Options {
    /// None if it is wrong.
    pub(crate) fn parse(args: &[String]) -> Option<Self> {
        let mut options = Self { json: false, only: Vec::new(), rest: Duration::from_secs(60) };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--json" => options.json = true,
                "--only" => {
                    let name = args.next()?;
                    options.only.push(Part::ALL.into_iter().find(|part| part.name() == name)?);
                }
                "--seconds" => {
                    let seconds = args.next()?.parse().ok().filter(|seconds| *seconds > 0)?;
                    options.rest = Duration::from_secs(seconds);
                }
                _ => return None,
            }
        }
        Some(options)
    }

    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Shows text to people: on stdout, or on stderr where stdout is for JSON.
    pub(crate) fn show(&self, text: &str) {
        if self.json { eprintln!("{text}") } else { println!("{text}") }
    }
}

/// What a part found on one etcd.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) table: String,
    pub(crate) json: Value,
    /// Which promises were not kept.
    pub(crate) failures: Vec<String>,
}

/// What a process of its own runs on: one thread, whose CPU time is the process's.
pub(crate) fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// What everything else runs on.
pub(crate) fn two_threads() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of them is.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Three digits after the point, which is more than is known.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
