//! One real process: its output, its signals, and its guaranteed end.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group,
    waitid,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::output::{self, Output};
use crate::{Failure, Program};

/// Running program whose output is read continuously. When dropped, it is killed and reaped, even
/// if it is stopped.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    own_group: bool,
    process: tokio::process::Child,
    stdout: watch::Receiver<Output>,
    stderr: watch::Receiver<Output>,
    /// Number of stdout lines returned so far.
    read: usize,
    /// Reader tasks of stdout and stderr; they end with the child.
    _readers: JoinSet<()>,
}

impl Child {
    /// Starts `program`; failure messages identify the child by `name`. Must be called in a tokio
    /// runtime with I/O whose clock is not paused.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: impl Into<String>, program: &Program) -> Result<Self, Failure> {
        let name = name.into();
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(format!("{name} does not start: {why}: {program:?}"))
        };
        let mut process = program.command().spawn().map_err(|error| failed(&error))?;
        let pid = process
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| failed(&"it has no id"))?;
        let mut readers = JoinSet::new();
        let (writer, stdout) = watch::channel(Output::default());
        process
            .stdout
            .take()
            .map(|stream| readers.spawn(output::read(stream, writer)));
        let (writer, stderr) = watch::channel(Output::default());
        process
            .stderr
            .take()
            .map(|stream| readers.spawn(output::read(stream, writer)));
        Ok(Self {
            name,
            pid,
            own_group: program.own_group,
            process,
            stdout,
            stderr,
            read: 0,
            _readers: readers,
        })
    }

    /// Returns the name used in failure messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Returns the next line of stdout, without the line break.
    ///
    /// # Errors
    /// No line was printed `within` that time, or stdout ended.
    ///
    /// # Cancel safety
    /// No line is lost if the future is dropped.
    pub async fn line(&mut self, within: Duration) -> Result<String, Failure> {
        let next = self.read;
        let found = match timeout(within, self.stdout.wait_for(|output| output.knows(next))).await {
            Ok(output) => output
                .ok()
                .and_then(|output| output.line(next).map(str::to_owned))
                .ok_or("prints no more lines".to_owned()),
            Err(_) => Err(format!("printed no line within {within:?}")),
        };
        let line = found.map_err(|what| self.failure(&what))?;
        self.read += 1;
        Ok(line)
    }

    /// Returns the next line of stdout that `wanted` accepts and skips those before it.
    ///
    /// # Errors
    /// No such line was printed `within` that time, or stdout ended.
    ///
    /// # Cancel safety
    /// Skipped lines are not returned again.
    pub async fn line_where(
        &mut self,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, Failure> {
        let search = async {
            loop {
                let line = self.line(within).await?;
                if wanted(&line) {
                    return Ok(line);
                }
            }
        };
        let found = timeout(within, search).await;
        found.unwrap_or_else(|_| {
            Err(self.failure(&format!(
                "printed other lines, but not the wanted one within {within:?}"
            )))
        })
    }

    /// Returns all lines of stdout so far (the last 200 000), whether or not [`line`](Child::line)
    /// returned them.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.borrow().lines()
    }

    /// Returns all lines of stderr so far (the last 200 000).
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().lines()
    }

    /// Waits until the process and its output have ended.
    ///
    /// # Errors
    /// The process was still running after `within`, or another process still held its output open.
    ///
    /// # Cancel safety
    /// If the future is dropped, `wait` can be called again.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + within;
        let Ok(ended) = timeout_at(deadline, self.process.wait()).await else {
            return Err(self.failure(&format!("did not end within {within:?}")));
        };
        let status =
            ended.map_err(|error| self.failure(&format!("cannot be waited for: {error}")))?;
        let read = async {
            let _ = self.stdout.wait_for(Output::has_ended).await;
            let _ = self.stderr.wait_for(Output::has_ended).await;
        };
        if timeout_at(deadline, read).await.is_err() {
            return Err(self.failure(&format!(
                "has ended ({status}), but another process holds its output open"
            )));
        }
        Ok(status)
    }

    /// Returns true if the process runs; a stopped process does.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Fails the test if the process does not run.
    ///
    /// # Panics
    /// The process has ended; the message shows its output.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert!(self.is_alive(), "{}", self.failure("is dead"));
    }

    /// Sends SIGTERM, as a supervisor does.
    ///
    /// # Errors
    /// The process has already ended.
    pub fn sigterm(&mut self) -> Result<(), Failure> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGINT to this process alone; [`ctrl_c`](Child::ctrl_c) interrupts its whole group, as
    /// a terminal does.
    ///
    /// # Errors
    /// The process has already ended.
    pub fn sigint(&mut self) -> Result<(), Failure> {
        self.signal(Signal::INT)
    }

    /// Sends SIGKILL. [`wait`](Child::wait) returns once the process has ended.
    ///
    /// # Errors
    /// The process has already ended.
    pub fn sigkill(&mut self) -> Result<(), Failure> {
        self.signal(Signal::KILL)
    }

    /// Sends SIGSTOP and returns once the process has stopped.
    ///
    /// # Errors
    /// The process has already ended.
    pub fn sigstop(&mut self) -> Result<(), Failure> {
        self.signal(Signal::STOP)?;
        let seen = waitid(
            WaitId::Pid(self.pid),
            WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        seen.map(drop)
            .map_err(|error| self.failure(&format!("cannot be watched: {error}")))
    }

    /// Sends SIGCONT, which resumes a process stopped by [`sigstop`](Child::sigstop).
    ///
    /// # Errors
    /// The process has already ended.
    pub fn sigcont(&mut self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGINT to the process and all that it started, as Ctrl-C in a terminal does.
    ///
    /// # Errors
    /// The process has already ended.
    ///
    /// # Panics
    /// The child was not started with [`Program::own_group`].
    pub fn ctrl_c(&mut self) -> Result<(), Failure> {
        assert!(
            self.own_group,
            "{} has no group of its own: start it with Program::own_group",
            self.name
        );
        self.still_ours()?;
        kill_process_group(self.pid, Signal::INT)
            .map_err(|error| self.failure(&format!("cannot be interrupted: {error}")))
    }

    /// Returns true if any process of its group exists, the child included.
    ///
    /// # Panics
    /// The child was not started with [`Program::own_group`].
    pub fn group_is_alive(&self) -> bool {
        assert!(
            self.own_group,
            "{} has no group of its own: start it with Program::own_group",
            self.name
        );
        test_kill_process_group(self.pid).is_ok()
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        self.still_ours()?;
        kill_process(self.pid, signal)
            .map_err(|error| self.failure(&format!("cannot be signalled: {error}")))
    }

    /// Fails if the process has ended, since another process may have its id once it is reaped.
    fn still_ours(&mut self) -> Result<(), Failure> {
        if self.is_alive() {
            Ok(())
        } else {
            Err(self.failure("has ended already"))
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let (stdout, stderr) = (self.stdout.borrow().tail(), self.stderr.borrow().tail());
        Failure::new(format!(
            "{} (process {}) {what}\nstdout:{stdout}\nstderr:{stderr}",
            self.name,
            self.pid()
        ))
    }

    fn kill_all(&self) {
        let _ = if self.own_group {
            kill_process_group(self.pid, Signal::KILL)
        } else {
            kill_process(self.pid, Signal::KILL)
        };
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_alive() {
            self.kill_all();
            // Wait without reaping; tokio's handle then reaps the process, so that no zombie is
            // left.
            let _ = waitid(
                WaitId::Pid(self.pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            let _ = self.process.try_wait();
        } else if self.own_group && self.group_is_alive() {
            self.kill_all();
        }
    }
}
