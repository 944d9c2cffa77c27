//! Servers that accept connections and misbehave.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, server};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};

/// Misbehaviour of a server on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hostility {
    /// Closes the connection without sending anything.
    BreaksOff,
    /// Never sends anything.
    Mute,
    /// Sends another protocol.
    Garbles,
    /// Sends its SETTINGS, reads requests without a response, and closes after this time.
    Closes(Duration),
    /// Sends its SETTINGS, reads requests without a response, and sends GOAWAY with this code after
    /// this time.
    SaysGoAway(Duration, Reason),
}

impl Hostility {
    /// Returns every kind; those that complete the handshake are included with several lifetimes.
    pub(crate) fn all() -> Vec<Self> {
        let lives = [0, 1, 30, 300, 990, 1_000].map(Duration::from_millis);
        let reasons = [
            Reason::ENHANCE_YOUR_CALM,
            Reason::NO_ERROR,
            Reason::INTERNAL_ERROR,
        ];
        let mut all = vec![Self::BreaksOff, Self::Mute, Self::Garbles];
        all.extend(lives.map(Self::Closes));
        all.extend(
            lives
                .into_iter()
                .flat_map(|life| reasons.map(|reason| Self::SaysGoAway(life, reason))),
        );
        all
    }

    /// Returns true if no request is read before the connection ends.
    pub(crate) fn reads_no_request(self) -> bool {
        match self {
            Self::BreaksOff | Self::Mute | Self::Garbles => true,
            Self::Closes(life) | Self::SaysGoAway(life, _) => life.is_zero(),
        }
    }

    /// Misbehaves on one connection.
    pub(crate) async fn treat(self, mut io: DuplexStream) {
        match self {
            Self::BreaksOff => {}
            Self::Mute => {
                let _kept = io;
                std::future::pending::<()>().await;
            }
            Self::Garbles => {
                let _ = io
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                    .await;
                sleep(Duration::from_secs(1)).await;
            }
            Self::Closes(life) => {
                if let Ok(mut connection) = server::handshake(io).await {
                    read_for(&mut connection, life).await;
                }
            }
            Self::SaysGoAway(life, reason) => {
                if let Ok(mut connection) = server::handshake(io).await {
                    read_for(&mut connection, life).await;
                    connection.abrupt_shutdown(reason);
                    read_for(&mut connection, Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Reads requests and sends no response.
async fn read_for(connection: &mut server::Connection<DuplexStream, Bytes>, time: Duration) {
    let mut unanswered = Vec::new();
    let reading = async {
        while let Some(Ok(request)) = connection.accept().await {
            unanswered.push(request);
        }
    };
    let _ = timeout(time, reading).await;
}
