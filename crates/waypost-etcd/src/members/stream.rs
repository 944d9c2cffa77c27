//! Bidirectional stream to any member that can be reached.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Link, Members};
use crate::secret::Secret;
use crate::trouble::Trouble;
use crate::wire::{self, Call, Requests, Responses};

/// Stream that is being opened, or open. It opens while it is polled, and is closed when dropped.
pub(crate) struct Duplex<Q: Call> {
    members: Arc<Members>,
    way: Arc<Way>,
    questions: mpsc::Sender<Q>,
    state: State<Q::Answer>,
}

type Opening<A> = Pin<Box<dyn Future<Output = Result<Responses<A>, Trouble>> + Send>>;

enum State<A> {
    Opening(Opening<A>),
    Open(Box<Responses<A>>),
    Over,
}

/// Connection and token of the stream, once they are known.
#[derive(Default)]
struct Way {
    link: OnceLock<Link>,
    token: OnceLock<Option<Secret>>,
}

impl Way {
    fn token(&self) -> Option<&Secret> {
        self.token.get()?.as_ref()
    }
}

impl<Q: Call> Duplex<Q> {
    /// Creates a stream with a queue of `room` requests. `until` is the deadline to find a member.
    pub(crate) fn new(members: &Arc<Members>, room: usize, until: Instant) -> Self {
        let (questions, receiver) = mpsc::channel(room);
        let way = Arc::<Way>::default();
        let opening = Box::pin(open(
            Arc::clone(members),
            Arc::clone(&way),
            Requests::new(receiver),
            until,
        ));
        Self {
            members: Arc::clone(members),
            way,
            questions,
            state: State::Opening(opening),
        }
    }

    /// Queues a request; returns it if the queue is full.
    pub(crate) fn try_ask(&self, question: Q) -> Result<(), Q> {
        self.questions
            .try_send(question)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(question)
                | mpsc::error::TrySendError::Closed(question) => question,
            })
    }

    /// Waits for the next response; pending for ever after an error.
    ///
    /// # Errors
    /// The reason for the end of the stream.
    ///
    /// # Cancel safety
    /// No response is lost if it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Q::Answer, Trouble> {
        let answer = self.try_next().await;
        if answer.is_err() {
            self.state = State::Over;
        }
        answer
    }

    /// Waits for the next response of an optional stream; pending for ever if there is none.
    pub(crate) async fn next_of(stream: &mut Option<Self>) -> Result<Q::Answer, Trouble> {
        match stream {
            Some(stream) => stream.next().await,
            None => std::future::pending().await,
        }
    }

    async fn try_next(&mut self) -> Result<Q::Answer, Trouble> {
        if let State::Opening(opening) = &mut self.state {
            self.state = State::Open(Box::new(opening.await?));
        }
        let State::Open(answers) = &mut self.state else {
            return std::future::pending().await;
        };
        match answers.next().await {
            Ok(Some(answer)) => {
                self.members.answered(self.way.link.get());
                Ok(answer)
            }
            Ok(None) => Err(Trouble::Link("etcd closed the stream".to_owned())),
            Err(status) => Err(self.members.classify(&status, self.way.token())),
        }
    }

    /// Closes the stream. Fails over to another member if this one is the cause.
    pub(crate) fn give_up(self, why: &Trouble) {
        if let Trouble::Token(_) = why {
            self.members.forget(self.way.token());
        }
        if let Some(link) = self.way.link.get().filter(|_| why.is_of_the_member()) {
            self.members.avoid(link, why);
        }
    }
}

async fn open<Q: Call>(
    members: Arc<Members>,
    way: Arc<Way>,
    questions: Requests<Q>,
    until: Instant,
) -> Result<Responses<Q::Answer>, Trouble> {
    let link = members.link(true, until).await?;
    let link = way.link.get_or_init(|| link);
    let token = members.token(link).await?;
    let token = way.token.get_or_init(|| token).as_ref();
    let answers = wire::open(&link.connection, questions, token).await;
    answers.map_err(|status| members.classify(&status, token))
}

impl Members {
    fn answered(&self, link: Option<&Link>) {
        if let Some(link) = link {
            self.does(link, true);
        }
    }

    fn forget(&self, token: Option<&Secret>) {
        if let Some(auth) = &self.auth {
            auth.forget(token);
        }
    }
}
