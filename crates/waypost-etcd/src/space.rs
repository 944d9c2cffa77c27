//! Where records stand: go-micro's keys under a prefix, taken apart by bytes.

use waypost_core::record::Key;

/// The keys below one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    /// With a slash at its end.
    prefix: String,
}

/// All keys from `key` on and before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Range {
    /// What begins with `prefix`, which ends with a slash: up to the byte after it.
    fn below(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { key: prefix.into(), end }
    }
}

impl Space {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    /// The key of one record.
    pub(crate) fn key(&self, key: &Key) -> Vec<u8> {
        format!("{}{}/{}", self.prefix, key.service, key.id).into_bytes()
    }

    /// The records of one service, or of all.
    pub(crate) fn range(&self, service: Option<&str>) -> Range {
        match service {
            Some(service) => Range::below(&format!("{}{service}/", self.prefix)),
            None => Range::below(&self.prefix),
        }
    }

    /// Which record stands under a key; none if no record can.
    pub(crate) fn parse(&self, key: &[u8]) -> Option<Key> {
        let (service, id) = std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?.split_once('/')?;
        let is_one_level = |part: &str| !part.is_empty() && !part.contains('/');
        (is_one_level(service) && is_one_level(id)).then(|| Key { service: service.to_owned(), id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_both_ways() {
        let space = Space::new("/micro/registry");
        let key = Key { service: "greeter".into(), id: "greeter-1".into() };
        assert_eq!(space.key(&key), b"/micro/registry/greeter/greeter-1");
        assert_eq!(space.parse(b"/micro/registry/greeter/greeter-1"), Some(key));
        for strange in [
            &b"/micro/registry/a"[..],
            b"/micro/registry/a/b/c",
            b"/micro/registry//b",
            b"/micro/registry/a/",
            b"/x/a/b",
            b"/micro/registry/a/\xff",
            b"",
        ] {
            assert_eq!(space.parse(strange), None, "{strange:?}");
        }
    }

    #[test]
    fn a_service_is_not_its_longer_namesake() {
        let range = Space::new("/p").range(Some("a"));
        assert_eq!((range.key.as_slice(), range.end.as_slice()), (&b"/p/a/"[..], &b"/p/a0"[..]));
        assert!(b"/p/a/1".as_slice() < range.end.as_slice());
        assert!(b"/p/ab/1".as_slice() >= range.end.as_slice());
    }
}
