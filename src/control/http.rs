//! The HTTP listener: `/metrics`, `/readyz` and `/livez`, for machines that watch. A small HTTP/1.1
//! server that would rather refuse than guess: whatever could be read in two ways is answered 400
//! and the connection ends.
//!
//! Invariants: connections, head bytes, header fields, body bytes and every wait are bounded; no
//! request changes anything; nothing of a request is ever sent back.

use core::time::Duration;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::management::Surroundings;
use crate::control::management::protocol::error_document;
use crate::control::metrics;

mod request;

use request::Head;
use request::Refusal;

/// Bytes of request line and header section; more is answered 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// Bytes of a body, which is read and forgotten; more is answered 413.
pub const BODY_BYTES_MAX: u64 = 64 * 1_024;

/// Requests of one connection; the last one is answered with `Connection: close`.
const REQUESTS_MAX: u32 = 1_000;

/// From the first byte of a request to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the rest of a refused request is read, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1_024;

/// The bounds of one listen address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `listener_sessions`; further connections are answered 503 and closed.
    pub connections_max: usize,
    /// `idle_time`: how long a connection may wait for its next request.
    pub idle_time: Duration,
}

/// Serves until dropped; with it go its connections.
pub async fn serve(listener: TcpListener, settings: Settings, surroundings: Arc<Surroundings>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) if connections.len() < settings.connections_max => {
                let surroundings = Arc::clone(&surroundings);
                connections.spawn(connection(stream, settings.idle_time, surroundings));
            }
            Ok((stream, _)) => {
                // A fresh socket takes that much without waiting; if not, the client sees the end.
                let busy = "as many connections as Listener_Sessions allows: try again";
                let response = Response::error(503, "E504", busy, &surroundings);
                let _ = stream.try_write(&response.bytes(false, true));
            }
            // Out of file descriptors, most likely: some will come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, idle: Duration, surroundings: Arc<Surroundings>) {
    let mut buffer = Vec::new();
    for served in 1..=REQUESTS_MAX {
        if buffer.is_empty()
            && !matches!(
                timeout(idle, more(&mut stream, &mut buffer)).await,
                Ok(true)
            )
        {
            return;
        }
        let request = timeout(REQUEST_TIMEOUT, read_request(&mut stream, &mut buffer)).await;
        let refusal = match request {
            Ok(Ok(Some(head))) => {
                let last = !head.keep_alive || served == REQUESTS_MAX;
                let response = respond(&head, &surroundings).await;
                if !write(&mut stream, &response.bytes(head.is_head(), last)).await || last {
                    return;
                }
                continue;
            }
            // The client went away in the middle.
            Ok(Ok(None)) => return,
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal {
                status: 408,
                reason: "the request took too long",
            },
        };
        let response = Response::error(refusal.status, "E501", refusal.reason, &surroundings);
        if write(&mut stream, &response.bytes(false, true)).await {
            linger(&mut stream).await;
        }
        return;
    }
}

/// False at the end of the stream or on an error.
async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(buffer).await, Ok(1..))
}

/// One request whole, its body passed over. Nothing if the client closed before.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Option<Head>, Refusal> {
    let head = loop {
        if let Some(head) = request::parse(buffer)? {
            break head;
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(Refusal {
                status: 431,
                reason: "the header section is too large",
            });
        }
        if !more(stream, buffer).await {
            return Ok(None);
        }
    };
    if head.body_bytes > BODY_BYTES_MAX {
        return Err(Refusal {
            status: 413,
            reason: "no request here needs such a body",
        });
    }
    let whole = head.bytes + usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
    while buffer.len() < whole {
        if !more(stream, buffer).await {
            return Ok(None);
        }
    }
    buffer.drain(..whole);
    Ok(Some(head))
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    matches!(
        timeout(WRITE_TIMEOUT, stream.write_all(bytes)).await,
        Ok(Ok(()))
    )
}

async fn linger(stream: &mut TcpStream) {
    // Whatever goes wrong here, the connection ends next.
    let _ = stream.shutdown().await;
    let _ = timeout(LINGER, async {
        let mut scrap = [0; 4_096];
        let mut read = 0;
        while read < LINGER_BYTES_MAX {
            match stream.read(&mut scrap).await {
                Ok(bytes @ 1..) => read += bytes,
                _ => break,
            }
        }
    })
    .await;
}

async fn respond(head: &Head, surroundings: &Surroundings) -> Response {
    let path = head.target.split('?').next().unwrap_or_default();
    let known = matches!(path, "/metrics" | "/healthz" | "/readyz" | "/livez");
    match (path, head.method.as_str()) {
        ("/metrics", "GET" | "HEAD") => metrics_page(surroundings).await,
        // The older name of it, which load balancers know.
        ("/healthz" | "/readyz", "GET" | "HEAD") => ready(surroundings).await,
        ("/livez", "GET" | "HEAD") => alive(surroundings).await,
        _ if known => Response {
            allow: true,
            ..Response::error(405, "E503", "GET and HEAD only", surroundings)
        },
        _ => Response::error(
            404,
            "E502",
            "see /metrics, /readyz and /livez",
            surroundings,
        ),
    }
}

async fn metrics_page(surroundings: &Surroundings) -> Response {
    // In this order: what is over by now is in what the shards answer.
    let facts = (surroundings.facts)();
    let (total, shards) = surroundings.stats().await;
    let build = metrics::Build {
        version: &facts.version,
        started: facts.started,
        shards: facts.shards,
        spool_damage: surroundings.journal.damage(),
        reading: facts.reading.is_some(),
    };
    let process = metrics::Process::read();
    Response {
        content_type: metrics::CONTENT_TYPE,
        body: metrics::render(&total, shards.len() as u64, &process, &build),
        ..Response::text("")
    }
}

/// 200 while mail is accepted, else 503 with the reason.
async fn ready(surroundings: &Surroundings) -> Response {
    let (total, shards) = surroundings.stats().await;
    let gauges = &total.gauges;
    let unwell = |message: &str| Response::error(503, "E505", message, surroundings);
    if (shards.len() as u64) < (surroundings.facts)().shards {
        unwell("not every shard answers")
    } else if gauges.spool_stopped {
        unwell("the spool cannot be written")
    } else if !gauges.admission_closed.is_empty() {
        unwell(&format!("no mail is accepted: {}", gauges.admission_closed))
    } else {
        Response::text("ok\n")
    }
}

/// 200 while every shard answers: of one that does not a new start may make an end, of a full disk
/// it does not.
async fn alive(surroundings: &Surroundings) -> Response {
    let (_, shards) = surroundings.stats().await;
    match (shards.len() as u64) < (surroundings.facts)().shards {
        true => Response::error(503, "E505", "not every shard answers", surroundings),
        false => Response::text("ok\n"),
    }
}

struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
    /// Say which methods there are.
    allow: bool,
}

impl Response {
    fn text(body: &str) -> Response {
        Response {
            status: 200,
            content_type: "text/plain; charset=utf-8",
            body: body.to_owned(),
            allow: false,
        }
    }

    /// An error in the form that all errors have.
    fn error(status: u16, code: &str, message: &str, surroundings: &Surroundings) -> Response {
        let document = error_document((surroundings.clock)(), code, message);
        Response {
            status,
            content_type: "application/json",
            body: format!("{document}\n"),
            allow: false,
        }
    }

    fn bytes(&self, head_only: bool, close: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Bad Request",
        };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        if self.allow {
            text.push_str("Allow: GET, HEAD\r\n");
        }
        if close {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        if !head_only {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}
