//! The switchboard between shards and control: one task that owns control's end of the bridge. It
//! passes questions to shards and gathers their answers, gives look-ups to the resolver, hands out
//! generations, and knows when the last shard has drained.

use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::base::map::Map;
use crate::bridge::FromShard;
use crate::bridge::mesh::ControlPort;
use crate::config::Config;
use crate::control::dns::Dns;
use crate::control::management::Asked;
use crate::control::orders::Registry;
use crate::control::reading::Progress;
use crate::control::throttles::{Heard, ThrottlesSender};
use crate::deliver::dns_answer::{Answer as DnsAnswer, Question};
use crate::engine::io::{Adapted, Level, ToControl, ToShard};
use crate::engine::query::{Answer, Query};
use crate::spool;
use crate::types::id::ShardId;
use crate::types::order::Orders;

/// While a shard is behind and messages for it are parked, they are offered again this often.
const PARKED_RETRY: Duration = Duration::from_millis(2);

/// Questions of operators under way at a time.
const QUESTIONS_MAX: usize = 256;

/// What the rest of control asks of the switchboard.
pub enum Request {
    Ask {
        asked: Asked,
        query: Query,
        reply: oneshot::Sender<Vec<Answer>>,
    },
    /// What earlier starts have left, by shard.
    Recovered { homes: Vec<spool::Home> },
    /// Every shard gets this generation.
    Reload { config: Arc<Config> },
    /// Name servers may have changed with the generation.
    Resolve { with: Box<Dns> },
    /// Take no more mail, finish what is on the wire within the grace.
    Shutdown { grace: Duration },
}

/// Hears of what an operator should read.
pub type Notice = Box<dyn FnMut(ShardId, Level, &str)>;

/// How the process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Every shard has drained; so many messages are left in the queues, if that is known.
    Drained { queued: Option<u64> },
    /// A shard could not go on: the sentence says why.
    Failed(String),
}

struct Gathering {
    missing: usize,
    answers: Vec<Answer>,
    reply: oneshot::Sender<Vec<Answer>>,
}

pub struct Switchboard {
    port: ControlPort,
    dns: Rc<Dns>,
    questions: Map<u64, Gathering>,
    next_question: u64,
    quiet: usize,
    stopped: usize,
    listening: usize,
    /// What every shard has to say of itself before it finishes.
    last: Option<oneshot::Receiver<Vec<Answer>>>,
    resolved: (UnboundedSender<Resolved>, UnboundedReceiver<Resolved>),
    /// Where notices go: one line each.
    notice: Notice,
    /// Told once, when every shard accepts connections.
    ready: Option<oneshot::Sender<()>>,
    /// Over once every shard has what earlier starts have left.
    reading: Arc<Progress>,
    adopted: usize,
    /// Who keeps the operators' orders, and where those that hold come from.
    orders: (Arc<Registry>, UnboundedReceiver<Arc<Orders>>),
    /// Where goes what adaptive delivery learns.
    learnt: Option<Sender<Box<Adapted>>>,
    /// Who keeps throttles, and whence comes that more may start.
    throttles: Option<(ThrottlesSender, UnboundedReceiver<()>)>,
}

type Resolved = (ShardId, Question, DnsAnswer);

async fn granted(of: &mut Option<(ThrottlesSender, UnboundedReceiver<()>)>) -> Option<()> {
    of.as_mut()?.1.recv().await
}

impl Switchboard {
    pub fn new(
        port: ControlPort,
        dns: Dns,
        notice: Notice,
        (ready, reading): (oneshot::Sender<()>, Arc<Progress>),
        orders: (Arc<Registry>, UnboundedReceiver<Arc<Orders>>),
    ) -> Switchboard {
        Switchboard {
            port,
            dns: Rc::new(dns),
            questions: Map::default(),
            next_question: 0,
            quiet: 0,
            stopped: 0,
            listening: 0,
            last: None,
            resolved: unbounded_channel(),
            notice,
            ready: Some(ready),
            reading,
            adopted: 0,
            orders,
            learnt: None,
            throttles: None,
        }
    }

    /// Passes on what adaptive delivery learns.
    pub fn keeping(mut self, learnt: Sender<Box<Adapted>>) -> Switchboard {
        self.learnt = Some(learnt);
        self
    }

    /// Passes on which throttles ask, and that they have been granted more.
    pub fn reserving(
        mut self,
        throttles: ThrottlesSender,
        granted: UnboundedReceiver<()>,
    ) -> Switchboard {
        self.throttles = Some((throttles, granted));
        self
    }

    /// Runs until every shard has stopped or one has failed.
    pub async fn run(
        mut self,
        mut shards: UnboundedReceiver<FromShard>,
        mut requests: Receiver<Request>,
    ) -> Ended {
        loop {
            let parked = self.port.flush();
            tokio::select! {
                Some(message) = shards.recv() => {
                    if let Some(ended) = self.heard(message) {
                        return ended;
                    }
                }
                Some((shard, question, answer)) = self.resolved.1.recv() => {
                    self.port.send(shard, ToShard::Resolved { question, answer });
                }
                Some(request) = requests.recv() => self.request(request),
                Some(orders) = self.orders.1.recv() => {
                    self.tell_all(|| ToShard::Orders(orders.clone()));
                }
                Some(()) = granted(&mut self.throttles) => self.tell_all(|| ToShard::Reserved),
                () = tokio::time::sleep(PARKED_RETRY), if parked => {}
            }
        }
    }

    fn heard(&mut self, message: FromShard) -> Option<Ended> {
        match message {
            FromShard::Engine(ToControl::Resolve { shard, question }) => {
                self.resolve(shard, question);
            }
            FromShard::Engine(ToControl::Answer { id, answer, .. }) => self.answered(id, answer),
            FromShard::Engine(ToControl::Notice { shard, level, text }) => {
                (self.notice)(shard, level, &text);
            }
            FromShard::Engine(ToControl::Worked { shard, worked }) => {
                self.orders.0.worked(shard, worked);
            }
            FromShard::Engine(ToControl::Settled { home, owner, order }) => {
                self.orders.0.settled(order, (owner, home));
            }
            FromShard::Engine(ToControl::HandedOut { .. }) => self.orders.0.handed_out(),
            FromShard::Engine(ToControl::Drained { .. }) => {}
            FromShard::Engine(ToControl::Adapted(adapted)) => {
                // Who keeps it says what is wrong.
                if let Some(learnt) = &self.learnt {
                    let _ = learnt.send(adapted);
                }
            }
            FromShard::Engine(ToControl::Reserve { throttle }) => {
                if let Some((throttles, _)) = &self.throttles {
                    let _ = throttles.send(Heard::Asks(throttle));
                }
            }
            FromShard::Engine(ToControl::Adopted { .. }) => {
                self.adopted += 1;
                if self.adopted == self.port.shards() {
                    self.reading.end();
                }
            }
            FromShard::Engine(ToControl::Quiet { .. }) => {
                self.quiet += 1;
                if self.quiet == self.port.shards() {
                    // Nothing is decided any more, and the question is ahead of the end.
                    let (reply, last) = oneshot::channel();
                    self.ask(Asked::All, &Query::Status, reply);
                    self.last = Some(last);
                    self.tell_all(|| ToShard::Finish);
                }
            }
            FromShard::Listening { .. } => {
                self.listening += 1;
                if self.listening == self.port.shards()
                    && let Some(ready) = self.ready.take()
                {
                    let _ = ready.send(());
                }
            }
            FromShard::Failed { shard, why } => {
                return Some(Ended::Failed(format!("shard {}: {why}", shard.0)));
            }
            FromShard::Stopped { .. } => {
                self.stopped += 1;
                if self.stopped == self.port.shards() {
                    if let Some((throttles, _)) = &self.throttles {
                        let _ = throttles.send(Heard::Over);
                    }
                    let queued = self.queued();
                    return Some(Ended::Drained { queued });
                }
            }
        }
        None
    }

    /// Messages left in the queues, by the last answers of the shards.
    fn queued(&mut self) -> Option<u64> {
        let answers = self.last.as_mut()?.try_recv().ok()?;
        let of = |answer: &Answer| match answer {
            Answer::Status(stats) => Some(stats.gauges.queued()),
            _ => None,
        };
        Some(answers.iter().filter_map(of).sum())
    }

    fn resolve(&self, shard: ShardId, question: Question) {
        let (dns, done) = (self.dns.clone(), self.resolved.0.clone());
        tokio::task::spawn_local(async move {
            let answer = dns.answer(&question).await;
            let _ = done.send((shard, question, answer));
        });
    }

    fn answered(&mut self, id: u64, answer: Answer) {
        let Some(question) = self.questions.get_mut(&id) else {
            return;
        };
        question.answers.push(answer);
        question.missing -= 1;
        if question.missing == 0 {
            self.finish_question(id);
        }
    }

    fn finish_question(&mut self, id: u64) {
        if let Some(question) = self.questions.swap_remove(&id) {
            // Who asked may have given up.
            let _ = question.reply.send(question.answers);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Ask {
                asked,
                query,
                reply,
            } => self.ask(asked, &query, reply),
            Request::Recovered { homes } => {
                for home in homes {
                    let shard = home.shard;
                    let found = ToShard::Recovered(Box::new(home));
                    self.port.send(shard, found);
                }
            }
            Request::Reload { config } => {
                self.tell_all(|| ToShard::Reload {
                    config: config.clone(),
                });
            }
            Request::Resolve { with } => self.dns = Rc::new(*with),
            Request::Shutdown { grace } => self.tell_all(|| ToShard::Shutdown { grace }),
        }
    }

    fn ask(&mut self, asked: Asked, query: &Query, reply: oneshot::Sender<Vec<Answer>>) {
        let all = 0..self.port.shards();
        let asked: Vec<usize> = match asked {
            Asked::All => all.collect(),
            Asked::One(shard) => all.filter(|it| *it == usize::from(shard)).collect(),
        };
        if self.questions.len() >= QUESTIONS_MAX {
            // The oldest has waited longest for a shard that may never answer.
            let oldest = self.questions.get_index(0).map(|(id, _)| *id);
            oldest.into_iter().for_each(|id| self.finish_question(id));
        }
        self.next_question += 1;
        let (id, missing) = (self.next_question, asked.len());
        self.questions.insert(
            id,
            Gathering {
                missing,
                answers: Vec::new(),
                reply,
            },
        );
        if missing == 0 {
            return self.finish_question(id);
        }
        for shard in asked {
            let query = query.clone();
            self.port
                .send(ShardId(shard as u8), ToShard::Ask { id, query });
        }
    }

    fn tell_all(&mut self, message: impl Fn() -> ToShard) {
        for shard in 0..self.port.shards() {
            self.port.send(ShardId(shard as u8), message());
        }
    }
}
