//! What is asked for, and what each part gives back.

use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Any error; it ends the program.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Dead,
    Empty,
    First,
    Restarts,
    Throughput,
}

impl Part {
    pub(crate) const ALL: [Self; 5] = [Self::Dead, Self::Empty, Self::First, Self::Restarts, Self::Throughput];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Empty => "empty",
            Self::First => "first",
            Self::Restarts => "restarts",
            Self::Throughput => "throughput",
        }
    }
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) json: bool,
    only: Vec<Part>,
    pub(crate) rounds: usize,
}

impl Options {
    /// None if it is wrong.
    pub(crate) fn parse(args: &[String]) -> Option<Self> {
        let mut options = Self { json: false, only: Vec::new(), rounds: 9 };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--json" => options.json = true,
                "--only" => {
                    let name = args.next()?;
                    options.only.push(Part::ALL.into_iter().find(|part| part.name() == name)?);
                }
                "--rounds" => options.rounds = args.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
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

/// What a part found.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) table: String,
    pub(crate) json: Value,
    /// Why it does not pass, if so.
    pub(crate) failure: Option<String>,
}

/// Everything runs on one thread, so that its CPU time is the client's.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
