//! Options of the etcd registry: an `etcd://` URL, parsed and validated once.

use std::path::PathBuf;
use std::time::Duration;

use waypost_core::backoff::BackoffConfig;
use waypost_core::record::{Address, RecordLimits};
use waypost_core::registry::{Error, Result, redacted_url};

use crate::secret::Secret;
use crate::timing::Timing;

/// Prefix of go-micro's records.
pub const DEFAULT_PREFIX: &str = "/micro/registry";

/// Minimum, and its text.
const MIN_TIMEOUT: (Duration, &str) = (Duration::from_millis(100), "100 ms");
/// A relist reads everything that is watched, and a move to another member opens all streams again.
const MIN_INTERVAL: (Duration, &str) = (Duration::from_secs(1), "1 s");
/// A shorter backoff would be a loop.
const MIN_BACKOFF: (Duration, &str) = (Duration::from_millis(1), "1 ms");

/// Addresses of etcd and settings of the connection. Start from [`EtcdOptions::new`] or
/// [`EtcdOptions::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// Members of the cluster. If one does not respond, the client fails over to the next.
    pub members: Vec<Address>,
    /// Prefix of all keys, without a trailing slash. Default `/micro/registry`, as in go-micro.
    pub prefix: String,
    /// Timeout of one request; at least 100 ms, default 2 s.
    pub timeout: Duration,
    /// User name for password authentication, if etcd has authentication enabled and no client
    /// certificate names the user.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// File that holds the password, if `password` is not set. It is read at each login, so that
    /// the password can be changed while the process runs. Trailing white space is ignored.
    pub password_file: Option<PathBuf>,
    /// TLS settings; plain text if none.
    pub tls: Option<EtcdTls>,
    /// Timeout of a heartbeat on one member: without a response, the next member is tried. With
    /// several members, each request waits for one member at least this long. At least 100 ms,
    /// default 1 s.
    pub heartbeat_timeout: Duration,
    /// Interval between two lists of what is watched, ± 20 %, which find what no event has
    /// reported. At least 1 s, default 5 min.
    pub relist_interval: Duration,
    /// Time after which a handle that failed over to another member returns to the one that it
    /// chose at first, ± 20 %, so that the handles of a fleet are again spread over the members. At
    /// least 1 s, default 5 min.
    pub rebalance_interval: Duration,
    /// Delay between two attempts of a request, and between two dials of a member. At least 1 ms,
    /// default 50 ms to 2 s.
    pub backoff: BackoffConfig,
    /// Maximum size of a record that is registered or read.
    pub limits: RecordLimits,
}

/// TLS settings of the connections to etcd. The files are read when the registry is opened, and
/// again by a connection that is opened after they have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdTls {
    /// PEM file of the authorities that sign the members' certificates; the system's roots if none.
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate and its chain; etcd uses its common name as the user
    /// name.
    pub cert: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key: Option<PathBuf>,
    /// Name in the members' certificates, if it differs from the host in the URL.
    pub server_name: Option<String>,
}

impl EtcdOptions {
    /// Creates options for these members, with defaults for the others.
    pub fn new(members: Vec<Address>) -> Self {
        let Timing {
            request_timeout,
            heartbeat_timeout,
            relist_interval,
            rebalance_interval,
            backoff,
        } = Timing::default();
        Self {
            members,
            prefix: DEFAULT_PREFIX.to_owned(),
            timeout: request_timeout,
            user: None,
            password: None,
            password_file: None,
            tls: None,
            heartbeat_timeout,
            relist_interval,
            rebalance_interval,
            backoff,
            limits: RecordLimits::default(),
        }
    }

    /// Parses `etcd://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]`; `etcds://`
    /// uses TLS.
    ///
    /// The options are `tls=true`, `ca=FILE`, `cert=FILE`, `key=FILE`, `server_name=NAME`,
    /// `password_file=FILE`, the durations `timeout=2s` (or `500ms`), `heartbeat_timeout=1s`,
    /// `relist_interval=300s`, `rebalance_interval=300s`, `backoff_initial=50ms` and `backoff_max=2s`, and the numbers
    /// `max_record_bytes=65536`, `max_metadata_entries=64` and `max_endpoints=1024`; the values of
    /// durations and numbers here are the defaults. Reserved characters are percent-encoded:
    /// `%40` (`@`), `%2F` (`/`), `%3A` (`:`), `%25` (`%`). The default port is 2379.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use waypost_etcd::{EtcdOptions, EtcdRegistry};
    ///
    /// let options = EtcdOptions::parse("etcd://ann:p%40ss@10.0.0.5,10.0.0.6:2380/fleet?timeout=500ms")?;
    /// assert_eq!(options.members[0].to_string(), "10.0.0.5:2379");
    /// assert_eq!((options.prefix.as_str(), options.user.as_deref()), ("/fleet", Some("ann")));
    /// assert!(!format!("{options:?}").contains("p@ss"));
    ///
    /// // Nothing is connected before the first use.
    /// let registry = EtcdRegistry::new(options)?;
    /// # Ok(()) }
    /// ```
    ///
    /// The error names the part that is wrong, without the password:
    ///
    /// ```
    /// # use waypost_etcd::EtcdOptions;
    /// let error = EtcdOptions::parse("etcd://ann:secret@10.0.0.5?timeout=2").unwrap_err().to_string();
    /// assert!(error.contains(r#"timeout="2""#) && !error.contains("secret"));
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`], with the name of the invalid part, and never the password.
    pub fn parse(url: &str) -> Result<Self> {
        Parts::split(url)
            .and_then(Parts::options)
            .map_err(|reason| {
                Error::invalid(format!("registry URL {:?}", redacted_url(url)), reason)
            })
    }

    /// Reads `ETCD_USERNAME` and `ETCD_PASSWORD`, unless user and password are already set.
    #[must_use]
    pub fn or_user_of_environment(mut self) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a password must not be on a command line"
        )]
        let read = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        if self.user.is_none() {
            self.user = read("ETCD_USERNAME");
        }
        if self.user.is_some() && self.password.is_none() && self.password_file.is_none() {
            self.password = read("ETCD_PASSWORD").map(Secret::new);
        }
        self
    }

    /// Returns the times of a handle.
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            request_timeout: self.timeout,
            heartbeat_timeout: self.heartbeat_timeout,
            relist_interval: self.relist_interval,
            rebalance_interval: self.rebalance_interval,
            backoff: self.backoff,
        }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the name of the invalid part.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |what: &str, reason: String| Err(Error::invalid(format!("etcd {what}"), reason));
        let (cert, key) = self.tls.as_ref().map_or((false, false), |tls| {
            (tls.cert.is_some(), tls.key.is_some())
        });
        if self.members.is_empty() {
            let reason = "are missing: name at least one, as host:port";
            return invalid("members", reason.to_owned());
        }
        let minima = [
            ("timeout", self.timeout, MIN_TIMEOUT),
            ("heartbeat_timeout", self.heartbeat_timeout, MIN_TIMEOUT),
            ("relist_interval", self.relist_interval, MIN_INTERVAL),
            ("rebalance_interval", self.rebalance_interval, MIN_INTERVAL),
            ("backoff_initial", self.backoff.initial, MIN_BACKOFF),
        ];
        let too_short = minima.into_iter().find(|(_, value, (min, _))| value < min);
        if let Some((name, value, (_, min))) = too_short {
            return invalid(name, format!("{value:?} is too short: give at least {min}"));
        }
        match &self.user {
            _ if !is_prefix(&self.prefix) => {
                let reason = "must be a path: it begins with a slash, does not end with one, and has no empty part";
                invalid("prefix", format!("{:?} {reason}", self.prefix))
            }
            Some(user) if self.password.is_none() && self.password_file.is_none() => {
                let reason = "give it in the URL, by password_file=, or as ETCD_PASSWORD";
                invalid(
                    "password",
                    format!("is missing for user {user:?}: {reason}"),
                )
            }
            _ if cert != key => invalid(
                "certificate",
                "and its key must be given together: set cert= and key=".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() > 1 && prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains("//")
}

/// Components of a URL, not yet decoded.
struct Parts<'a> {
    encrypted: bool,
    user: Option<&'a str>,
    members: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn split(url: &'a str) -> Result<Self, String> {
        let (encrypted, remainder) = match url.split_once("://") {
            Some(("etcd", remainder)) => (false, remainder),
            Some(("etcds", remainder)) => (true, remainder),
            _ => return Err("does not begin with etcd:// or etcds://".to_owned()),
        };
        let (remainder, query) = remainder.split_once('?').unwrap_or((remainder, ""));
        let (authority, path) = remainder
            .find('/')
            .map_or((remainder, ""), |at| remainder.split_at(at));
        let (user, members) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(user, members)| (Some(user), members));
        Ok(Self {
            encrypted,
            user,
            members,
            path,
            query,
        })
    }

    fn options(self) -> Result<EtcdOptions, String> {
        if self.members.is_empty() {
            return Err("has no member: give host:port of at least one".to_owned());
        }
        if self.path.contains('@') {
            return Err("has an @ in its path: write a slash in a password as %2F".to_owned());
        }
        let members: Result<Vec<_>, _> = self.members.split(',').map(member).collect();
        let mut options = EtcdOptions::new(members?);
        let path = self.path.trim_end_matches('/');
        if !path.is_empty() {
            options.prefix = decoded(path)?;
        }
        if self.encrypted {
            options.tls = Some(EtcdTls::default());
        }
        if let Some(user) = self.user {
            let (user, password) = user
                .split_once(':')
                .map_or((user, None), |(user, password)| (user, Some(password)));
            options.user = Some(decoded(user)?);
            options.password = password.map(decoded).transpose()?.map(Secret::new);
        }
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            set(&mut options, name, decoded(value)?, self.encrypted)?;
        }
        Ok(options)
    }
}

fn member(text: &str) -> Result<Address, String> {
    const PORT: &str = ":2379";
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !port.contains(']'));
    let text = if has_port || text.is_empty() {
        text.to_owned()
    } else {
        format!("{text}{PORT}")
    };
    text.parse::<Address>().map_err(|error| error.to_string())
}

/// Names of the options of a URL, besides those of [`RecordLimits`].
const OPTIONS: [&str; 12] = [
    "tls",
    "ca",
    "cert",
    "key",
    "server_name",
    "password_file",
    "timeout",
    "heartbeat_timeout",
    "relist_interval",
    "rebalance_interval",
    "backoff_initial",
    "backoff_max",
];

fn set(
    options: &mut EtcdOptions,
    name: &str,
    value: String,
    encrypted: bool,
) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("option {name:?} has no value"));
    }
    let file = || Some(PathBuf::from(&value));
    match name {
        "timeout" => options.timeout = duration(name, &value)?,
        "heartbeat_timeout" => options.heartbeat_timeout = duration(name, &value)?,
        "rebalance_interval" => options.rebalance_interval = duration(name, &value)?,
        "relist_interval" => options.relist_interval = duration(name, &value)?,
        "backoff_initial" => options.backoff.initial = duration(name, &value)?,
        "backoff_max" => options.backoff.max = duration(name, &value)?,
        "password_file" => {
            password_in(value.as_ref())?;
            options.password_file = file();
        }
        "tls" => match value.as_str() {
            "true" => drop(options.tls.get_or_insert_default()),
            "false" if !encrypted => options.tls = None,
            "false" => return Err("etcds:// contradicts tls=false: remove one of them".to_owned()),
            _ => return Err(format!("tls={value:?} must be true or false")),
        },
        "ca" => options.tls.get_or_insert_default().ca = file(),
        "cert" => options.tls.get_or_insert_default().cert = file(),
        "key" => options.tls.get_or_insert_default().key = file(),
        "server_name" => options.tls.get_or_insert_default().server_name = Some(value),
        _ => {
            if !options.limits.set(name, &value)? {
                let known = OPTIONS.iter().chain(&RecordLimits::OPTIONS);
                let known = known.copied().collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "{name:?} is not an option of etcd://; the options are {known}"
                ));
            }
        }
    }
    Ok(())
}

fn duration(name: &str, text: &str) -> Result<Duration, String> {
    let number = |digits: &str| digits.parse::<u32>().ok().map(u64::from);
    let millis = text
        .strip_suffix("ms")
        .and_then(number)
        .map(Duration::from_millis);
    let seconds = || {
        text.strip_suffix('s')
            .and_then(number)
            .map(Duration::from_secs)
    };
    millis.or_else(seconds).ok_or_else(|| {
        format!("{name}={text:?} must be a duration with a unit, such as 2s or 500ms")
    })
}

/// Reads the password from a file.
///
/// # Errors
/// The file cannot be read; the text names it.
pub(crate) fn password_in(file: &std::path::Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| {
        format!(
            "password_file {:?} cannot be read: {error}",
            file.display().to_string()
        )
    })?;
    Ok(Secret::new(text.trim_end()))
}

/// Decodes percent-encoding: `%41` is `A`.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut remainder = text.as_bytes();
    while let Some((first, after)) = remainder.split_first() {
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digits = [*high, *low];
                remainder = &after[2..];
                let digits = std::str::from_utf8(&digits)
                    .ok()
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            (b'%', _) => None,
            _ => {
                remainder = after;
                Some(*first)
            }
        };
        bytes.push(
            byte.ok_or(
                "has a % without two hexadecimal digits after it: write a literal % as %25",
            )?,
        );
    }
    String::from_utf8(bytes).map_err(|_| "has percent-encoded bytes that are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> EtcdOptions {
        let options = EtcdOptions::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        options.check().unwrap();
        options
    }

    fn rejected(url: &str) -> String {
        let parsed = EtcdOptions::parse(url).and_then(|options| options.check());
        parsed.map_or_else(|error| error.to_string(), |()| panic!("{url} was taken"))
    }

    #[test]
    fn defaults_are_go_micros() {
        let options = parsed("etcd://127.0.0.1:2379");
        assert_eq!(
            options,
            EtcdOptions::new(vec!["127.0.0.1:2379".parse().unwrap()])
        );
        assert_eq!(
            (options.prefix.as_str(), options.timeout),
            ("/micro/registry", Duration::from_secs(2))
        );
        assert_eq!(parsed("etcd://a/").prefix, "/micro/registry");
    }

    #[test]
    fn every_part_is_read() {
        let options = parsed(
            "etcd://ann:p%40ss%2Fw%3Ard@a:1,[::1]:2,c/my/prefix?timeout=500ms&ca=/ca&cert=/c&key=/k&server_name=etcd",
        );
        let members: Vec<_> = options.members.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["a:1", "[::1]:2", "c:2379"]);
        assert_eq!(
            (options.prefix.as_str(), options.timeout),
            ("/my/prefix", Duration::from_millis(500))
        );
        assert_eq!(
            (options.user.as_deref(), options.password),
            (Some("ann"), Some(Secret::new("p@ss/w:rd")))
        );
        let tls = options.tls.unwrap();
        assert_eq!(
            (tls.ca, tls.cert, tls.key),
            (Some("/ca".into()), Some("/c".into()), Some("/k".into()))
        );
        assert_eq!(tls.server_name.as_deref(), Some("etcd"));
        assert!(
            parsed("etcds://a").tls.is_some()
                && parsed("etcd://a?tls=true").tls.is_some()
                && parsed("etcd://a").tls.is_none()
        );
    }

    #[test]
    fn times_and_limits_can_be_set() {
        let options = parsed(
            "etcd://a?heartbeat_timeout=3s&relist_interval=60s&rebalance_interval=90s&backoff_initial=100ms&backoff_max=30s&max_record_bytes=131072&max_metadata_entries=200&max_endpoints=2000",
        );
        assert_eq!(
            (options.heartbeat_timeout, options.relist_interval),
            (Duration::from_secs(3), Duration::from_secs(60))
        );
        assert_eq!(options.rebalance_interval, Duration::from_secs(90));
        let backoff = BackoffConfig {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
        };
        assert_eq!(options.backoff, backoff);
        let limits = options.limits;
        assert_eq!(
            (limits.bytes, limits.metadata_entries, limits.endpoints),
            (131_072, 200, 2_000)
        );
        for (option, error) in [
            ("heartbeat_timeout=1ms", "at least 100 ms"),
            ("heartbeat_timeout=1", "a duration with a unit"),
            ("relist_interval=0s", "at least 1 s"),
            ("rebalance_interval=0s", "at least 1 s"),
            ("backoff_initial=0ms", "at least 1 ms"),
            ("max_record_bytes=128k", "must be a number"),
        ] {
            let text = rejected(&format!("etcd://a?{option}"));
            let name = option.split('=').next().unwrap();
            assert!(text.contains(error) && text.contains(name), "{text}");
        }
    }

    #[test]
    fn a_password_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let options = parsed(&format!(
            "etcd://ann@a?password_file={}",
            file.path().display()
        ));
        assert_eq!(
            (&options.password, options.password_file.as_deref()),
            (&None, Some(file.path()))
        );
        assert_eq!(password_in(file.path()), Ok(Secret::new("secret")));
    }

    #[test]
    fn errors_name_the_invalid_part_and_never_the_password() {
        insta::assert_snapshot!(rejected("etcd://"),
            @r#"registry URL "etcd://": has no member: give host:port of at least one"#);
        insta::assert_snapshot!(rejected("http://a"),
            @r#"registry URL "http://a": does not begin with etcd:// or etcds://"#);
        insta::assert_snapshot!(rejected("etcd://a:0"),
            @r#"registry URL "etcd://a:0": address "a:0" has port 0: give the port that the server really listens on"#);
        insta::assert_snapshot!(rejected("etcd://a?tls=maybe"),
            @r#"registry URL "etcd://a?tls=maybe": tls="maybe" must be true or false"#);
        insta::assert_snapshot!(rejected("etcds://a?tls=false"),
            @r#"registry URL "etcds://a?tls=false": etcds:// contradicts tls=false: remove one of them"#);
        insta::assert_snapshot!(rejected("etcd://a?colour=red"),
            @r#"registry URL "etcd://a?colour=red": "colour" is not an option of etcd://; the options are tls, ca, cert, key, server_name, password_file, timeout, heartbeat_timeout, relist_interval, rebalance_interval, backoff_initial, backoff_max, max_record_bytes, max_metadata_entries, max_endpoints"#);
        insta::assert_snapshot!(rejected("etcd://a?timeout=2"),
            @r#"registry URL "etcd://a?timeout=2": timeout="2" must be a duration with a unit, such as 2s or 500ms"#);
        insta::assert_snapshot!(rejected("etcd://a?timeout=1ms"),
            @r#"etcd timeout: 1ms is too short: give at least 100 ms"#);
        insta::assert_snapshot!(rejected("etcd://a?cert=/c"),
            @r#"etcd certificate: and its key must be given together: set cert= and key="#);
        insta::assert_snapshot!(rejected("etcd://a//b"),
            @r#"etcd prefix: "//b" must be a path: it begins with a slash, does not end with one, and has no empty part"#);
        insta::assert_snapshot!(rejected("etcd://ann@a"),
            @r#"etcd password: is missing for user "ann": give it in the URL, by password_file=, or as ETCD_PASSWORD"#);
        insta::assert_snapshot!(rejected("etcd://ann:hunter2%@a"),
            @r#"registry URL "etcd://…@a": has a % without two hexadecimal digits after it: write a literal % as %25"#);
        insta::assert_snapshot!(rejected("etcd://ann:hunter2@a?tls=hm"),
            @r#"registry URL "etcd://…@a?tls=hm": tls="hm" must be true or false"#);
        insta::assert_snapshot!(rejected("etcd://ann:hun/ter2@a:1"),
            @r#"registry URL "etcd://…@a:1": has an @ in its path: write a slash in a password as %2F"#);
        insta::assert_snapshot!(rejected("ann:hunter2@a:1"),
            @r#"registry URL "…@a:1": does not begin with etcd:// or etcds://"#);
        insta::assert_snapshot!(rejected("etcd://a?password=hunter2"),
            @r#"registry URL "etcd://a?password=…": "password" is not an option of etcd://; the options are tls, ca, cert, key, server_name, password_file, timeout, heartbeat_timeout, relist_interval, rebalance_interval, backoff_initial, backoff_max, max_record_bytes, max_metadata_entries, max_endpoints"#);
        let options = parsed("etcd://ann:hunter2@a");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
