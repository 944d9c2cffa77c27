//! Prometheus metrics of a member.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Metrics of one member at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub(super) async fn read(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(Self(answer))
    }

    /// Returns the value of the metric `name`, such as `etcd_disk_wal_write_bytes_total`. For a
    /// metric with labels, returns the sum of the values whose labels contain each of `labels`,
    /// such as `grpc_method="Watch"`. `None` if there is no such line.
    pub fn get(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let figures = self.0.lines().filter_map(|line| figure(line, name, labels));
        figures.fold(None, |sum, figure| Some(sum.unwrap_or(0.0) + figure))
    }
}

fn figure(line: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let (key, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
    let ours =
        (key.is_empty() || key.starts_with('{')) && labels.iter().all(|label| key.contains(label));
    if ours { value.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_and_those_with_labels_are_summed() {
        let text = "# HELP a b\na 1.5\na_more 7\ng{m=\"Watch\",c=\"OK\"} 2\ng{m=\"Watch\",c=\"NO\"} 3\ng{m=\"Put\",c=\"OK\"} 4\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(
            [metrics.get("a", &[]), metrics.get("b", &[])],
            [Some(1.5), None]
        );
        assert_eq!(
            [metrics.get("g", &[]), metrics.get("g", &["m=\"Watch\""])],
            [Some(9.0), Some(5.0)]
        );
    }
}
