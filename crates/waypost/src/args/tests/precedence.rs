//! Precedence of each setting, default < code < `MICRO_…` < `WAYPOST_…` < flag, in every
//! combination of sources.

use std::time::Duration;

use super::super::environment::Environment;
use super::parsed;
use crate::balance::{BuildContext, Picker, ReadySet, Strategy};
use crate::record::{Address, Service};
use crate::registrar::RegistrationBuilder;
use crate::server::ServerBuilder;
use crate::{
    AnyRegistry, ChannelBuilder, Client, ClientBuilder, MemoryRegistry, Registration, Server,
    StaticRegistry,
};

/// Variable or flag, and its value. A row has none where go-micro has no such setting.
type Words = (&'static str, &'static str);

/// One setting, and its text in `Debug`: by default, and as given by the code, by go-micro's
/// variable, by our variable, and by the flag.
struct Row<C> {
    code: C,
    micro: Option<Words>,
    waypost: Words,
    flag: Words,
    shown: [&'static str; 5],
}

impl<C> Row<C> {
    /// Calls `show` with every combination of sources. The result must show the source of the
    /// highest precedence, and none of the others.
    fn check(&self, show: impl Fn(Option<&C>, &[&str], &Environment) -> String) {
        for mixture in 0_u8..16 {
            let there = |level: u8| mixture & (1 << level) != 0;
            if there(1) && self.micro.is_none() {
                continue;
            }
            let flags = [self.flag.0, self.flag.1];
            let variables: Vec<_> = [(1, self.micro), (2, Some(self.waypost))]
                .into_iter()
                .filter_map(|(level, words)| words.filter(|_| there(level)))
                .collect();
            let flags = if there(3) { flags.as_slice() } else { &[] };
            let text = show(
                there(0).then_some(&self.code),
                flags,
                &Environment::of(&variables),
            );
            let strongest = (0..4)
                .rev()
                .find(|level| there(*level))
                .map_or(0, |level| usize::from(level) + 1);
            for (level, shown) in self
                .shown
                .iter()
                .enumerate()
                .filter(|(level, _)| *level != 2 || self.micro.is_some())
            {
                let what = format!("{}: {mixture:04b}: {shown} in {text}", self.flag.0);
                assert_eq!(text.contains(shown), level == strongest, "{what}");
            }
        }
    }
}

type RegistrationRow = Row<fn(RegistrationBuilder) -> RegistrationBuilder>;

#[test]
fn of_a_registration() {
    let rows: [RegistrationRow; 7] = [
        Row {
            code: |builder| builder.name("by-code"),
            micro: Some(("MICRO_SERVER_NAME", "by-micro")),
            waypost: ("WAYPOST_SERVER_NAME", "by-waypost"),
            flag: ("--server-name", "by-flag"),
            shown: [
                r#"name: "greeter""#,
                r#"name: "by-code""#,
                r#"name: "by-micro""#,
                r#"name: "by-waypost""#,
                r#"name: "by-flag""#,
            ],
        },
        Row {
            code: |builder| builder.version("1"),
            micro: Some(("MICRO_SERVER_VERSION", "2")),
            waypost: ("WAYPOST_SERVER_VERSION", "3"),
            flag: ("--server-version", "4"),
            shown: [
                r#"version: "latest""#,
                r#"version: "1""#,
                r#"version: "2""#,
                r#"version: "3""#,
                r#"version: "4""#,
            ],
        },
        Row {
            code: |builder| builder.id("one"),
            micro: Some(("MICRO_SERVER_ID", "two")),
            waypost: ("WAYPOST_SERVER_ID", "three"),
            flag: ("--server-id", "four"),
            shown: [
                r#"id: "greeter-zero""#,
                r#"id: "greeter-one""#,
                r#"id: "greeter-two""#,
                r#"id: "greeter-three""#,
                r#"id: "greeter-four""#,
            ],
        },
        Row {
            code: |builder| builder.advertise("a:1"),
            micro: Some(("MICRO_SERVER_ADVERTISE", "b:2")),
            waypost: ("WAYPOST_SERVER_ADVERTISE", "c"),
            flag: ("--server-advertise", "d:4"),
            shown: [
                "advertise: None",
                r#"Some("a:1")"#,
                r#"Some("b:2")"#,
                r#"Some("c")"#,
                r#"Some("d:4")"#,
            ],
        },
        Row {
            code: |builder| builder.ttl(Duration::from_secs(21)),
            micro: Some(("MICRO_REGISTER_TTL", "22")),
            waypost: ("WAYPOST_REGISTER_TTL", "23s"),
            flag: ("--register-ttl", "24s"),
            shown: ["ttl: 15s", "ttl: 21s", "ttl: 22s", "ttl: 23s", "ttl: 24s"],
        },
        Row {
            code: |builder| builder.interval(Duration::from_secs(1)),
            micro: Some(("MICRO_REGISTER_INTERVAL", "2")),
            waypost: ("WAYPOST_REGISTER_INTERVAL", "3s"),
            flag: ("--register-interval", "4s"),
            shown: [
                "interval: 5s",
                "interval: 1s",
                "interval: 2s",
                "interval: 3s",
                "interval: 4s",
            ],
        },
        Row {
            code: |builder| builder.metadata("zone", "code"),
            micro: Some(("MICRO_SERVER_METADATA", "zone=micro")),
            waypost: ("WAYPOST_SERVER_METADATA", "zone=waypost"),
            flag: ("--server-metadata", "zone=flag"),
            shown: [
                r#""zone": "zero""#,
                r#""zone": "code""#,
                r#""zone": "micro""#,
                r#""zone": "waypost""#,
                r#""zone": "flag""#,
            ],
        },
    ];
    for row in rows {
        row.check(|code, flags, environment| {
            let builder = Registration::builder(MemoryRegistry::new(), Service::new("greeter"));
            let builder = builder.id("zero").metadata("zone", "zero");
            let builder = match code {
                Some(code) => code(builder),
                None => builder,
            };
            let applied = parsed(flags).server.apply_in(builder, environment);
            format!("{:?}", applied.unwrap())
        });
    }
}

#[test]
fn of_the_address_of_a_listener() {
    let row = Row {
        code: "127.0.0.1:1",
        micro: Some(("MICRO_SERVER_ADDRESS", ":2")),
        waypost: ("WAYPOST_SERVER_ADDRESS", "127.0.0.1:3"),
        flag: ("--server-address", "127.0.0.1:4"),
        shown: [
            "127.0.0.1:0",
            "127.0.0.1:1",
            ":2",
            "127.0.0.1:3",
            "127.0.0.1:4",
        ],
    };
    row.check(|code, flags, environment| {
        let default = code.copied().unwrap_or("127.0.0.1:0");
        parsed(flags)
            .server
            .address_in(default, environment)
            .unwrap()
    });
}

type ServerRow = Row<fn(ServerBuilder) -> ServerBuilder>;

#[test]
fn of_a_server() {
    let rows: [ServerRow; 8] = [
        Row {
            code: |server| server.name("by-code"),
            micro: Some(("MICRO_SERVER_NAME", "by-micro")),
            waypost: ("WAYPOST_SERVER_NAME", "by-waypost"),
            flag: ("--server-name", "by-flag"),
            shown: [
                r#"name: "greeter""#,
                r#"name: "by-code""#,
                r#"name: "by-micro""#,
                r#"name: "by-waypost""#,
                r#"name: "by-flag""#,
            ],
        },
        Row {
            code: |server| server.version("1"),
            micro: Some(("MICRO_SERVER_VERSION", "2")),
            waypost: ("WAYPOST_SERVER_VERSION", "3"),
            flag: ("--server-version", "4"),
            shown: [
                r#"version: "latest""#,
                r#"version: "1""#,
                r#"version: "2""#,
                r#"version: "3""#,
                r#"version: "4""#,
            ],
        },
        Row {
            code: |server| server.id("one"),
            micro: Some(("MICRO_SERVER_ID", "two")),
            waypost: ("WAYPOST_SERVER_ID", "three"),
            flag: ("--server-id", "four"),
            shown: [
                "id: None",
                r#"id: Some("one")"#,
                r#"id: Some("two")"#,
                r#"id: Some("three")"#,
                r#"id: Some("four")"#,
            ],
        },
        Row {
            code: |server| server.bind("127.0.0.1:1"),
            micro: Some(("MICRO_SERVER_ADDRESS", ":2")),
            waypost: ("WAYPOST_SERVER_ADDRESS", "127.0.0.1:3"),
            flag: ("--server-address", "127.0.0.1:4"),
            shown: [
                r#"bind: "127.0.0.1:0""#,
                r#"bind: "127.0.0.1:1""#,
                r#"bind: ":2""#,
                r#"bind: "127.0.0.1:3""#,
                r#"bind: "127.0.0.1:4""#,
            ],
        },
        Row {
            code: |server| server.advertise("a:1"),
            micro: Some(("MICRO_SERVER_ADVERTISE", "b:2")),
            waypost: ("WAYPOST_SERVER_ADVERTISE", "c"),
            flag: ("--server-advertise", "d:4"),
            shown: [
                "advertise: None",
                r#"Some("a:1")"#,
                r#"Some("b:2")"#,
                r#"Some("c")"#,
                r#"Some("d:4")"#,
            ],
        },
        Row {
            code: |server| server.ttl(Duration::from_secs(21)),
            micro: Some(("MICRO_REGISTER_TTL", "22")),
            waypost: ("WAYPOST_REGISTER_TTL", "23s"),
            flag: ("--register-ttl", "24s"),
            shown: ["ttl: 15s", "ttl: 21s", "ttl: 22s", "ttl: 23s", "ttl: 24s"],
        },
        Row {
            code: |server| server.interval(Duration::from_secs(1)),
            micro: Some(("MICRO_REGISTER_INTERVAL", "2")),
            waypost: ("WAYPOST_REGISTER_INTERVAL", "3s"),
            flag: ("--register-interval", "4s"),
            shown: [
                "interval: 5s",
                "interval: 1s",
                "interval: 2s",
                "interval: 3s",
                "interval: 4s",
            ],
        },
        Row {
            // Of several entries with one key, the last is registered.
            code: |server| server.metadata("zone", "code"),
            micro: Some(("MICRO_SERVER_METADATA", "zone=micro")),
            waypost: ("WAYPOST_SERVER_METADATA", "zone=waypost"),
            flag: ("--server-metadata", "zone=flag"),
            shown: [
                "metadata: []",
                r#"("zone", "code")]"#,
                r#"("zone", "micro")]"#,
                r#"("zone", "waypost")]"#,
                r#"("zone", "flag")]"#,
            ],
        },
    ];
    for row in rows {
        row.check(|code, flags, environment| {
            let server = Server::builder("greeter", MemoryRegistry::new());
            let server = if let Some(code) = code {
                code(server)
            } else {
                server
            };
            format!(
                "{:?}",
                parsed(flags).server.apply_in(server, environment).unwrap()
            )
        });
    }
}

#[test]
fn metadata_is_given_key_by_key() {
    let args = parsed(&[
        "--server-metadata",
        "a=flag,b=flag",
        "--server-metadata",
        "c=flag",
    ])
    .server;
    let environment = Environment::of(&[
        ("WAYPOST_SERVER_METADATA", "b=waypost, d=waypost"),
        ("MICRO_SERVER_METADATA", "d=micro,e"),
    ]);
    let code = Server::builder("greeter", MemoryRegistry::new())
        .metadata("e", "code")
        .metadata("f", "code");
    let text = format!("{:?}", args.apply_in(code, &environment).unwrap());
    let order = [
        "e code",
        "f code",
        "d micro",
        "e ",
        "b waypost",
        "d waypost",
        "a flag",
        "b flag",
        "c flag",
    ];
    let order: Vec<_> = order
        .iter()
        .filter_map(|pair| pair.split_once(' '))
        .collect();
    assert!(text.contains(&format!("metadata: {order:?}")), "{text}");
}

#[derive(Debug)]
struct Mine;

impl Strategy for Mine {
    fn name(&self) -> &'static str {
        "mine"
    }

    fn build(&self, ready: &ReadySet, context: &mut BuildContext<'_>) -> Box<dyn Picker> {
        crate::balance::Random.build(ready, context)
    }
}

/// Setting of the code, on the client or on the channel.
type ClientRow = Row<(
    fn(ClientBuilder) -> ClientBuilder,
    fn(ChannelBuilder) -> ChannelBuilder,
)>;

#[test]
fn of_a_client_and_its_channels() {
    let rows: [ClientRow; 5] = [
        Row {
            code: (|client| client, |channel| channel.strategy(Mine)),
            micro: None,
            waypost: ("WAYPOST_CLIENT_STRATEGY", "roundrobin"),
            flag: ("--client-strategy", "random"),
            shown: [
                "strategy: LeastRequest",
                "strategy: Mine",
                "",
                "strategy: RoundRobin",
                "strategy: Random",
            ],
        },
        Row {
            code: (|client| client, |channel| channel.max_attempts(1)),
            micro: Some(("MICRO_CLIENT_RETRIES", "1")),
            waypost: ("WAYPOST_CLIENT_RETRIES", "4"),
            flag: ("--client-retries", "5"),
            shown: [
                "max_attempts: 3",
                "max_attempts: 1",
                "max_attempts: 2",
                "max_attempts: 5",
                "max_attempts: 6",
            ],
        },
        Row {
            code: (
                |client| client,
                |channel| channel.default_timeout(Duration::from_secs(1)),
            ),
            micro: Some(("MICRO_CLIENT_REQUEST_TIMEOUT", "1.5s")),
            waypost: ("WAYPOST_CLIENT_REQUEST_TIMEOUT", "3s"),
            flag: ("--client-request-timeout", "1m"),
            shown: [
                "default_timeout: None",
                "default_timeout: Some(1s)",
                "default_timeout: Some(1.5s)",
                "default_timeout: Some(3s)",
                "default_timeout: Some(60s)",
            ],
        },
        Row {
            code: (
                |client| client.connect_timeout(Duration::from_secs(1)),
                |channel| channel,
            ),
            micro: None,
            waypost: ("WAYPOST_CLIENT_CONNECT_TIMEOUT", "3s"),
            flag: ("--client-connect-timeout", "500ms"),
            shown: [
                "connect_timeout: 2s",
                "connect_timeout: 1s",
                "",
                "connect_timeout: 3s",
                "connect_timeout: 500ms",
            ],
        },
        Row {
            code: (
                |client| client,
                |channel| channel.wait_for_ready(Duration::from_secs(1)),
            ),
            micro: None,
            waypost: ("WAYPOST_CLIENT_WAIT_FOR_READY", "4s"),
            flag: ("--client-wait-for-ready", "5s"),
            shown: [
                "wait_for_ready: None",
                "wait_for_ready: Some(1s)",
                "",
                "wait_for_ready: Some(4s)",
                "wait_for_ready: Some(5s)",
            ],
        },
    ];
    for row in rows {
        row.check(|code, flags, environment| {
            let registry = StaticRegistry::new(Vec::<Address>::new(), "grpc");
            let client = Client::builder(AnyRegistry::new(registry));
            let client = if let Some((code, _)) = code {
                code(client)
            } else {
                client
            };
            let client = parsed(flags)
                .client
                .apply_in(client, environment)
                .unwrap()
                .build();
            let channel = client.channel_builder("greeter");
            let channel = if let Some((_, code)) = code {
                code(channel)
            } else {
                channel
            };
            format!("{:?}", channel.build().unwrap())
        });
    }
}

#[test]
fn of_the_registry() {
    let row = Row {
        code: "local:///code",
        micro: Some(("MICRO_REGISTRY", "etcd")),
        waypost: ("WAYPOST_REGISTRY", "static://b:2"),
        flag: ("--registry", "local:///flag"),
        shown: [
            "local:// ",
            "local:///code ",
            "etcd://127.0.0.1:2379 ",
            "static://b:2 ",
            "local:///flag ",
        ],
    };
    row.check(|code, flags, environment| {
        let given = parsed(flags).registry.given(environment).unwrap();
        let url = given
            .as_ref()
            .map_or(code.copied().unwrap_or("local://"), |given| {
                given.value.expose()
            });
        format!("{url} ")
    });
}

#[test]
fn go_micros_words_for_a_registry_make_a_url() {
    let url = |name, addresses| {
        let environment = Environment::of(&[
            ("MICRO_REGISTRY", name),
            ("MICRO_REGISTRY_ADDRESS", addresses),
        ]);
        parsed(&[])
            .registry
            .given(&environment)
            .unwrap()
            .map(|given| given.value.expose().to_owned())
    };
    for (name, addresses, expected) in [
        ("etcd", "a:1, b,,[::1]:3", "etcd://a:1,b,[::1]:3"),
        ("etcd", "", "etcd://127.0.0.1:2379"),
        ("etcd", ",", "etcd://127.0.0.1:2379"),
        ("memory", "a:1", "memory://"),
    ] {
        assert_eq!(url(name, addresses).as_deref(), Some(expected));
    }
    assert_eq!(url("", ""), None);
}
