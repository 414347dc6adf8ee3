//! The way from a command to the engine: finds the management socket, asks, and says in one
//! sentence why there is no answer.

use core::time::Duration;
use std::ffi::OsString;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::config::CONFIG_PATH_DEFAULT;
use crate::cli::config::detect_environment;
use crate::cli::config::read_config;
use crate::cli::output::EXIT_CONFIG;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_NOT_ALLOWED;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::EXIT_UNREACHABLE;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::config::Severity;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::ErrorData;
use crate::control::management::protocol::Fault;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;

/// How long the engine may take for each step.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A reload reads and checks everything, which may take longer than looking something up.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one reply: ten thousand messages with long names stay below it.
const REPLY_BYTES_MAX: u64 = 256 << 20;

const SPOOL_DEFAULT: &str = "/var/spool/pelton";

/// Which engine a command is about.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// The management socket [env: PELTON_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The spool folder, where the socket is by default
    #[arg(long, value_name = "SPOOL", conflicts_with = "socket")]
    pub spool: Option<PathBuf>,
    /// The configuration file, which names the socket [env: PELTON_CONFIG]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "spool"])]
    pub config: Option<PathBuf>,
}

/// Commands that are about an engine, and so take [`ServerArgs`].
const ABOUT_AN_ENGINE: [&str; 11] = [
    "adaptive", "blocks", "status", "queue", "why", "trace", "changes", "reload", "orders", "undo",
    "resume",
];

impl ServerArgs {
    /// A command that leads on, about the same engine: with the words that named it here, once.
    pub fn carry(&self, command: &mut Vec<String>) {
        let about = command.get(1).map_or("", String::as_str);
        let names = |word: &String| ["--socket", "--spool", "--config"].contains(&word.as_str());
        if !ABOUT_AN_ENGINE.contains(&about) || command.iter().any(names) {
            return;
        }
        let words = [
            ("--socket", &self.socket),
            ("--spool", &self.spool),
            ("--config", &self.config),
        ];
        for (word, path) in words {
            if let Some(path) = path {
                command.extend([word.to_owned(), path.display().to_string()]);
            }
        }
    }
}

/// Where an engine keeps what commands look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    pub socket: PathBuf,
    /// Known unless only the socket was named.
    pub event_log: Option<PathBuf>,
    pub journal: Option<PathBuf>,
    pub spool: Option<PathBuf>,
}

impl ServerArgs {
    /// The first that is given of: `--socket`, `--spool`, `--config`, PELTON_SOCKET,
    /// PELTON_CONFIG, the configuration at its usual place, the spool at its usual place.
    pub fn places(&self) -> Result<Places, Failure> {
        self.places_in(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn places_in(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Places, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(Places::of_socket(socket));
        }
        if let Some(spool) = &self.spool {
            return Ok(Places::of_spool(spool));
        }
        if let Some(config) = &self.config {
            return Places::of_config(config);
        }
        if let Some(socket) = env("PELTON_SOCKET") {
            return Ok(Places::of_socket(Path::new(&socket)));
        }
        if let Some(config) = env("PELTON_CONFIG") {
            return Places::of_config(Path::new(&config));
        }
        let usual = Path::new(CONFIG_PATH_DEFAULT);
        if usual.exists() {
            Places::of_config(usual)
        } else {
            Ok(Places::of_spool(Path::new(SPOOL_DEFAULT)))
        }
    }
}

impl Places {
    fn of_socket(socket: &Path) -> Places {
        Places {
            socket: socket.to_owned(),
            event_log: None,
            journal: None,
            spool: None,
        }
    }

    /// Where things are in a spool folder unless the configuration says otherwise.
    pub fn of_spool(spool: &Path) -> Places {
        Places {
            socket: spool.join("pelton.sock"),
            event_log: Some(spool.join("events")),
            journal: Some(spool.join("journal.jsonl")),
            spool: Some(spool.to_owned()),
        }
    }

    fn of_config(path: &Path) -> Result<Places, Failure> {
        match read_config(path, &[], &detect_environment()) {
            Ok(checked) => {
                let global = checked.config.global();
                Ok(Places {
                    socket: PathBuf::from(&global.management_socket),
                    event_log: Some(PathBuf::from(&global.event_log)),
                    journal: Some(PathBuf::from(&global.journal)),
                    spool: Some(PathBuf::from(&global.spoolbase)),
                })
            }
            Err(findings) => Places::of_broken_config(path).ok_or_else(|| {
                let error = findings
                    .iter()
                    .find(|finding| finding.severity == Severity::Error);
                let error = error.map(ToString::to_string).unwrap_or_default();
                let error = error.lines().next().unwrap_or_default();
                let message = format!(
                    "{} does not say where the engine is, name it with --socket PATH:\n{error}",
                    path.display()
                );
                Failure::new(EXIT_CONFIG, "E406", message)
            }),
        }
    }

    /// A file with an error somewhere still tells where the engine is that runs with the version
    /// before: looking must not fail just when it is needed.
    fn of_broken_config(path: &Path) -> Option<Places> {
        let text = std::fs::read_to_string(path).ok()?;
        let value = |option: &str| {
            text.lines().rev().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                let value = value.split('#').next()?.trim().trim_matches('"');
                let is_it = name.trim().eq_ignore_ascii_case(option);
                (is_it && value.starts_with('/')).then(|| PathBuf::from(value))
            })
        };
        let spool = value("Spoolbase");
        let in_spool = |name: &str| spool.as_ref().map(|spool| spool.join(name));
        Some(Places {
            socket: value("Management_Socket").or_else(|| in_spool("pelton.sock"))?,
            event_log: value("Event_Log").or_else(|| in_spool("events")),
            journal: value("Journal").or_else(|| in_spool("journal.jsonl")),
            spool,
        })
    }
}

/// A connection to the management socket.
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Client, Failure> {
        let stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
        let timed = stream
            .set_read_timeout(Some(TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)));
        timed.map_err(|error| unreachable(socket, &error))?;
        Ok(Client {
            stream: BufReader::new(stream),
            socket: socket.to_owned(),
        })
    }

    /// Asks and waits for the reply. An error that the engine replies is a failure here.
    pub fn ask(&mut self, request: &Request) -> Result<Envelope, Failure> {
        let line = self
            .exchange(request)
            .map_err(|error| unreachable(&self.socket, &error))?;
        let envelope: Envelope = serde_json::from_slice(&line).map_err(|error| {
            let message = format!(
                "the reply on {} is not understood: {error}. Is it another version?",
                self.socket.display()
            );
            Failure::new(EXIT_FAILED, "E407", message)
        })?;
        match envelope.reply {
            Reply::Error(error) => Err(refused(error)),
            _ => Ok(envelope),
        }
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let patience = match request {
            Request::Reload | Request::Order(_) | Request::Undo { .. } => RELOAD_TIMEOUT,
            _ => TIMEOUT,
        };
        self.stream.get_ref().set_read_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // Who turns a client away says why before closing.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        let mut reply = Vec::new();
        (&mut self.stream)
            .take(REPLY_BYTES_MAX)
            .read_until(b'\n', &mut reply)?;
        if reply.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(reply)
    }
}

/// Connects and asks one question.
pub fn ask(places: &Places, request: &Request) -> Result<Envelope, Failure> {
    Client::connect(&places.socket)?.ask(request)
}

/// A reply of another kind than the request asks for.
pub fn unexpected() -> Failure {
    let message = "the engine replied to another question. Is it another version?";
    Failure::new(EXIT_FAILED, "E407", message)
}

fn refused(error: ErrorData) -> Failure {
    let exit = match error.fault {
        Fault::Usage => EXIT_USAGE,
        Fault::NotFound => EXIT_NOT_FOUND,
        Fault::Config => EXIT_CONFIG,
        Fault::Failed => EXIT_FAILED,
    };
    Failure {
        exit,
        code: error.code,
        message: error.message,
        findings: Vec::new(),
    }
}

fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let socket = path.display();
    let elsewhere = "Elsewhere: --socket PATH, --spool SPOOL or --config FILE";
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = format!(
                "not allowed to talk to Pelton on {socket}: it is for the user that runs it. Run \
                 this as that user or as root"
            );
            Failure::new(EXIT_NOT_ALLOWED, "E408", message)
        }
        io::ErrorKind::NotFound => {
            let message = format!(
                "no Pelton answers on {socket}: there is no such socket. Start it: pelton serve \
                 --config FILE. {elsewhere}"
            );
            Failure::new(EXIT_UNREACHABLE, "E401", message)
        }
        io::ErrorKind::NotADirectory => {
            let file = path.ancestors().skip(1).find(|it| it.is_file());
            let file = file.unwrap_or(path).display();
            let message = format!(
                "no Pelton answers on {socket}: {file} is a file, not a folder. Name the folder of \
                 the spool: --spool SPOOL, or the configuration: --config FILE"
            );
            Failure::new(EXIT_UNREACHABLE, "E401", message)
        }
        io::ErrorKind::ConnectionRefused if path.is_file() || path.is_dir() => {
            let (what, words) = match path.is_dir() {
                true => ("folder", "If it is the spool: --spool SPOOL"),
                false => ("plain file", "If it is the configuration: --config FILE"),
            };
            let message =
                format!("no Pelton answers on {socket}: it is no socket but a {what}. {words}");
            Failure::new(EXIT_UNREACHABLE, "E401", message)
        }
        io::ErrorKind::ConnectionRefused => {
            let message = format!(
                "no Pelton answers on {socket}: it is not running any more. Mail in its spool is \
                 safe. Start it: pelton serve --config FILE. {elsewhere}"
            );
            Failure::new(EXIT_UNREACHABLE, "E401", message)
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let message = format!(
                "Pelton on {socket} does not answer in time: it is stuck or overloaded. See its \
                 log, and: ps -o stat,pcpu,args -C pelton"
            );
            Failure::new(EXIT_UNREACHABLE, "E409", message)
        }
        _ => {
            let message = format!("no Pelton answers on {socket}: {error}. {elsewhere}");
            Failure::new(EXIT_UNREACHABLE, "E401", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn places(args: &ServerArgs, env: &[(&str, &str)]) -> Result<Places, Failure> {
        args.places_in(&|name| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_nearest_word_names_the_engine() {
        let env = [
            ("PELTON_SOCKET", "/env.sock"),
            ("PELTON_CONFIG", "/env.conf"),
        ];
        let mut args = ServerArgs {
            spool: Some("/s".into()),
            ..ServerArgs::default()
        };
        let found = places(&args, &env).unwrap();
        assert_eq!(found.socket, Path::new("/s/pelton.sock"));
        assert_eq!(found.event_log.as_deref(), Some(Path::new("/s/events")));
        args.socket = Some("/arg.sock".into());
        assert_eq!(places(&args, &env).unwrap().socket, Path::new("/arg.sock"));
        let found = places(&ServerArgs::default(), &env).unwrap();
        assert_eq!(found.socket, Path::new("/env.sock"));
    }

    #[test]
    fn a_configuration_names_socket_event_log_and_journal() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.conf");
        std::fs::write(&file, "Spoolbase = \"/spool/x\"\nEvent_Log = \"/log/x\"\n").unwrap();
        let args = ServerArgs {
            config: Some(file.clone()),
            ..ServerArgs::default()
        };
        let found = places(&args, &[]).unwrap();
        assert_eq!(found.socket, Path::new("/spool/x/pelton.sock"));
        assert_eq!(found.event_log.as_deref(), Some(Path::new("/log/x")));
        std::fs::write(&file, "Spoolbase = \"/spool/y\"\nmax_conections = 3\n").unwrap();
        let found = places(&args, &[]).unwrap();
        assert_eq!(found.socket, Path::new("/spool/y/pelton.sock"));
        std::fs::write(&file, "Spoolbase = {").unwrap();
        let failure = places(&args, &[]).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (EXIT_CONFIG, "E406"));
        assert!(
            failure.message.contains("--socket PATH:\n"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn nobody_there_is_said_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let failure = |request: &Request| ask(&Places::of_socket(&socket), request).unwrap_err();
        let absent = failure(&Request::Status);
        assert_eq!(
            (absent.exit, absent.code.as_str()),
            (EXIT_UNREACHABLE, "E401")
        );
        assert!(absent.message.contains("there is no such socket"));
        std::fs::write(&socket, "").unwrap();
        let told = failure(&Request::Status).message;
        assert!(told.contains("it is no socket but a plain file"), "{told}");
        let below = Places::of_spool(&socket);
        let told = ask(&below, &Request::Status).unwrap_err().message;
        let sentence = format!("{} is a file, not a folder", socket.display());
        assert!(told.contains(&sentence), "{told}");
        std::fs::remove_file(&socket).unwrap();
        let told = ask(&Places::of_socket(folder.path()), &Request::Status).unwrap_err();
        assert!(
            told.message.contains("it is no socket but a folder"),
            "{}",
            told.message
        );
        drop(UnixListener::bind(&socket).unwrap());
        let stopped = failure(&Request::Status);
        assert_eq!(stopped.exit, EXIT_UNREACHABLE);
        assert!(
            stopped.message.contains("not running any more"),
            "{}",
            stopped.message
        );
    }

    #[test]
    fn a_reply_that_ends_early_or_says_nothing_known_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        for (reply, code) in [("{\"node\":", "E401"), ("{\"weather\":1}\n", "E407")] {
            let mut client = Client::connect(&socket).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(reply.as_bytes()).unwrap();
            server.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.ask(&Request::Status).unwrap_err().code, code);
        }
    }
}
