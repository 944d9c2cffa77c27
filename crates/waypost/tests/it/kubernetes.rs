//! Facts of docs/kubernetes.md: its variables exist, and its times are the defaults.

use waypost::registrar::Config;

#[test]
fn the_page_names_variables_and_times_that_exist() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kubernetes.md");
    let page = std::fs::read_to_string(path).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let known = waypost::args::variables();
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let named: Vec<_> = page
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("WAYPOST_"))
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        assert!(known.contains(&name), "{name} is not a variable");
    }
    let config = Config::default();
    let sentences = [
        format!("for at most the TTL ({} s)", config.ttl.as_secs()),
        format!("serves for {} s more", config.drain_delay.as_secs()),
        // The default of `ServerBuilder::drain_timeout`.
        "in flight for at most 30 s".to_owned(),
        "terminationGracePeriodSeconds: 35".to_owned(),
    ];
    for sentence in sentences {
        assert!(page.contains(&sentence), "the page lacks {sentence:?}");
    }
}
