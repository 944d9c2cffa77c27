//! Command line of one benchmark: `--json`, `--name VALUE` and flags without a value.

use std::collections::BTreeMap;

use waypost_testkit::report::Result;

/// Flags that were given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl BenchOptions {
    /// Parses the command line. `valued` are the flags that take a value, `unvalued` those that take
    /// none, all without their dashes.
    ///
    /// # Errors
    /// A flag is unknown, or has no value although it needs one.
    pub(crate) fn parse(args: &[String], valued: &[&str], unvalued: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let name = arg
                .strip_prefix("--")
                .ok_or_else(|| format!("{arg} must be a flag, such as --json"))?;
            if valued.contains(&name) {
                let value = args
                    .next()
                    .ok_or_else(|| format!("--{name} must be followed by a value"))?;
                options.values.insert(name.to_owned(), value.clone());
            } else if unvalued.contains(&name) {
                options.flags.push(name.to_owned());
            } else {
                return Err(format!("--{name} is not known here").into());
            }
        }
        Ok(options)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64> {
        let Some(value) = self.value(name) else {
            return Ok(default);
        };
        value
            .parse()
            .map_err(|_| format!("--{name} must be a number, not {value:?}").into())
    }

    /// Returns the numbers of a flag, which are separated by commas.
    pub(crate) fn numbers(&self, name: &str, default: &[u64]) -> Result<Vec<u64>> {
        let Some(value) = self.value(name) else {
            return Ok(default.to_vec());
        };
        let parse = |number: &str| {
            number
                .parse()
                .map_err(|_| format!("--{name} must be numbers such as 64,200, not {value:?}"))
        };
        Ok(value
            .split(',')
            .map(parse)
            .collect::<std::result::Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<BenchOptions> {
        let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        BenchOptions::parse(&args, &["nodes", "seed"], &["json"])
    }

    #[test]
    fn flags_are_read_in_any_order() {
        let options = parse("--nodes 100,1000 --json --seed 7").unwrap();
        assert!(options.flag("json"));
        assert_eq!(options.number("seed", 1).unwrap(), 7);
        assert_eq!(options.numbers("nodes", &[5]).unwrap(), [100, 1000]);
        assert_eq!(parse("").unwrap().numbers("nodes", &[5]).unwrap(), [5]);
    }

    #[test]
    fn a_wrong_line_states_what_is_wrong() {
        assert_eq!(
            parse("--nodes").unwrap_err().to_string(),
            "--nodes must be followed by a value"
        );
        assert_eq!(
            parse("--nods 1").unwrap_err().to_string(),
            "--nods is not known here"
        );
        assert_eq!(
            parse("--seed x")
                .unwrap()
                .number("seed", 1)
                .unwrap_err()
                .to_string(),
            "--seed must be a number, not \"x\""
        );
    }
}
