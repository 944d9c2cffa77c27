//! Key space: go-micro's keys under a prefix, parsed as bytes.

use waypost_core::record::Key;

/// Keys below one prefix.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    /// With a trailing slash.
    prefix: String,
}

/// Half-open range of keys, from `key` to before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl KeyRange {
    /// Returns the range of all keys that begin with `prefix`, which must end with a slash: the end
    /// is the prefix with its last byte incremented.
    fn below(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self {
            key: prefix.into(),
            end,
        }
    }
}

impl KeySpace {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}/"),
        }
    }

    /// Returns the etcd key of one record.
    pub(crate) fn key(&self, key: &Key) -> Vec<u8> {
        format!("{}{}/{}", self.prefix, key.service, key.id).into_bytes()
    }

    /// Returns the range of one service, or of all.
    pub(crate) fn range(&self, service: Option<&str>) -> KeyRange {
        match service {
            Some(service) => KeyRange::below(&format!("{}{service}/", self.prefix)),
            None => KeyRange::below(&self.prefix),
        }
    }

    /// Returns the record key of an etcd key; none if it cannot be that of a record.
    pub(crate) fn parse(&self, key: &[u8]) -> Option<Key> {
        let (service, id) = std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?)
            .ok()?
            .split_once('/')?;
        let is_one_level = |part: &str| !part.is_empty() && !part.contains('/');
        (is_one_level(service) && is_one_level(id)).then(|| Key {
            service: service.to_owned(),
            id: id.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_both_ways() {
        let key_space = KeySpace::new("/micro/registry");
        let key = Key {
            service: "greeter".into(),
            id: "greeter-1".into(),
        };
        assert_eq!(key_space.key(&key), b"/micro/registry/greeter/greeter-1");
        assert_eq!(
            key_space.parse(b"/micro/registry/greeter/greeter-1"),
            Some(key)
        );
        for key in [
            &b"/micro/registry/a"[..],
            b"/micro/registry/a/b/c",
            b"/micro/registry//b",
            b"/micro/registry/a/",
            b"/x/a/b",
            b"/micro/registry/a/\xff",
            b"",
        ] {
            assert_eq!(key_space.parse(key), None, "{key:?}");
        }
    }

    #[test]
    fn a_service_is_not_its_longer_namesake() {
        let range = KeySpace::new("/p").range(Some("a"));
        assert_eq!(
            (range.key.as_slice(), range.end.as_slice()),
            (&b"/p/a/"[..], &b"/p/a0"[..])
        );
        assert!(b"/p/a/1".as_slice() < range.end.as_slice());
        assert!(b"/p/ab/1".as_slice() >= range.end.as_slice());
    }
}
