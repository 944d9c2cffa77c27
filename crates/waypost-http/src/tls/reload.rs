//! Certificates that are read again when their files change.
//!
//! A handshake asks for the current ones, which are checked at most once a second: a client or
//! server without new connections reads nothing. The contents of the files are compared, not their
//! times, so that a replaced symlink, a rename and a rewrite in place are all seen, two within one
//! tick of the file system included.
//!
//! The files are read on the thread of the handshake. Some kilobytes from the page cache cost less
//! than the signature of the handshake, once a second; a task would have to be owned, and a
//! handshake after an idle night would still have to wait for it, since the certificate that it
//! finds may have expired. A file that is not regular, or too large, is never read.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pem::TlsError;

/// Minimum time between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Configuration that is loaded from PEM texts.
pub(super) trait Load {
    /// Content of all files, to find changes.
    type Text: PartialEq;
    /// Result of loading.
    type Loaded;

    /// Returns true if any part is a file, and may therefore change.
    fn reads_files(&self) -> bool;

    /// Reads all parts.
    fn read(&self) -> Result<Self::Text, TlsError>;

    /// Parses and checks all parts.
    fn load(&self, text: &Self::Text) -> Result<Self::Loaded, TlsError>;
}

/// Loaded configuration, kept up to date with its files.
pub(super) struct Reloading<C: Load> {
    config: C,
    state: Mutex<State<C>>,
}

struct State<C: Load> {
    loaded: Arc<C::Loaded>,
    text: C::Text,
    checked_at: Instant,
    /// True from the logged failure of a check to the next success.
    failing: bool,
}

impl<C: Load> Reloading<C> {
    /// Loads the configuration for the first time.
    ///
    /// # Errors
    /// A part cannot be read or used.
    pub(super) fn new(config: C) -> Result<Self, TlsError> {
        let text = config.read()?;
        let loaded = Arc::new(config.load(&text)?);
        Ok(Self {
            state: Mutex::new(State {
                loaded,
                text,
                checked_at: Instant::now(),
                failing: false,
            }),
            config,
        })
    }

    pub(super) fn config(&self) -> &C {
        &self.config
    }

    /// Returns the configuration, loaded again if its files have changed.
    pub(super) fn current(&self, now: Instant) -> Arc<C::Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now.saturating_duration_since(state.checked_at) >= CHECK_INTERVAL;
        if is_due && self.config.reads_files() {
            state.checked_at = now;
            self.check(&mut state);
        }
        Arc::clone(&state.loaded)
    }

    fn check(&self, state: &mut State<C>) {
        match self.update(state) {
            Ok(changed) => {
                if changed || state.failing {
                    tracing::info!("TLS certificates reloaded");
                }
                state.failing = false;
            }
            Err(error) => {
                if !state.failing {
                    tracing::warn!(%error, "changed TLS files cannot be used; keeping the previous ones");
                }
                state.failing = true;
            }
        }
    }

    /// Reads the files, and loads them if they have changed. Returns true if they have.
    fn update(&self, state: &mut State<C>) -> Result<bool, TlsError> {
        let text = self.config.read()?;
        if text == state.text {
            return Ok(false);
        }
        state.loaded = Arc::new(self.config.load(&text)?);
        state.text = text;
        Ok(true)
    }
}

impl<C: Load + fmt::Debug> fmt::Debug for Reloading<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Number in a text, which may be read as often as `reads` says.
    struct Number {
        text: RefCell<Result<&'static str, TlsError>>,
        reads: RefCell<u32>,
    }

    impl Load for Number {
        type Text = String;
        type Loaded = u32;

        fn reads_files(&self) -> bool {
            true
        }

        fn read(&self) -> Result<String, TlsError> {
            *self.reads.borrow_mut() += 1;
            self.text.borrow().clone().map(ToOwned::to_owned)
        }

        fn load(&self, text: &String) -> Result<u32, TlsError> {
            text.parse()
                .map_err(|_| TlsError(format!("{text} is not a number")))
        }
    }

    fn number() -> Reloading<Number> {
        let config = Number {
            text: RefCell::new(Ok("1")),
            reads: RefCell::new(0),
        };
        Reloading::new(config).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_read_at_most_once_a_second() {
        let (number, start) = (number(), Instant::now());
        for ms in (0..=3_000).step_by(100) {
            number.current(start + Duration::from_millis(ms));
        }
        assert_eq!(*number.config.reads.borrow(), 4, "the first, and three");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_keeps_the_previous_value() {
        let (number, start) = (number(), Instant::now());
        let mut seconds = 0;
        let mut current = || {
            seconds += 1;
            *number.current(start + Duration::from_secs(seconds))
        };
        let _ = number.config.text.replace(Ok("half writ"));
        assert_eq!(current(), 1);
        let _ = number.config.text.replace(Err(TlsError("gone".to_owned())));
        assert_eq!(current(), 1);
        let _ = number.config.text.replace(Ok("2"));
        assert_eq!(current(), 2);
        assert_eq!(current(), 2);
    }
}
