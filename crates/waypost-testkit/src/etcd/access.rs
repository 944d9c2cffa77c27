//! Users and what they may do.

use super::Etcd;
use crate::Failure;

/// The login of the user that may do everything, once authentication is on.
pub const ROOT: &str = "root:waypost-root-password";

impl Etcd {
    /// Turns authentication on: [`ROOT`], who may do everything, and `user`, who may read and write keys that begin with `prefix` and
    /// nothing else. Without a password the user is whoever shows a certificate of that common name.
    ///
    /// # Errors
    /// It is on already, or a step failed.
    ///
    /// # Cancel safety
    /// Dropped half-way, some steps have been made: start another cluster.
    pub async fn enable_auth(&mut self, user: &str, password: Option<&str>, prefix: &str) -> Result<(), Failure> {
        for args in [&["role", "add", "root"][..], &["user", "add", ROOT], &["user", "grant-role", "root", "root"]] {
            self.ctl(args).await?;
        }
        match password {
            Some(password) => self.ctl(&["user", "add", &format!("{user}:{password}")]).await?,
            None => self.ctl(&["user", "add", user, "--no-password"]).await?,
        };
        self.ctl(&["role", "add", user]).await?;
        self.ctl(&["user", "grant-role", user, user]).await?;
        self.allow(user, prefix).await?;
        self.ctl(&["auth", "enable"]).await?;
        self.control.login = Some(ROOT.to_owned());
        Ok(())
    }

    /// Gives `user` a new password; its tokens are void from then on.
    ///
    /// # Errors
    /// There is no such user.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done.
    pub async fn set_password(&self, user: &str, password: &str) -> Result<(), Failure> {
        let args = ["user", "passwd", user, "--interactive=false"];
        self.call(self.control.login.as_deref(), &args, password.as_bytes()).await.map(drop)
    }

    /// Lets `user` read and write keys that begin with `prefix`.
    ///
    /// # Errors
    /// There is no such user.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done.
    pub async fn allow(&self, user: &str, prefix: &str) -> Result<(), Failure> {
        self.ctl(&["role", "grant-permission", user, "--prefix=true", "readwrite", prefix]).await.map(drop)
    }

    /// Takes that permission away again.
    ///
    /// # Errors
    /// It was not given.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done.
    pub async fn forbid(&self, user: &str, prefix: &str) -> Result<(), Failure> {
        self.ctl(&["role", "revoke-permission", user, "--prefix=true", prefix]).await.map(drop)
    }
}
