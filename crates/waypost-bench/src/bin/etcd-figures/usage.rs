//! Resource usage of processes, as the kernel reports it.

use std::net::SocketAddr;
use std::time::Duration;

use waypost_testkit::report::Result;

/// Unit of CPU time that the kernel reports: hundredths of a second, on every architecture that we
/// run on.
const TICK: Duration = Duration::from_millis(10);

/// Returns the CPU time of a process, all its threads together.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain any character.
    let (_, fields) = stat
        .rsplit_once(") ")
        .ok_or("no /proc/PID/stat as we know it")?;
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse::<u32>)
        .sum::<std::result::Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// Returns the resident memory of a process, in MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib
        .ok_or("no VmRSS in /proc/PID/status")?
        .trim()
        .parse::<f64>()?
        / 1024.0)
}

/// Returns the number of established connections to a port of this host.
pub(crate) fn connections(to: SocketAddr) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let is_ours = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port))
            && fields.nth(1) == Some(ESTABLISHED)
    };
    Ok(table.lines().filter(is_ours).count())
}

/// Returns the load of the machine in the last minute, other processes included.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(f64::NAN)
}
