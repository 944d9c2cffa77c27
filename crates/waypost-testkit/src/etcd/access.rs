//! Users and their permissions.

use super::Etcd;
use crate::Failure;

/// Login of the root user, which has all permissions once authentication is enabled.
pub const ROOT: &str = "root:waypost-root-password";

impl Etcd {
    /// Enables authentication with two users: [`ROOT`], which has all permissions, and `user`,
    /// which may only read and write keys that begin with `prefix`. Without a password, a client
    /// certificate with that common name authenticates the user.
    ///
    /// # Errors
    /// Authentication is already enabled, or a step failed.
    ///
    /// # Cancel safety
    /// If the future is dropped, some steps have been made: start another cluster.
    pub async fn enable_auth(
        &mut self,
        user: &str,
        password: Option<&str>,
        prefix: &str,
    ) -> Result<(), Failure> {
        for args in [
            &["role", "add", "root"][..],
            &["user", "add", ROOT],
            &["user", "grant-role", "root", "root"],
        ] {
            self.ctl(args).await?;
        }
        match password {
            Some(password) => {
                self.ctl(&["user", "add", &format!("{user}:{password}")])
                    .await?
            }
            None => self.ctl(&["user", "add", user, "--no-password"]).await?,
        };
        self.ctl(&["role", "add", user]).await?;
        self.ctl(&["user", "grant-role", user, user]).await?;
        self.allow(user, prefix).await?;
        self.ctl(&["auth", "enable"]).await?;
        self.control.login = Some(ROOT.to_owned());
        Ok(())
    }

    /// Sets a new password for `user`; its tokens are invalid from then on.
    ///
    /// # Errors
    /// There is no such user.
    ///
    /// # Cancel safety
    /// If the future is dropped, the password may have been set.
    pub async fn set_password(&self, user: &str, password: &str) -> Result<(), Failure> {
        let args = ["user", "passwd", user, "--interactive=false"];
        self.call(self.control.login.as_deref(), &args, password.as_bytes())
            .await
            .map(drop)
    }

    /// Grants `user` the permission to read and write keys that begin with `prefix`.
    ///
    /// # Errors
    /// There is no such user.
    ///
    /// # Cancel safety
    /// If the future is dropped, the permission may have been granted.
    pub async fn allow(&self, user: &str, prefix: &str) -> Result<(), Failure> {
        self.ctl(&[
            "role",
            "grant-permission",
            user,
            "--prefix=true",
            "readwrite",
            prefix,
        ])
        .await
        .map(drop)
    }

    /// Revokes that permission.
    ///
    /// # Errors
    /// The permission was not granted.
    ///
    /// # Cancel safety
    /// If the future is dropped, the permission may have been revoked.
    pub async fn forbid(&self, user: &str, prefix: &str) -> Result<(), Failure> {
        self.ctl(&["role", "revoke-permission", user, "--prefix=true", prefix])
            .await
            .map(drop)
    }
}
