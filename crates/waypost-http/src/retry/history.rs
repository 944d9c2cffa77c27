//! History of the attempts of a failed call, for its error. Its size is bounded, whatever the
//! number of attempts.

use std::fmt;

/// Number of attempts kept from the start, and the same number from the end.
const KEPT: usize = 3;

/// Record of an attempt that gave the caller no response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// Id of the node.
    pub node: String,
    /// Address of the node, as registered.
    pub address: String,
    /// Description of the attempt's end.
    pub ended: String,
}

impl AttemptRecord {
    /// Creates a record.
    pub fn new(
        node: impl Into<String>,
        address: impl Into<String>,
        ended: impl Into<String>,
    ) -> Self {
        Self {
            node: node.into(),
            address: address.into(),
            ended: ended.into(),
        }
    }
}

impl fmt::Display for AttemptRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.node, self.address, self.ended)
    }
}

/// Failed attempts of one call, in order: the first three, the last three, and their total number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptHistory {
    records: Vec<AttemptRecord>,
    total: usize,
}

impl AttemptHistory {
    /// Adds an attempt.
    pub fn push(&mut self, record: AttemptRecord) {
        self.total += 1;
        if self.records.len() == 2 * KEPT {
            self.records.remove(KEPT);
        }
        self.records.push(record);
    }

    /// Returns the records kept, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, AttemptRecord> {
        self.records.iter()
    }

    /// Returns the last attempt.
    pub fn last(&self) -> Option<&AttemptRecord> {
        self.records.last()
    }

    /// Returns the total number of attempts, those without a record included.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Returns the number of attempts between the first and the last records that have none.
    pub fn omitted(&self) -> usize {
        self.total - self.records.len()
    }

    /// Returns true if no attempt failed.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl<'a> IntoIterator for &'a AttemptHistory {
    type Item = &'a AttemptRecord;
    type IntoIter = std::slice::Iter<'a, AttemptRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for AttemptHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, record) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            if i == KEPT && self.omitted() > 0 {
                write!(f, "; {} more", self.omitted())?;
            }
            write!(f, "{separator}{record}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(attempts: usize) -> AttemptHistory {
        let mut history = AttemptHistory::default();
        (1..=attempts).for_each(|n| {
            history.push(AttemptRecord::new(
                format!("n{n}"),
                format!("h:{n}"),
                "lost",
            ));
        });
        history
    }

    #[test]
    fn the_first_and_the_last_three_are_kept_with_the_number_of_all() {
        for (attempts, kept, omitted) in
            [(0, 0, 0), (1, 1, 0), (6, 6, 0), (7, 6, 1), (1_000, 6, 994)]
        {
            let history = history(attempts);
            assert_eq!(
                (history.len(), history.iter().len(), history.omitted()),
                (attempts, kept, omitted)
            );
            assert_eq!(history.is_empty(), attempts == 0);
        }
    }

    #[test]
    fn the_text_names_nodes_addresses_and_ends() {
        assert_eq!(history(0).to_string(), "");
        assert_eq!(history(2).to_string(), "n1 at h:1: lost; n2 at h:2: lost");
        assert_eq!(
            history(9).to_string(),
            "n1 at h:1: lost; n2 at h:2: lost; n3 at h:3: lost; 3 more; n7 at h:7: lost; n8 at h:8: lost; n9 at h:9: lost"
        );
    }
}
