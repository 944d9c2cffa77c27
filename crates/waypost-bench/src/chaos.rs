//! `bench chaos`: calls that a service loses when its processes and its network fail. Uses real
//! server processes, real signals, a registry in a directory or a real etcd, and calls at a steady
//! rate, whatever the responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tonic::Request;
use waypost::record::{Node, Service, keys};
use waypost::{AnyRegistry, Channel, Client, Registration, Server};
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::GreeterServer;
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest};
use waypost_testkit::etcd::{Binary, Etcd, Options as EtcdOptions};
use waypost_testkit::report::{Figures, Result, rounded};
use waypost_testkit::{Child, Port, Program, Proxy};

use crate::options::BenchOptions;
use crate::servers::Slow;

const SERVICE: &str = "greeter";
const SERVERS: usize = 5;
const START: Duration = Duration::from_secs(20);
/// Maximum time to the first response after a firewall has dropped the connection state.
const FORGOTTEN: Duration = Duration::from_millis(1_500);

/// Runs a server that registers itself: `node URL ID [ADVERTISED]`. Prints its address, then
/// `registered`.
pub(crate) fn node(args: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [url, id, advertised @ ..] = args else {
        return Err("node URL ID [ADVERTISED]".into());
    };
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let server = Server::builder(SERVICE, waypost::connect(url).await?)
                .id(id)
                .bind("127.0.0.1:0");
            let server = advertised
                .iter()
                .fold(server, |server, address| server.advertise(address.as_str()));
            let server = server.allow_loopback(true).descriptor(FILE_DESCRIPTOR_SET);
            let mut running = server
                .add_service(GreeterServer::new(Slow {
                    takes: Duration::ZERO,
                }))
                .start()
                .await?;
            println!("{}", running.address());
            running.registered().await?;
            println!("registered");
            Ok(running.wait().await?)
        })
}

pub(crate) fn run(options: &BenchOptions) -> Result<Figures> {
    let only = options.value("only").map(str::to_owned);
    let seconds = options.number("seconds", 45)?;
    let mut figures = Figures {
        table: String::new(),
        json: json!({}),
        failures: Vec::new(),
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for kind in registry_kinds(options)? {
            let mut runner = ChaosRunner::new(kind).await?;
            for (name, scenario) in SCENARIOS {
                if only.as_ref().is_some_and(|only| only != name) {
                    continue;
                }
                let outcomes = match scenario {
                    Scenario::CrashLoop => runner.crash_loop(seconds).await?,
                    Scenario::Dead => runner.dead().await?,
                    Scenario::Frozen => runner.frozen().await?,
                    Scenario::CutOff => runner.cut_off().await?,
                    Scenario::Firewall => runner.firewall().await?,
                };
                for outcome in outcomes {
                    outcome.show(&runner.name, &mut figures);
                }
            }
            runner.end().await;
        }
        Ok(figures)
    })
}

#[derive(Clone, Copy)]
enum Scenario {
    CrashLoop,
    Dead,
    Frozen,
    CutOff,
    Firewall,
}

const SCENARIOS: [(&str, Scenario); 5] = [
    ("crash-loop", Scenario::CrashLoop),
    ("dead", Scenario::Dead),
    ("frozen", Scenario::Frozen),
    ("cut-off", Scenario::CutOff),
    ("firewall", Scenario::Firewall),
];

/// Registries to run on.
enum RegistryKind {
    Local,
    Etcd(Binary),
}

fn registry_kinds(options: &BenchOptions) -> Result<Vec<RegistryKind>> {
    let etcds =
        || Binary::all().map(|all| all.into_iter().map(RegistryKind::Etcd).collect::<Vec<_>>());
    Ok(match options.value("registry") {
        Some("local") => vec![RegistryKind::Local],
        Some("etcd") => etcds()?,
        None => std::iter::once(RegistryKind::Local)
            .chain(etcds()?)
            .collect(),
        Some(other) => return Err(format!("--registry {other}: give local or etcd").into()),
    })
}

/// Result of one scenario.
struct Outcome {
    name: String,
    calls: u64,
    failed: u64,
    longest_gap: Duration,
    longest_call: Duration,
    limit: Option<Duration>,
    error: Option<String>,
}

impl Outcome {
    fn show(self, kind: &str, figures: &mut Figures) {
        let Self {
            name,
            calls,
            failed,
            longest_gap,
            longest_call,
            limit,
            error,
        } = self;
        let (gap, call) = (longest_gap.as_secs_f64(), longest_call.as_secs_f64());
        let line = format!(
            "{kind:<12} {name:<28} {calls:>7} calls {failed:>5} failed  longest gap {gap:>6.2} s  longest call {call:>6.2} s"
        );
        println!("{line}");
        if failed > 0 {
            figures.failures.push(format!(
                "{kind} {name}: {failed} failed: {}",
                error.unwrap_or_default()
            ));
        }
        if limit.is_some_and(|limit| longest_call > limit) {
            figures
                .failures
                .push(format!("{kind} {name}: the longest call took {call:.2} s"));
        }
        if let Value::Object(json) = &mut figures.json {
            let value = json!({ "calls": calls, "failed": failed, "longest_gap_s": rounded(gap), "longest_call_s": rounded(call) });
            json.insert(format!("{kind} {name}"), value);
        }
    }
}

/// One registry, for one scenario after another.
struct ChaosRunner {
    name: String,
    url: String,
    etcd: Option<Etcd>,
    folder: Option<tempfile::TempDir>,
    scenes: u32,
}

impl ChaosRunner {
    async fn new(kind: RegistryKind) -> Result<Self> {
        Ok(match kind {
            RegistryKind::Local => {
                let folder = tempfile::tempdir()?;
                let url = format!("local://{}", folder.path().display());
                Self {
                    name: "local".into(),
                    url,
                    etcd: None,
                    folder: Some(folder),
                    scenes: 0,
                }
            }
            RegistryKind::Etcd(binary) => {
                let name = format!("etcd {}", binary.version());
                let etcd = Etcd::start(&binary, &EtcdOptions::one()).await?;
                let url = format!("etcd://{}", etcd.addresses()[0]);
                Self {
                    name,
                    url,
                    etcd: Some(etcd),
                    folder: None,
                    scenes: 0,
                }
            }
        })
    }

    async fn end(self) {
        drop((self.etcd, self.folder));
    }

    /// Returns the URL of a registry of its own for the next scenario.
    fn next_url(&mut self) -> Result<String> {
        self.scenes += 1;
        let url = format!("{}/s{}", self.url, self.scenes);
        if let Some(folder) = &self.folder {
            let path = folder.path().join(format!("s{}", self.scenes));
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        }
        Ok(url)
    }

    /// Starts twenty processes each second that register and die, beside five good ones.
    async fn crash_loop(&mut self, seconds: u64) -> Result<Vec<Outcome>> {
        let url = self.next_url()?;
        let _good = servers(&url, SERVERS).await?;
        let (client, channel) = client(&url).await?;
        let load = ChaosLoad::start(&channel, 200);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut round = 0;
        let mut tick = interval(Duration::from_secs(1));
        while Instant::now() < end {
            tick.tick().await;
            let mut doomed = JoinSet::new();
            for number in 0..20 {
                let (url, id) = (url.clone(), format!("doomed-{round}-{number}"));
                doomed.spawn(async move {
                    if let Ok(mut child) = start(&url, &id, None) {
                        let _ = child
                            .line_where(Duration::from_secs(3), |line| line == "registered")
                            .await;
                        let _ = child.sigkill();
                    }
                });
            }
            doomed.join_all().await;
            round += 1;
        }
        let outcome = load.end("crash loop").await;
        client.close().await;
        Ok(vec![outcome])
    }

    /// Registers a thousand nodes that refuse connections, beside five good ones, for new clients.
    async fn dead(&mut self) -> Result<Vec<Outcome>> {
        let url = self.next_url()?;
        let refusing = Port::take()?;
        let registry = waypost::connect(&url).await?;
        let dead = dead(&registry, 1_000, &refusing.address().to_string()).await?;
        let _good = servers(&url, SERVERS).await?;
        let mut outcomes = Vec::new();
        for number in 1..=6 {
            let (client, channel) = client(&url).await?;
            let load = ChaosLoad::start(&channel, 200);
            sleep(Duration::from_secs(3)).await;
            outcomes.push(load.end(&format!("1 000 dead, client {number}")).await);
            client.close().await;
        }
        drop(dead);
        Ok(outcomes)
    }

    /// Freezes all five servers for some seconds.
    async fn frozen(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (seconds, rate) in [(4, 200), (8, 200), (4, 2_000), (8, 2_000)] {
            let url = self.next_url()?;
            let mut good = servers(&url, SERVERS).await?;
            let (client, channel) = client(&url).await?;
            let load = ChaosLoad::start(&channel, rate);
            sleep(Duration::from_secs(2)).await;
            good.iter_mut().try_for_each(Child::sigstop)?;
            sleep(Duration::from_secs(seconds)).await;
            good.iter_mut().try_for_each(Child::sigcont)?;
            sleep(Duration::from_secs(4)).await;
            outcomes.push(load.end(&format!("frozen {seconds} s, {rate}/s")).await);
            client.close().await;
        }
        Ok(outcomes)
    }

    /// Discards all packets to and from all five servers, by a proxy before each.
    async fn cut_off(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (seconds, rate) in [(4, 200), (8, 200), (4, 2_000), (8, 2_000)] {
            let url = self.next_url()?;
            let (_good, proxies) = behind_proxies(&url, SERVERS).await?;
            let (client, channel) = client(&url).await?;
            let load = ChaosLoad::start(&channel, rate);
            sleep(Duration::from_secs(2)).await;
            proxies.iter().for_each(|proxy| proxy.swallow(true));
            sleep(Duration::from_secs(seconds)).await;
            proxies.iter().for_each(|proxy| proxy.swallow(false));
            sleep(Duration::from_secs(6)).await;
            outcomes.push(load.end(&format!("cut off {seconds} s, {rate}/s")).await);
            client.close().await;
        }
        Ok(outcomes)
    }

    /// Drops the state of the idle connections to three nodes, as a firewall does.
    async fn firewall(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for idempotent in [true, false] {
            let url = self.next_url()?;
            let (_good, proxies) = behind_proxies(&url, 3).await?;
            let (client, _) = client(&url).await?;
            let builder = client.channel_builder(SERVICE);
            let builder = if idempotent {
                builder
            } else {
                builder.not_idempotent("/greeter.Greeter/Hello")
            };
            let channel = builder.build()?;
            channel.ready(START).await?;
            hello(&channel, Duration::from_secs(30))
                .await
                .map_err(|error| error.to_string())?;
            sleep(Duration::from_secs(12)).await;
            proxies.iter().for_each(Proxy::half_open);
            let start = Instant::now();
            let answer = hello(&channel, Duration::from_secs(30)).await;
            let took = start.elapsed();
            outcomes.push(Outcome {
                name: format!("firewall, idempotent {idempotent}"),
                calls: 1,
                failed: u64::from(answer.is_err()),
                longest_gap: took,
                longest_call: took,
                limit: Some(FORGOTTEN),
                error: answer.err().map(|status| status.message().to_owned()),
            });
            client.close().await;
        }
        Ok(outcomes)
    }
}

fn start(url: &str, id: &str, advertised: Option<&str>) -> Result<Child> {
    let program = Program::new(std::env::current_exe()?);
    Ok(Child::start(
        id,
        &program.args(["node", url, id].into_iter().chain(advertised)),
    )?)
}

async fn servers(url: &str, count: usize) -> Result<Vec<Child>> {
    let mut servers = (0..count)
        .map(|number| start(url, &format!("good-{number}"), None))
        .collect::<Result<Vec<_>>>()?;
    for server in &mut servers {
        server
            .line_where(START, |line| line == "registered")
            .await?;
    }
    Ok(servers)
}

async fn behind_proxies(url: &str, count: usize) -> Result<(Vec<Child>, Vec<Proxy>)> {
    let (mut servers, mut proxies) = (Vec::new(), Vec::new());
    for number in 0..count {
        let proxy = Proxy::start(([127, 0, 0, 1], 1).into()).await?;
        let mut server = start(
            url,
            &format!("good-{number}"),
            Some(&proxy.address().to_string()),
        )?;
        proxy.retarget(server.line(START).await?.parse()?);
        server
            .line_where(START, |line| line == "registered")
            .await?;
        servers.push(server);
        proxies.push(proxy);
    }
    Ok((servers, proxies))
}

/// Registers nodes that refuse connections.
async fn dead(registry: &AnyRegistry, count: usize, address: &str) -> Result<Vec<Registration>> {
    let mut registrations = Vec::new();
    for number in 0..count {
        let mut node = Node::with_id(SERVICE, &format!("dead-{number}"), address);
        node.metadata.insert(keys::PROTOCOL, "grpc");
        let mut service = Service::new(SERVICE);
        service.nodes.push(node);
        registrations.push(Registration::builder(registry.clone(), service).start()?);
    }
    for registration in &registrations {
        registration.registered().await?;
    }
    Ok(registrations)
}

async fn client(url: &str) -> Result<(Client, Channel)> {
    let client = Client::builder(waypost::connect(url).await?)
        .address_policy(waypost::AddressPolicy { loopback: true })
        .build();
    let channel = client.channel(SERVICE)?;
    Ok((client, channel))
}

async fn hello(channel: &Channel, timeout: Duration) -> std::result::Result<(), tonic::Status> {
    let mut request = Request::new(HelloRequest {
        name: "Ann".to_owned(),
    });
    request.set_timeout(timeout);
    GreeterClient::new(channel.clone())
        .hello(request)
        .await
        .map(drop)
}

/// Calls at a steady rate, whatever the responses.
struct ChaosLoad {
    task: tokio::task::JoinHandle<JoinSet<ChaosCall>>,
    stop: Arc<AtomicU64>,
}

struct ChaosCall {
    ended: Instant,
    took: Duration,
    error: Option<String>,
}

impl ChaosLoad {
    fn start(channel: &Channel, rate: u64) -> Self {
        let (channel, stop) = (channel.clone(), Arc::new(AtomicU64::new(0)));
        let stopped = Arc::clone(&stop);
        #[expect(clippy::disallowed_methods, reason = "joined by `end`")]
        let task = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            let mut tick = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1));
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while stopped.load(Relaxed) == 0 {
                let due = tick.tick().await;
                let channel = channel.clone();
                calls.spawn(async move {
                    let answer = hello(&channel, Duration::from_secs(30)).await;
                    let ended = Instant::now();
                    let error = answer
                        .err()
                        .map(|status| format!("{:?}: {}", status.code(), status.message()));
                    ChaosCall {
                        ended,
                        took: ended - due,
                        error,
                    }
                });
            }
            calls
        });
        Self { task, stop }
    }

    async fn end(self, name: &str) -> Outcome {
        self.stop.store(1, Relaxed);
        let calls = match self.task.await {
            Ok(calls) => calls.join_all().await,
            Err(_) => Vec::new(),
        };
        let mut answered: Vec<_> = calls
            .iter()
            .filter(|call| call.error.is_none())
            .map(|call| call.ended)
            .collect();
        answered.sort();
        Outcome {
            name: name.to_owned(),
            calls: calls.len() as u64,
            failed: calls.iter().filter(|call| call.error.is_some()).count() as u64,
            longest_gap: answered
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or_default(),
            longest_call: calls.iter().map(|call| call.took).max().unwrap_or_default(),
            limit: None,
            error: calls.into_iter().find_map(|call| call.error),
        }
    }
}
