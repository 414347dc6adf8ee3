//! The management socket: a Unix socket of mode 0600 over which the commands ask and act. One
//! JSON line is one request, one JSON line its reply.
//!
//! Invariants: the socket of an engine that answers is never taken away; clients, request bytes
//! and waiting times are bounded; shards are reached only through [`Surroundings`].

mod act;
pub mod groups;
mod merge;
pub mod protocol;
mod sampler;
mod verdict;

use core::future::Future;
use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::base::time::Wall;
use crate::base::units;
use crate::config::Diagnostic;
use crate::control::journal::Journal;
use crate::control::metrics;
use crate::control::orders::Registry;
use crate::engine::query::Answer;
use crate::engine::query::LearntAct;
use crate::engine::query::Query;
use crate::engine::stats::ShardStats;

pub use verdict::unnamed_binding;

use protocol::ChangesData;
use protocol::ConfigOnDisk;
use protocol::ConfigState;
use protocol::Envelope;
use protocol::ErrorData;
use protocol::Fault;
use protocol::Finding;
use protocol::LISTED_MAX;
use protocol::MessagesData;
use protocol::PairNamed;
use protocol::REQUEST_BYTES_MAX;
use protocol::ReloadData;
use protocol::Reply;
use protocol::Request;
use protocol::SpoolReading;
use protocol::SpoolState;
use protocol::StatusData;
use protocol::TraceData;
use protocol::WhyData;

/// Commands that may be connected at the same time; a further one is told so and turned away.
pub const CLIENTS_MAX: usize = 32;

/// How long shards may take to answer, all together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a client may take for a request, from the end of the last reply on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take to read a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whom a question goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    All,
    One(u8),
}

/// How a reload went; if it was refused, what is wrong with the file.
pub type Reloaded = Result<ReloadData, Vec<Diagnostic>>;

/// What the management socket and the HTTP listener need of the rest of the process.
pub struct Surroundings {
    /// The answers of the shards asked, in any order; one is missing if its shard is gone.
    pub ask: Arc<dyn Fn(Asked, Query) -> BoxFuture<Vec<Answer>> + Send + Sync>,
    /// Loads the configuration again and, if it is right, makes it run; writes the journal. The
    /// argument says who asked, for the journal. The error is what is wrong with the file.
    pub reload: Arc<dyn Fn(String) -> BoxFuture<Reloaded> + Send + Sync>,
    pub facts: Arc<dyn Fn() -> Facts + Send + Sync>,
    /// Reads the configuration file and compares it with what runs.
    pub config_on_disk: Arc<dyn Fn() -> ConfigOnDisk + Send + Sync>,
    /// The names of the bindings that run, and of their groups that have members.
    pub bindings: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    pub clock: Arc<dyn Fn() -> Wall + Send + Sync>,
    pub journal: Arc<Journal>,
    pub orders: Arc<Registry>,
}

/// What is known without asking a shard.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Name of the machine.
    pub node: String,
    pub version: String,
    pub started: Wall,
    pub shards: u64,
    pub config_file: String,
    /// The short digest.
    pub config_digest: String,
    pub config_generation: u64,
    pub config_loaded: Wall,
    /// Options that wait for a restart.
    pub restart: Vec<String>,
    pub spool: PathBuf,
    /// `commit`, `interval` or `none`.
    pub spool_sync: &'static str,
    pub min_free_bytes: u64,
    pub event_log: PathBuf,
    /// Bytes that are free for us and bytes in all where the spool is, if the system tells.
    pub disk: Option<(u64, u64)>,
    /// Segments read of all that there are, while a start reads the spool back.
    pub reading: Option<(usize, usize)>,
}

impl Surroundings {
    /// The numbers of all shards together and of each that answered in time.
    pub async fn stats(&self) -> (ShardStats, Vec<ShardStats>) {
        merge::status(
            self.answers(Asked::All, Query::Status)
                .await
                .unwrap_or_default(),
        )
    }

    async fn answers(&self, asked: Asked, query: Query) -> Result<Vec<Answer>, ErrorData> {
        timeout(ANSWER_TIMEOUT, (self.ask)(asked, query))
            .await
            .map_err(|_| ErrorData {
                code: "E402".into(),
                fault: Fault::Failed,
                message:
                    "the shards did not answer in time: they are stuck or overloaded. Mail is \
                      not affected by the question. See: pelton status"
                        .into(),
            })
    }
}

/// The management socket, bound. The file goes when this does.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds `path`. A socket that nobody answers on is replaced; one that is answered is an
    /// [`io::ErrorKind::AddrInUse`]. Must be called in a tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Server> {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if is_stale(&error) => {}
            Err(error) => return Err(error),
        }
        // Made under another name, so that nobody can connect before the mode is right.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        Ok(Server {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until dropped; with it go its clients. Runs on a tokio runtime with time and IO.
    pub async fn serve(self, surroundings: Arc<Surroundings>) {
        let started = (surroundings.facts)().started;
        let desk = Arc::new(Desk {
            surroundings,
            sampler: Mutex::new(sampler::Sampler::since(started)),
            on_disk: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        let mut tick = tokio::time::interval(sampler::SAMPLE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let sampling = Arc::clone(&desk);
        clients.spawn(async move {
            loop {
                tick.tick().await;
                sampling.sample().await;
            }
        });
        loop {
            let accepted = self.listener.accept().await;
            while clients.try_join_next().is_some() {}
            match accepted {
                // The sampler is one of the set.
                Ok((stream, _)) if clients.len() <= CLIENTS_MAX => {
                    let desk = Arc::clone(&desk);
                    clients.spawn(async move { desk.client(stream).await });
                }
                Ok((stream, _)) => turn_away(&stream),
                // Out of file descriptors, most likely: some will come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to clean up.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_stale(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

fn turn_away(stream: &UnixStream) {
    let error = ErrorData {
        code: "E403".into(),
        fault: Fault::Failed,
        message: format!("{CLIENTS_MAX} commands are connected already: try again"),
    };
    let envelope = Envelope {
        node: String::new(),
        at: Wall::default().rfc3339().to_string(),
        notes: Vec::new(),
        reply: Reply::Error(error),
    };
    // A fresh socket takes that much without waiting; if not, the client sees the end.
    let _ = stream.try_write(&line_of(&envelope));
}

fn line_of(envelope: &Envelope) -> Vec<u8> {
    // Maps with keys that are not text are all that could fail, and there are none.
    let mut line = serde_json::to_vec(envelope).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What all clients share.
struct Desk {
    surroundings: Arc<Surroundings>,
    sampler: Mutex<sampler::Sampler>,
    /// As it was when somebody last asked; reading the file for every sample would cost more than
    /// it tells.
    on_disk: Mutex<ConfigOnDisk>,
}

impl Desk {
    fn sampler(&self) -> std::sync::MutexGuard<'_, sampler::Sampler> {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sample(&self) {
        let on_disk = self
            .on_disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let status = self.observe(on_disk, None).await;
        // A shard that is missing would look like mail that never was.
        if status.per_shard.len() as u64 == status.shards {
            self.sampler()
                .sample((self.surroundings.clock)(), &status.total);
        }
    }

    async fn client(&self, stream: UnixStream) {
        let by = match stream.peer_cred() {
            Ok(who) => format!("uid {}", who.uid()),
            Err(_) => "unknown".to_owned(),
        };
        let (input, mut output) = stream.into_split();
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut input).take(REQUEST_BYTES_MAX as u64);
            let read = timeout(REQUEST_TIMEOUT, bounded.read_until(b'\n', &mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return;
            }
            let whole = line.ends_with(b"\n");
            let envelope = self.answer(&line, whole, &by).await;
            let reply = line_of(&envelope);
            let written = timeout(REPLY_TIMEOUT, output.write_all(&reply)).await;
            if !whole || !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn answer(&self, line: &[u8], whole: bool, by: &str) -> Envelope {
        let mut notes = Vec::new();
        let request = match whole {
            true => serde_json::from_slice(line).map_err(|error| error.to_string()),
            false => Err(format!("no line end within {REQUEST_BYTES_MAX} bytes")),
        };
        let reply = match request {
            Ok(request) => self
                .reply(request, by, &mut notes)
                .await
                .unwrap_or_else(Reply::Error),
            Err(error) => Reply::Error(usage(format!("the request is not understood: {error}"))),
        };
        let node = (self.surroundings.facts)().node;
        let at = (self.surroundings.clock)().rfc3339().to_string();
        Envelope {
            node,
            at,
            notes,
            reply,
        }
    }

    async fn reply(
        &self,
        request: Request,
        by: &str,
        notes: &mut Vec<String>,
    ) -> Result<Reply, ErrorData> {
        let incomplete = self.not_all_known(&request).await;
        notes.extend(incomplete.clone());
        match request {
            Request::Status => Ok(Reply::Status(Box::new(self.status().await))),
            Request::Queues { filter, limit } => {
                if let Some(field) = filter.needs_messages() {
                    return Err(usage(format!(
                        "{} is a fact of messages, not of queues: ask for messages",
                        field.as_str()
                    )));
                }
                let limit = limit.min(LISTED_MAX);
                // One more than is shown tells whether there is more.
                let query = Query::Queues {
                    filter,
                    limit: limit + 1,
                };
                let answers = self.all(query, notes).await?;
                let mut data = merge::queues(answers, limit);
                data.queued_in_all = Some(self.queued().await);
                Ok(Reply::Queues(data))
            }
            Request::Groups { by, filter, limit } => self.groups(by, filter, limit).await,
            Request::Messages {
                filter,
                cursor,
                limit,
            } => {
                let limit = limit.min(LISTED_MAX);
                let mut data = self.messages(&filter, cursor, limit).await?;
                data.queued_in_all = Some(self.queued().await);
                Ok(Reply::Messages(data))
            }
            Request::Why { domain, binding } => self.why(&domain, binding, notes).await,
            Request::Trace { target } => {
                let messages = merge::trace(self.all(Query::Trace { target }, notes).await?);
                let event_log = (self.surroundings.facts)().event_log.display().to_string();
                Ok(Reply::Trace(TraceData {
                    messages,
                    event_log,
                    incomplete,
                }))
            }
            Request::Reload => match (self.surroundings.reload)(by.to_owned()).await {
                Ok(data) => Ok(Reply::Reloaded(data)),
                Err(found) => Ok(Reply::Refused(found.iter().map(Finding::from).collect())),
            },
            Request::Changes { since_seconds } => self.changes(since_seconds),
            Request::Order(wanted) => self.order(*wanted, by).await,
            Request::Orders => self.orders().await,
            Request::Learnt { binding, domain } => self.learnt(binding, domain, notes).await,
            Request::Relearn { of, act } => self.relearn(of, act, by, notes).await,
            Request::Undo { target } => self.undo(&target, by).await,
        }
    }

    /// What adaptive delivery has learnt.
    async fn learnt(
        &self,
        binding: Option<String>,
        domain: Option<String>,
        notes: &mut Vec<String>,
    ) -> Result<Reply, ErrorData> {
        let domain = domain.map(|it| it.trim_end_matches('.').to_lowercase());
        let query = Query::Learnt { binding, domain };
        let pairs = merge::learnt(self.all(query, notes).await?);
        Ok(Reply::Learnt(protocol::LearntData { pairs }))
    }

    /// What an operator makes of what was learnt, and the journal of it.
    async fn relearn(
        &self,
        PairNamed { binding, domain }: PairNamed,
        act: LearntAct,
        by: &str,
        notes: &mut Vec<String>,
    ) -> Result<Reply, ErrorData> {
        let domain = domain.map(|it| it.trim_end_matches('.').to_lowercase());
        let of = format!(
            "{} to {}",
            binding.as_deref().unwrap_or("all bindings"),
            domain.as_deref().unwrap_or("all domains")
        );
        let what = match &act {
            LearntAct::Reset => Some("what was learnt is forgotten".to_string()),
            LearntAct::Resume => Some("suspensions end".to_string()),
            LearntAct::Warmup { stage: Some(stage) } => Some(format!("warm-up at stage {stage}")),
            LearntAct::Warmup { stage: None } => Some("warm-up is over".to_string()),
            // What is made of them tells of itself.
            LearntAct::Complaints { .. } => None,
            LearntAct::Set {
                assignment,
                seconds,
            } => {
                let time = units::duration(Duration::from_secs(*seconds));
                Some(format!("{assignment} for {time}"))
            }
        };
        // What is forgotten may be of a binding that has gone.
        if let (LearntAct::Set { .. }, Some(name)) = (&act, &binding) {
            act::check_binding(name, &(self.surroundings.bindings)()).map_err(usage)?;
        }
        let query = Query::Relearn {
            binding,
            domain,
            act,
        };
        let answers = self.all(query, notes).await?;
        let wrong = |why: String| match &what {
            Some(what) => usage(format!("{what}: {why}")),
            None => usage(why),
        };
        let pairs = merge::relearnt(answers).map_err(wrong)?;
        if let Some(what) = what.filter(|_| pairs > 0) {
            let at = (self.surroundings.clock)();
            let text = format!("{of}: {what}");
            // The change holds, whether or not the journal can tell of it.
            let _ = self.surroundings.journal.append(at, "operator", by, &text);
        }
        Ok(Reply::Relearnt(protocol::RelearntData { pairs }))
    }

    async fn why(
        &self,
        domain: &str,
        binding: Option<String>,
        notes: &mut Vec<String>,
    ) -> Result<Reply, ErrorData> {
        // With the dot at its end, as DNS tools print it, it is the same domain.
        let domain = domain.trim_end_matches('.').to_lowercase();
        let query = Query::Why {
            domain: domain.clone(),
            binding,
        };
        let queues = merge::why(self.all(query, notes).await?);
        if let Some(note) = notes.first().filter(|_| queues.is_empty()) {
            return Err(ErrorData {
                code: "E416".into(),
                fault: Fault::Failed,
                message: format!("no queue for {domain} is known, but {note}. Ask again"),
            });
        }
        Ok(Reply::Why(WhyData { domain, queues }))
    }

    /// Why what is told of queued mail is not all of it. Asked before the queues are, so that what
    /// is over by then is in what they tell.
    async fn not_all_known(&self, request: &Request) -> Option<String> {
        let of_queued_mail = matches!(
            request,
            Request::Queues { .. }
                | Request::Groups { .. }
                | Request::Messages { .. }
                | Request::Why { .. }
                | Request::Trace { .. }
        );
        if !of_queued_mail {
            return None;
        }
        if let Some((read, all)) = (self.surroundings.facts)().reading {
            let all = units::counted(all as u64, "segment");
            return Some(format!(
                "the start still reads the spool back, {read} of {all}: what is queued is not all \
                 known yet"
            ));
        }
        let returning = self.surroundings.stats().await.0.gauges.queue_returning;
        let left = units::counted(returning, "message");
        (returning > 0).then(|| {
            format!(
                "{left} of the last run {} on the way into the queues: what is queued is not all \
                 known yet",
                units::are(returning)
            )
        })
    }

    async fn all(&self, query: Query, notes: &mut Vec<String>) -> Result<Vec<Answer>, ErrorData> {
        let answers = self.surroundings.answers(Asked::All, query).await?;
        let shards = (self.surroundings.facts)().shards;
        if (answers.len() as u64) < shards {
            notes.push(format!(
                "only {} of {} answered",
                answers.len(),
                units::counted(shards, "shard")
            ));
        }
        Ok(answers)
    }

    /// Messages that wait in all queues.
    async fn queued(&self) -> u64 {
        self.surroundings.stats().await.0.gauges.queued()
    }

    async fn messages(
        &self,
        filter: &crate::types::filter::Filter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<MessagesData, ErrorData> {
        let first = merge::Cursor::default();
        let mut at = match &cursor {
            None => first,
            Some(text) => merge::Cursor::parse(text)
                .ok_or_else(|| usage(format!("\"{text}\" is no cursor of an earlier list")))?,
        };
        let shards = (self.surroundings.facts)().shards;
        let mut data = MessagesData::default();
        loop {
            let wanted = limit.saturating_sub(data.messages.len());
            if wanted == 0 {
                data.next = Some(at.text());
                return Ok(data);
            }
            let query = Query::Messages {
                filter: filter.clone(),
                cursor: at.within,
                limit: wanted,
            };
            let answers = self
                .surroundings
                .answers(Asked::One(at.shard), query)
                .await?;
            let further = merge::add_messages(&mut data, answers);
            match at.after(further, shards) {
                Some(next) if next != at => at = next,
                _ => return Ok(data),
            }
        }
    }

    fn changes(&self, since_seconds: u64) -> Result<Reply, ErrorData> {
        let since = (self.surroundings.clock)() - Duration::from_secs(since_seconds);
        match self.surroundings.journal.read(since) {
            Ok(changes) => Ok(Reply::Changes(ChangesData { changes })),
            Err(error) => Err(ErrorData {
                code: "E404".into(),
                fault: Fault::Failed,
                message: format!("the journal of changes cannot be read: {error}"),
            }),
        }
    }

    async fn status(&self) -> StatusData {
        let on_disk = (self.surroundings.config_on_disk)();
        let before = {
            let mut known = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
            core::mem::replace(&mut *known, on_disk.clone())
        };
        // The file is read when somebody asks, and tells when that began.
        let edited = (before != on_disk).then(|| {
            let facts = (self.surroundings.facts)();
            Some(modified(&facts.config_file)?.max(facts.config_loaded))
        });
        let edited = edited.flatten();
        self.observe(on_disk, edited).await
    }

    /// How things stand, if the configuration file is as told, since `edited` if that is new.
    async fn observe(&self, on_disk: ConfigOnDisk, edited: Option<Wall>) -> StatusData {
        // In this order: what is over by now is in what the shards answer.
        let facts = (self.surroundings.facts)();
        let (total, per_shard) = self.surroundings.stats().await;
        let now = (self.surroundings.clock)();
        let process = metrics::Process::read();
        let (free_bytes, size_bytes) = facts.disk.unzip();
        let rates = self.sampler().rates(now, &total);
        let recent = self.sampler().recent(now, &total);
        let mut status = StatusData {
            version: facts.version,
            pid: std::process::id(),
            started_at: facts.started.rfc3339().to_string(),
            config: ConfigState {
                file: facts.config_file,
                digest: facts.config_digest,
                generation: facts.config_generation,
                loaded_at: facts.config_loaded.rfc3339().to_string(),
                on_disk,
                restart: facts.restart,
            },
            spool: SpoolState {
                path: facts.spool.display().to_string(),
                sync: facts.spool_sync.to_owned(),
                free_bytes,
                size_bytes,
                min_free_bytes: facts.min_free_bytes,
                reading: facts.reading.map(|(read, all)| SpoolReading {
                    segments_read: read as u64,
                    segments: all as u64,
                }),
            },
            event_log: facts.event_log.display().to_string(),
            spool_damage: self.surroundings.journal.damage(),
            absent_sources: self.surroundings.orders.absent(),
            shards: facts.shards,
            rates,
            recent,
            total,
            per_shard,
            resident_bytes: process.resident_bytes,
            open_files: process.open_files,
            ..StatusData::default()
        };
        status.warnings = verdict::warnings(&status);
        let word = verdict::verdict(&status.warnings);
        status.verdict = word.to_owned();
        status.verdict_since = self
            .sampler()
            .verdict_since(now, word, edited.unwrap_or(now))
            .rfc3339()
            .to_string();
        status
    }
}

/// When a file was changed last.
fn modified(path: &str) -> Option<Wall> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Wall(u64::try_from(since.as_micros()).ok()?))
}

fn usage(message: String) -> ErrorData {
    ErrorData {
        code: "E400".into(),
        fault: Fault::Usage,
        message,
    }
}

/// Bytes that are free for us and bytes in all on the file system of `path`.
pub fn disk_space(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero statvfs is a valid value of that plain C struct.
    let mut found: libc::statvfs = unsafe { core::mem::zeroed() };
    // SAFETY: `path` ends in NUL and `found` may be written for the length of the call.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    let block = found.f_frsize;
    (result == 0).then(|| {
        (
            found.f_bavail.saturating_mul(block),
            found.f_blocks.saturating_mul(block),
        )
    })
}
