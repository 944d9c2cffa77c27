//! Authentication: a user and a password, exchanged for one token that all requests of a handle
//! share. A login costs etcd 65 ms of CPU.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use waypost_core::backoff::BackoffConfig;
use waypost_http::direct::DirectConnection;

use super::{Cluster, MemberConnection};
use crate::error::EtcdError;
use crate::options::password_in;
use crate::rpc::{self, AuthenticateRequest};
use crate::secret::Secret;

/// User of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Password,
}

/// Password of a user, or the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Password {
    Inline(Secret),
    /// Read at each login, since it may have changed.
    File(PathBuf),
}

impl Password {
    fn read(&self) -> Result<Secret, EtcdError> {
        match self {
            Self::Inline(password) => Ok(password.clone()),
            Self::File(file) => password_in(file).map_err(EtcdError::Denied),
        }
    }
}

/// Timeout of a login. etcd pays for a login that its client has given up, so that a client that
/// gives up early and tries again keeps etcd busy with logins that are not used.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Backoff after failed logins.
const LOGIN_BACKOFF: BackoffConfig = BackoffConfig {
    initial: Duration::from_millis(250),
    max: Duration::from_secs(60),
};

#[derive(Debug)]
pub(super) struct Auth {
    credentials: Credentials,
    state: Mutex<LoginState>,
}

#[derive(Debug, Default)]
struct LoginState {
    /// Token of the last login; none inside if authentication is not enabled.
    token: Option<Option<Secret>>,
    /// Login in progress; its channel closes when the login ends.
    running: Option<watch::Receiver<()>>,
    failures: u32,
    /// Last failure; it is the answer to every caller until its backoff is over.
    failed: Option<FailedLogin>,
}

#[derive(Debug)]
struct FailedLogin {
    error: EtcdError,
    backoff_until: Instant,
    /// Password of the login; another one is tried at once.
    password: Option<Secret>,
}

/// Next step of a caller that needs a token.
enum Login {
    Done(Option<Secret>),
    Failed(EtcdError),
    /// Wait for the end of the login in progress.
    Running(watch::Receiver<()>),
    /// Run the login; its end is the end of the sender.
    Start(watch::Sender<()>),
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            state: Mutex::default(),
        }
    }

    /// Returns the token, or what to do for one.
    fn login(&self, now: Instant) -> Login {
        let mut state = self.lock();
        if let Some(token) = &state.token {
            return Login::Done(token.clone());
        }
        // A login that ended without a result was dropped with its runtime.
        let running = state.running.clone();
        if let Some(running) = running.filter(|running| running.has_changed().is_ok()) {
            return Login::Running(running);
        }
        if let Some(failed) = &state.failed
            && now < failed.backoff_until
            && self.credentials.password.read().ok() == failed.password
        {
            return Login::Failed(failed.error.clone());
        }
        let (sender, receiver) = watch::channel(());
        state.running = Some(receiver);
        Login::Start(sender)
    }

    /// Logs in, and records the result.
    async fn log_in(&self, connection: &DirectConnection) {
        let (started, password) = (now(), self.credentials.password.read());
        let result = match &password {
            Ok(password) => {
                let login = timeout(LOGIN_TIMEOUT, self.authenticate(connection, password)).await;
                login.unwrap_or_else(|_| Err(EtcdError::Timeout(started.elapsed())))
            }
            Err(error) => Err(error.clone()),
        };
        let mut state = self.lock();
        match result {
            Ok(token) => {
                (state.token, state.failed, state.failures) = (Some(token), None, 0);
            }
            Err(error) => {
                let delay = LOGIN_BACKOFF.delay(state.failures, fastrand::f64());
                state.failures = state.failures.saturating_add(1);
                state.failed = Some(FailedLogin {
                    error,
                    backoff_until: now() + delay,
                    password: password.ok(),
                });
            }
        }
    }

    async fn authenticate(
        &self,
        connection: &DirectConnection,
        password: &Secret,
    ) -> Result<Option<Secret>, EtcdError> {
        let user = &self.credentials.user;
        let request = AuthenticateRequest {
            name: user.clone(),
            password: password.expose().to_owned(),
        };
        match rpc::call(connection, request, None).await {
            Ok(response) => Ok(Some(Secret::new(response.token))),
            Err(status) => match EtcdError::from_status(&status) {
                EtcdError::AuthDisabled(_) => {
                    tracing::warn!(
                        user,
                        "etcd authentication is disabled; every client may read and write"
                    );
                    Ok(None)
                }
                error => Err(error),
            },
        }
    }

    /// Discards a token that was refused, unless a newer one has replaced it.
    pub(super) fn invalidate(&self, rejected: Option<&Secret>) {
        let mut state = self.lock();
        if state
            .token
            .as_ref()
            .is_some_and(|current| current.as_ref() == rejected)
        {
            state.token = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, LoginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    /// Returns the auth token, if a user is configured. The login is a task of the handle: one at a
    /// time, it outlives its callers, and a late response is used.
    ///
    /// # Errors
    /// The last error of a login, or there was no response before the deadline.
    pub(super) async fn token(
        &self,
        connection: &MemberConnection,
        deadline: Instant,
    ) -> Result<Option<Secret>, EtcdError> {
        let Some(auth) = &self.auth else {
            return Ok(None);
        };
        let started = now();
        loop {
            let mut running = match auth.login(now()) {
                Login::Done(token) => return Ok(token),
                Login::Failed(error) => return Err(error),
                Login::Running(running) => running,
                Login::Start(ended) => {
                    let (auth, connection) = (Arc::clone(auth), connection.clone());
                    let login = async move {
                        auth.log_in(&connection.transport).await;
                        drop(ended);
                    };
                    self.spawn(login).ok_or(EtcdError::Closed)?;
                    continue;
                }
            };
            // The channel never changes; it closes at the end of the login.
            if timeout_at(deadline, running.changed()).await.is_err() {
                return Err(EtcdError::Timeout(started.elapsed()));
            }
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
