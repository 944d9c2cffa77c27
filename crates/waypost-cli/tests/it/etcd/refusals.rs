//! Registries that cannot be reached or refuse: the exit code, what the error says to do, and never
//! a password.

use waypost_testkit::Child;
use waypost_testkit::etcd::{Etcd, Options};

use crate::support::{Ended, each, end, eventually, run, waypost};

/// A registration that has nothing wrong.
const REGISTER: &[&str] = &[
    "register",
    "--name",
    "a",
    "--id",
    "1",
    "--address",
    "b:1",
    "--metadata",
    "protocol=grpc",
];

const PASSWORD: &str = "correct-horse";
const WRONG: &str = "battery-staple";

/// Registry that cannot be used, and the output of commands on it.
struct Target {
    address: String,
    url: String,
}

impl Target {
    fn new(etcd: &Etcd, scheme: &str, login: &str, rest: &str) -> Self {
        let address = etcd.addresses()[0].to_string();
        let url = format!("{scheme}://{login}{address}{rest}");
        Self { address, url }
    }

    /// Returns the exit code and stderr of a command that must not write to stdout.
    async fn run(&self, args: &[&str]) -> String {
        self.shown(&run(&waypost().args(["--registry", &self.url]).args(args)).await)
    }

    /// Returns the exit code and stderr of a command that is interrupted once it reports that it
    /// continues.
    async fn run_until_stopped(&self, args: &[&str]) -> String {
        let mut child = Child::start(
            "waypost",
            &waypost().args(["--registry", &self.url]).args(args),
        )
        .unwrap();
        eventually(|| {
            child
                .stderr()
                .iter()
                .any(|line| line.contains("retrying") || line.contains("; still "))
        })
        .await;
        child.sigint().unwrap();
        self.shown(&end(&mut child).await)
    }

    fn shown(&self, ended: &Ended) -> String {
        let text = format!("{}\n{}", ended.code.unwrap(), ended.stderr);
        assert!(!text.contains(PASSWORD) && !text.contains(WRONG), "{text}");
        assert!(
            ended.stdout.is_empty() || ended.stdout.starts_with("TIME"),
            "{}",
            ended.stdout
        );
        text.replace(&self.address, "ETCD")
    }
}

#[tokio::test]
async fn an_etcd_that_is_down() {
    let [list, get, wait, deregister, demo, register] = each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.kill().await.unwrap();
        let gone = Target::new(&etcd, "etcd", "", "");
        [
            gone.run(&["list"]).await,
            gone.run(&["get", "greeter"]).await,
            gone.run(&["wait", "greeter", "--timeout", "500ms"]).await,
            gone.run(&["deregister", "greeter", "a"]).await,
            gone.run(&["demo"]).await,
            gone.run_until_stopped(REGISTER).await,
        ]
    })
    .await;
    insta::assert_snapshot!(list, @r"
    3
    error: the etcd registry is unavailable: listing services: ETCD: Connection refused (os error 111)
      is etcd://ETCD the right one, and up? choose with --registry URL or WAYPOST_REGISTRY
    ");
    assert_eq!([&get, &deregister, &demo], [&list; 3]);
    insta::assert_snapshot!(wait, @r"
    3
    error: etcd://ETCD did not respond within 500ms
      is it the right one, and up? choose with --registry URL or WAYPOST_REGISTRY
    ");
    let first = register.lines().take(2).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(first, @r#"
    3
    not registered in etcd://ETCD, retrying: the etcd registry is unavailable: reading the record of "a-1": ETCD: Connection refused (os error 111)
    "#);
}

#[tokio::test]
async fn a_member_that_hangs_is_named() {
    let list = each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.pause().unwrap();
        let output = Target::new(&etcd, "etcd", "", "").run(&["list"]).await;
        // The time limit in the text differs.
        output
            .split_once(" within ")
            .map_or(output.clone(), |(output, _)| output.to_owned())
    })
    .await;
    insta::assert_snapshot!(list, @r"
    3
    error: the etcd registry is unavailable: listing services: ETCD: no handshake
    ");
}

#[tokio::test]
async fn all_members_that_fail_are_named() {
    let list = each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.kill().await.unwrap();
        Target::new(&etcd, "etcd", "", ",no-such-host.invalid")
            .run(&["list"])
            .await
    })
    .await;
    assert!(
        list.contains("ETCD: Connection refused") && list.contains("; no-such-host.invalid:2379: "),
        "{list}"
    );
}

#[tokio::test]
async fn denied_users() {
    let [anonymous, wrong, elsewhere, watch, wait, register, half] = each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(PASSWORD), "/micro/registry")
            .await
            .unwrap();
        let (good, bad) = (format!("waypost:{PASSWORD}@"), format!("waypost:{WRONG}@"));
        let wrong = Target::new(&etcd, "etcd", &bad, "");
        let right = Target::new(&etcd, "etcd", &good, "");
        assert!(
            right
                .run(&["get", "greeter"])
                .await
                .starts_with("1\nerror: service")
        );
        assert_eq!(
            wrong.run(&["get", "greeter"]).await,
            wrong.run(&["deregister", "greeter", "a"]).await
        );
        [
            Target::new(&etcd, "etcd", "", "").run(&["list"]).await,
            wrong.run(&["list"]).await,
            Target::new(&etcd, "etcd", &good, "/other")
                .run(&["list"])
                .await,
            wrong.run_until_stopped(&["watch"]).await,
            wrong.run(&["wait", "greeter", "--timeout", "4s"]).await,
            wrong.run_until_stopped(REGISTER).await,
            Target::new(&etcd, "etcd", "waypost@", "")
                .run(&["list"])
                .await,
        ]
    })
    .await;
    insta::assert_snapshot!(anonymous, @r"
    3
    error: the etcd registry refused: listing services: user name is empty
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /micro/registry/
    ");
    insta::assert_snapshot!(wrong, @r"
    3
    error: the etcd registry refused: listing services: authentication failed, invalid user ID or password
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /micro/registry/
    ");
    insta::assert_snapshot!(elsewhere, @r"
    3
    error: the etcd registry refused: listing services: permission denied
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /other/
    ");
    insta::assert_snapshot!(watch, @r"
    130
    the etcd registry refused: watching: authentication failed, invalid user ID or password; still watching
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /micro/registry/
    ");
    insta::assert_snapshot!(wait, @r"
    3
    the etcd registry refused: watching: authentication failed, invalid user ID or password; still waiting
    error: the etcd registry refused: watching: authentication failed, invalid user ID or password
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /micro/registry/
    ");
    insta::assert_snapshot!(register, @r#"
    3
    not registered in etcd://ETCD, retrying: the etcd registry refused: reading the record of "a-1": authentication failed, invalid user ID or password
    error: the etcd registry refused: reading the record of "a-1": authentication failed, invalid user ID or password
      check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), and that its role may read and write /micro/registry/
    "#);
    insta::assert_snapshot!(half, @r#"
    2
    error: etcd password: is missing for user "waypost": give it in the URL, by password_file=, or as ETCD_PASSWORD
    "#);
}

#[tokio::test]
async fn the_environment_names_the_user() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(PASSWORD), "/micro/registry")
            .await
            .unwrap();
        let url = format!("etcd://{}", etcd.addresses()[0]);
        let login = waypost()
            .env("WAYPOST_REGISTRY", &url)
            .env("ETCD_USERNAME", "waypost")
            .env("ETCD_PASSWORD", PASSWORD);
        assert_eq!(run(&login.args(["list"])).await.code, Some(0));
    })
    .await;
}

#[tokio::test]
async fn encryption_must_be_on_both_sides() {
    let [untrusted, no_file] = each(async |binary| {
        let plain = Etcd::start(&binary, &Options::one()).await.unwrap();
        let tls = Etcd::start(&binary, &Options::one().tls()).await.unwrap();
        let mutual = Etcd::start(&binary, &Options::one().mutual_tls())
            .await
            .unwrap();
        let ca = |etcd: &Etcd| format!("?ca={}", etcd.authority().unwrap().certificate().display());
        assert!(
            Target::new(&tls, "etcds", "", &ca(&tls))
                .run(&["get", "greeter"])
                .await
                .starts_with("1\nerror: service")
        );
        // The other side may report a reason, close or reset the connection, by chance. What to do
        // is the same.
        for (target, remedy) in [
            (
                Target::new(&tls, "etcd", "", ""),
                "(the member speaks TLS: use etcds://)",
            ),
            (
                Target::new(&plain, "etcds", "", ""),
                "does not speak TLS: use etcd://)",
            ),
            (
                Target::new(&mutual, "etcds", "", &ca(&mutual)),
                "(the member requires a client certificate: set cert= and key=",
            ),
        ] {
            let output = target.run(&["list"]).await;
            assert!(
                output.starts_with(
                    "3\nerror: the etcd registry is unavailable: listing services: ETCD: "
                ),
                "{output}"
            );
            assert!(output.contains(remedy), "{output}");
        }
        [
            Target::new(&tls, "etcds", "", "").run(&["list"]).await,
            Target::new(&tls, "etcds", "", "?ca=/nowhere")
                .run(&["list"])
                .await,
        ]
    })
    .await;
    insta::assert_snapshot!(untrusted, @r"
    3
    error: the etcd registry is unavailable: listing services: ETCD: invalid peer certificate: UnknownIssuer (the certificate must be signed by ca=, for this host or server_name=)
      is etcds://ETCD the right one, and up? choose with --registry URL or WAYPOST_REGISTRY
    ");
    insta::assert_snapshot!(no_file, @r#"
    2
    error: etcd TLS: the CA certificate "/nowhere" cannot be read: No such file or directory (os error 2)
    "#);
}
