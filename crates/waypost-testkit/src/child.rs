//! One real process: what it prints, the signals it gets, and its certain end.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group, waitid};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::output::{self, Output};
use crate::{Failure, Program};

/// A running program whose output is read as it comes. Dropped, it is killed and reaped, stopped or not.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    own_group: bool,
    process: tokio::process::Child,
    stdout: watch::Receiver<Output>,
    stderr: watch::Receiver<Output>,
    /// How many lines of stdout have been handed out.
    read: usize,
    /// The readers of stdout and stderr; they end with the child.
    _readers: JoinSet<()>,
}

impl Child {
    /// Starts `program`; `name` is what failures call it. To be called in a tokio runtime with I/O, whose clock is not paused.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: impl Into<String>, program: &Program) -> Result<Self, Failure> {
        let name = name.into();
        let failed = |why: &dyn std::fmt::Display| Failure::new(format!("{name} does not start: {why}: {program:?}"));
        let mut process = program.command().spawn().map_err(|error| failed(&error))?;
        let pid = process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(|| failed(&"it has no id"))?;
        let mut readers = JoinSet::new();
        let (writer, stdout) = watch::channel(Output::default());
        process.stdout.take().map(|stream| readers.spawn(output::read(stream, writer)));
        let (writer, stderr) = watch::channel(Output::default());
        process.stderr.take().map(|stream| readers.spawn(output::read(stream, writer)));
        Ok(Self { name, pid, own_group: program.own_group, process, stdout, stderr, read: 0, _readers: readers })
    }

    /// What failures call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// The next line of its stdout, without the line break.
    ///
    /// # Errors
    /// No line came `within` that time, or its stdout ended.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, no line is lost.
    pub async fn line(&mut self, within: Duration) -> Result<String, Failure> {
        let next = self.read;
        let found = match timeout(within, self.stdout.wait_for(|output| output.knows(next))).await {
            Ok(output) => {
                output.ok().and_then(|output| output.line(next).map(str::to_owned)).ok_or("prints no more lines".to_owned())
            }
            Err(_) => Err(format!("printed no line within {within:?}")),
        };
        let line = found.map_err(|what| self.failure(&what))?;
        self.read += 1;
        Ok(line)
    }

    /// The next line of its stdout that `wanted` accepts; those before it are passed over.
    ///
    /// # Errors
    /// No such line came `within` that time, or its stdout ended.
    ///
    /// # Cancel safety
    /// Lines that were passed over are not handed out again.
    pub async fn line_where(&mut self, within: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, Failure> {
        let search = async {
            loop {
                let line = self.line(within).await?;
                if wanted(&line) {
                    return Ok(line);
                }
            }
        };
        let found = timeout(within, search).await;
        found.unwrap_or_else(|_| Err(self.failure(&format!("printed other lines, but not the wanted one within {within:?}"))))
    }

    /// All lines of its stdout so far (the last 200 000), handed out by [`line`](Child::line) or not.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.borrow().lines()
    }

    /// All lines of its stderr so far (the last 200 000).
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().lines()
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Errors
    /// It was still running after `within`, or somebody still held its output open.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it can be called again.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + within;
        let Ok(ended) = timeout_at(deadline, self.process.wait()).await else {
            return Err(self.failure(&format!("did not end within {within:?}")));
        };
        let status = ended.map_err(|error| self.failure(&format!("cannot be waited for: {error}")))?;
        let read = async {
            let _ = self.stdout.wait_for(Output::has_ended).await;
            let _ = self.stderr.wait_for(Output::has_ended).await;
        };
        if timeout_at(deadline, read).await.is_err() {
            return Err(self.failure(&format!("has ended ({status}), but another process holds its output open")));
        }
        Ok(status)
    }

    /// Whether it runs; a stopped process does.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Fails the test if it does not run.
    ///
    /// # Panics
    /// It has ended; the message shows what it said.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert!(self.is_alive(), "{}", self.failure("is dead"));
    }

    /// Asks it to end, as a supervisor does.
    ///
    /// # Errors
    /// It has ended already.
    pub fn sigterm(&mut self) -> Result<(), Failure> {
        self.signal(Signal::TERM)
    }

    /// Interrupts it alone; see [`ctrl_c`](Child::ctrl_c) for what a terminal does.
    ///
    /// # Errors
    /// It has ended already.
    pub fn sigint(&mut self) -> Result<(), Failure> {
        self.signal(Signal::INT)
    }

    /// Kills it. [`wait`](Child::wait) tells when it is gone.
    ///
    /// # Errors
    /// It has ended already.
    pub fn sigkill(&mut self) -> Result<(), Failure> {
        self.signal(Signal::KILL)
    }

    /// Freezes it; returns when it has stopped.
    ///
    /// # Errors
    /// It has ended already.
    pub fn sigstop(&mut self) -> Result<(), Failure> {
        self.signal(Signal::STOP)?;
        let seen = waitid(WaitId::Pid(self.pid), WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        seen.map(drop).map_err(|error| self.failure(&format!("cannot be watched: {error}")))
    }

    /// Wakes it from [`sigstop`](Child::sigstop).
    ///
    /// # Errors
    /// It has ended already.
    pub fn sigcont(&mut self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    /// Interrupts it and all it started, as Ctrl-C in a terminal does.
    ///
    /// # Errors
    /// It has ended already.
    ///
    /// # Panics
    /// It was not started with [`Program::own_group`].
    pub fn ctrl_c(&mut self) -> Result<(), Failure> {
        assert!(self.own_group, "{} has no group of its own: start it with Program::own_group", self.name);
        self.still_ours()?;
        kill_process_group(self.pid, Signal::INT).map_err(|error| self.failure(&format!("cannot be interrupted: {error}")))
    }

    /// Whether any process of its group is there, itself included.
    ///
    /// # Panics
    /// It was not started with [`Program::own_group`].
    pub fn group_is_alive(&self) -> bool {
        assert!(self.own_group, "{} has no group of its own: start it with Program::own_group", self.name);
        test_kill_process_group(self.pid).is_ok()
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        self.still_ours()?;
        kill_process(self.pid, signal).map_err(|error| self.failure(&format!("cannot be signalled: {error}")))
    }

    /// Its id is another's once it is reaped.
    fn still_ours(&mut self) -> Result<(), Failure> {
        if self.is_alive() { Ok(()) } else { Err(self.failure("has ended already")) }
    }

    fn failure(&self, what: &str) -> Failure {
        let (stdout, stderr) = (self.stdout.borrow().tail(), self.stderr.borrow().tail());
        Failure::new(format!("{} (process {}) {what}\nstdout:{stdout}\nstderr:{stderr}", self.name, self.pid()))
    }

    fn kill_all(&self) {
        let _ = if self.own_group { kill_process_group(self.pid, Signal::KILL) } else { kill_process(self.pid, Signal::KILL) };
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_alive() {
            self.kill_all();
            // Waits without taking the status, which tokio's handle then takes: no zombie is left.
            let _ = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let _ = self.process.try_wait();
        } else if self.own_group && self.group_is_alive() {
            self.kill_all();
        }
    }
}
