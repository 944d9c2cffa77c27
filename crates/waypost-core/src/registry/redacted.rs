//! Redaction of a registry's URL for errors, logs and `Debug`. In doubt, text is hidden.

/// Returns the URL with `…` in place of the credentials and of the value of an option that may be a
/// secret, and of all that follows such a value. Accepts any text, since invalid URLs are shown
/// too.
pub fn redacted_url(url: &str) -> String {
    let scheme = url
        .find("://")
        .filter(|end| url[..*end].chars().all(is_of_scheme))
        .map_or(0, |end| end + 3);
    let (scheme, rest) = url.split_at(scheme);
    let (shown, hidden) = rest.split_at(secret(rest).unwrap_or(rest.len()));
    // A password may contain any character that should have been escaped, so everything before the
    // last @ counts as the credentials.
    match (shown.rsplit_once('@'), hidden) {
        (Some((_, shown)), "") => format!("{scheme}…@{shown}"),
        (Some((_, shown)), _) => format!("{scheme}…@{shown}…"),
        (None, "") => url.to_owned(),
        (None, hidden) if hidden.contains('@') => format!("{scheme}…"),
        (None, _) => format!("{scheme}{shown}…"),
    }
}

fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// Returns the start of the first value whose option name suggests a secret. Names of files are
/// excluded.
fn secret(text: &str) -> Option<usize> {
    let names = text.match_indices(['?', '&']).map(|(mark, _)| mark + 1);
    names.into_iter().find_map(|start| {
        let name = text[start..].split(['=', '&']).next().unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        let sounds = ["pass", "secret", "token"]
            .iter()
            .any(|word| lower.contains(word))
            && !lower.ends_with("_file");
        (sounds && text[start + name.len()..].starts_with('=')).then_some(start + name.len() + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret_is_shown() {
        for url in [
            "local://",
            "greeter",
            "",
            "etcd://a:1,[::1]:2/prefix?tls=maybe&password_file=/p",
            "static://a:1?protocol=grpc",
        ] {
            assert_eq!(redacted_url(url), url);
        }
    }

    #[test]
    fn what_may_be_one_is_not() {
        for (url, shown) in [
            ("etcd://ann:hunter2@a:1/p", "etcd://…@a:1/p"),
            ("etcd://ann:hun/ter2@a:1", "etcd://…@a:1"),
            ("etcd://ann:hun@ter2@a:1?tls=hm", "etcd://…@a:1?tls=hm"),
            ("etcd://ann:hunter2?@a:1", "etcd://…@a:1"),
            ("etcd://ann:hunter2%@a", "etcd://…@a"),
            ("ann:hunter2@a:1", "…@a:1"),
            ("etcd:/ann:hunter2@a:1", "…@a:1"),
            ("ann:hunter2://x@a", "…@a"),
            ("etcd://a?password=hunter2&tls=true", "etcd://a?password=…"),
            (
                "etcd://ann@a?tls=true&PassWd=hunter2",
                "etcd://…@a?tls=true&PassWd=…",
            ),
            ("etcd://a?password=hun@ter2", "etcd://…"),
            ("etcd://ann:x?token=hunter2@a", "etcd://…"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
    }
}
