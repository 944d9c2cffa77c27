//! Authentication: a user and a password, exchanged for one token that all requests of a handle
//! share. A login costs etcd 65 ms of CPU.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use waypost_http::direct::DirectConnection;

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

/// Token of the current login; none inside if authentication is not enabled.
type TokenCell = Arc<OnceCell<Option<Secret>>>;

#[derive(Debug)]
pub(super) struct Auth {
    credentials: Credentials,
    token: Mutex<TokenCell>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            token: Mutex::default(),
        }
    }

    /// Returns the token. The first caller logs in, the others wait for it.
    pub(super) async fn token(
        &self,
        connection: &DirectConnection,
    ) -> Result<Option<Secret>, EtcdError> {
        let token = Arc::clone(&self.lock());
        token
            .get_or_try_init(|| self.log_in(connection))
            .await
            .cloned()
    }

    async fn log_in(&self, connection: &DirectConnection) -> Result<Option<Secret>, EtcdError> {
        let Credentials { user, password } = &self.credentials;
        let request = AuthenticateRequest {
            name: user.clone(),
            password: password.read()?.expose().to_owned(),
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
        let mut token = self.lock();
        if token
            .get()
            .is_some_and(|current| current.as_ref() == rejected)
        {
            *token = TokenCell::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, TokenCell> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
