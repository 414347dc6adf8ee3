//! Where imported messages come from: an exported folder, an mbox, another spool. Each message has
//! a key that stays the same however often it is read, so that it is known again.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::crc;
use crate::base::time::Wall;
use crate::cli::output::Failure;
use crate::cli::output::parse_time;
use crate::cli::spool::mbox::Entries;
use crate::cli::spool::mbox::Entry;
use crate::cli::spool::mbox::RECIPIENT_FIELD;
use crate::cli::spool::mbox::Sender;
use crate::cli::spool::place::SpoolPlace;
use crate::cli::spool::place::reason;
use crate::cli::spool::sidecar;
use crate::cli::spool::sidecar::Sidecar;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::View;
use crate::proto::smtp::path;
use crate::proto::smtp::path::Path;
use crate::types::address::Address;
use crate::types::flow::FlowNames;
use crate::types::id::BatchId;
use crate::types::message::Content;
use crate::types::message::HEADER_FACT_BYTES_MAX;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::message::Recipient;

/// Bytes of an envelope's file; sixty thousand recipients stay below it.
const SIDECAR_BYTES_MAX: u64 = 64 << 20;

/// What an imported message says that its client called itself, if nobody knows.
const HELO: &str = "import";

/// A message to be imported. Its batch id is yet to be given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// What to call it in a sentence: its file, or its line in the mbox.
    pub name: String,
    /// Without blanks.
    pub key: String,
    /// Its spool and id there, unless it has none.
    pub was: Option<(u64, BatchId)>,
    pub content: Content,
    pub recipients: Vec<Recipient>,
}

/// Why one message cannot be imported, in a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub name: String,
    pub why: String,
}

/// What is the same for all messages of an import.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Overrides the binding of all.
    pub binding: Option<Arc<str>>,
    /// Overrides the recipients of an mbox.
    pub to: Vec<Address>,
    /// When a message of an mbox counts as received.
    pub now: Wall,
}

pub enum Source {
    Folder {
        folder: PathBuf,
        /// Messages, without the suffix.
        stems: Vec<String>,
        at: usize,
    },
    Mbox {
        path: PathBuf,
        entries: Box<Entries<BufReader<File>>>,
        /// How often a message has come before: the same one may stand there twice.
        seen: BTreeMap<u128, u32>,
    },
    Spool {
        view: Box<View>,
        at: usize,
    },
}

impl Source {
    /// The messages of a folder that `pelton spool export` has written.
    pub fn folder(folder: &std::path::Path) -> Result<Source, String> {
        let shown = folder.display();
        let entries =
            fs::read_dir(folder).map_err(|error| format!("{shown}: {}", reason(&error)))?;
        let (mut messages, mut envelopes) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries {
            let name = entry.map_err(|error| reason(&error))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if sidecar::is_part(&name) {
                return Err(format!(
                    "{shown}/{name} is what an export that was cut off has left: export again \
                     into an empty folder, or remove that file to import what is whole"
                ));
            } else if let Some(stem) = name.strip_suffix(".eml") {
                messages.insert(stem.to_owned());
            } else if let Some(stem) = name.strip_suffix(".json") {
                envelopes.insert(stem.to_owned());
            }
        }
        if let Some(stem) = messages.symmetric_difference(&envelopes).next() {
            let (has, lacks) = match messages.contains(stem) {
                true => ("eml", "json"),
                false => ("json", "eml"),
            };
            return Err(format!(
                "{shown}/{stem}.{has} has no {stem}.{lacks} beside it: expected both, as pelton \
                 spool export writes them. Export again, or move that file away to import the rest"
            ));
        }
        Ok(Source::Folder {
            folder: folder.to_owned(),
            stems: messages.into_iter().collect(),
            at: 0,
        })
    }

    pub fn mbox(path: &std::path::Path) -> Result<Source, String> {
        let entries = Box::new(open_mbox(path)?);
        let (path, seen) = (path.to_owned(), BTreeMap::new());
        Ok(Source::Mbox {
            path,
            entries,
            seen,
        })
    }

    pub fn spool(place: &SpoolPlace, progress: &mut Progress) -> Result<Source, Failure> {
        let view = Box::new(View::open(place, progress)?);
        Ok(Source::Spool { view, at: 0 })
    }

    /// What of it is known to be missing, in sentences.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Source::Spool { view, .. } => view.warnings(),
            Source::Folder { .. } | Source::Mbox { .. } => Vec::new(),
        }
    }

    /// Begins anew.
    pub fn rewind(&mut self) -> Result<(), String> {
        match self {
            Source::Folder { at, .. } | Source::Spool { at, .. } => *at = 0,
            Source::Mbox {
                path,
                entries,
                seen,
            } => {
                **entries = open_mbox(path)?;
                seen.clear();
            }
        }
        Ok(())
    }

    /// Messages in all, if that is known before they are read.
    pub fn len(&self) -> Option<u64> {
        match self {
            Source::Folder { stems, .. } => Some(stems.len() as u64),
            Source::Mbox { .. } => None,
            Source::Spool { view, .. } => Some(view.messages()),
        }
    }

    /// Whether one message that cannot be read says that the source is not what it should be. Of a
    /// damaged spool the rest is what one wants.
    pub fn must_be_whole(&self) -> bool {
        !matches!(self, Source::Spool { .. })
    }

    /// The next message; nothing at the end. After an error of an mbox there is no next one.
    pub fn next(&mut self, wanted: &Wanted) -> Option<Result<Incoming, Unfit>> {
        match self {
            Source::Folder { folder, stems, at } => {
                let stem = stems.get(*at)?;
                *at += 1;
                let name = folder.join(format!("{stem}.eml")).display().to_string();
                let read = from_folder(folder, stem, wanted);
                Some(read.map_err(|why| Unfit { name, why }))
            }
            Source::Mbox {
                path,
                entries,
                seen,
            } => {
                let entry = match entries.next() {
                    Ok(entry) => entry?,
                    Err(why) => {
                        let name = path.display().to_string();
                        return Some(Err(Unfit { name, why }));
                    }
                };
                let name = format!("{} line {}", path.display(), entry.line);
                Some(match from_mbox(entry, wanted) {
                    Ok(incoming) => Ok(numbered(incoming, name, seen)),
                    Err(why) => Err(Unfit { name, why }),
                })
            }
            Source::Spool { view, at } => {
                let arrivals = core::mem::take(&mut view.arrivals);
                let open = arrivals[*at..].chunk_by(|a, b| a.batch == b.batch).next();
                let read = open.map(|open| {
                    *at += open.len();
                    let name = format!("message {}", open[0].batch);
                    from_spool(view, open, wanted).map_err(|why| Unfit { name, why })
                });
                view.arrivals = arrivals;
                read
            }
        }
    }
}

fn open_mbox(path: &std::path::Path) -> Result<Entries<BufReader<File>>, String> {
    let failed = |error: std::io::Error| format!("{}: {}", path.display(), reason(&error));
    let is_file = fs::metadata(path).map_err(failed)?.is_file();
    if !is_file {
        return Err(format!(
            "{} is not a file: expected an mbox",
            path.display()
        ));
    }
    let file = File::open(path).map_err(failed)?;
    Ok(Entries::new(BufReader::new(file)))
}

fn key(spool_id: u64, id: BatchId) -> String {
    format!("{spool_id:016x}-{id}")
}

/// An address as a command of SMTP could name it.
pub fn address(text: &str) -> Result<Address, String> {
    // As strictly as a client's: it will stand in a command to a receiving host.
    let path = format!("<{text}>");
    let mailbox = match path::parse(&path) {
        Ok((Path::Mailbox(it), "")) => Address::from_parts(it.local, it.domain),
        _ => None,
    };
    mailbox.ok_or_else(|| format!("\"{text}\" is no address: expected local@domain"))
}

fn from_folder(folder: &std::path::Path, stem: &str, wanted: &Wanted) -> Result<Incoming, String> {
    let path = folder.join(format!("{stem}.json"));
    let shown = path.display();
    let told = |why: String| format!("{shown}: {why}");
    let metadata = fs::metadata(&path).map_err(|error| told(reason(&error)))?;
    if metadata.len() > SIDECAR_BYTES_MAX {
        return Err(told("larger than any envelope".to_owned()));
    }
    let json = fs::read(&path).map_err(|error| told(reason(&error)))?;
    let envelope: Sidecar = serde_json::from_slice(&json)
        .map_err(|error| told(format!("no envelope of an exported message: {error}")))?;
    if envelope.schema != sidecar::SCHEMA {
        let (is, expected) = (&envelope.schema, sidecar::SCHEMA);
        return Err(told(format!("schema \"{is}\", expected \"{expected}\"")));
    }
    let body = fs::read(folder.join(format!("{stem}.eml"))).map_err(|error| reason(&error))?;
    let body = match &envelope.crc32c {
        Some(sum) => {
            let same = *sum == format!("{:08x}", crc::crc32c(0, &body));
            if !same || body.len() as u64 != envelope.size_bytes {
                return Err(format!(
                    "has {} bytes and is not what was exported, which had {}. If it was changed \
                     on purpose, take crc32c out of {stem}.json",
                    body.len(),
                    envelope.size_bytes
                ));
            }
            body
        }
        None => with_line_ends(body),
    };
    incoming(&envelope, body, wanted).map_err(|why| {
        let name = format!("{stem}.json");
        format!("{name}: {why}")
    })
}

/// Whoever edits a message may save it with the line ends of this system.
fn with_line_ends(body: Vec<u8>) -> Vec<u8> {
    let mut fixed = Vec::with_capacity(body.len() + body.len() / 32);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        fixed.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        fixed.extend_from_slice(b"\r\n");
    }
    fixed
}

fn incoming(envelope: &Sidecar, body: Vec<u8>, wanted: &Wanted) -> Result<Incoming, String> {
    let id: BatchId = envelope
        .id
        .parse()
        .map_err(|error| format!("id \"{}\": {error}", envelope.id))?;
    let spool_id = u64::from_str_radix(&envelope.spool_id, 16)
        .map_err(|_| format!("spool_id \"{}\": expected 16 hex digits", envelope.spool_id))?;
    let received = parse_time(&envelope.received_at).ok_or_else(|| {
        let at = &envelope.received_at;
        format!("received_at \"{at}\": expected a time as 2026-11-22T02:12:09.120Z")
    })?;
    let sender = match envelope.sender.as_str() {
        "" => None,
        text => Some(address(text)?),
    };
    let recipient = |it: &sidecar::To| {
        if it.binding.is_empty() {
            return Err(format!("recipient {} has no binding", it.address));
        }
        let binding = Arc::from(it.binding.as_str());
        Ok(Recipient {
            address: address(&it.address)?,
            binding: wanted.binding.clone().unwrap_or(binding),
        })
    };
    let recipients: Vec<Recipient> = envelope
        .recipients
        .iter()
        .map(recipient)
        .collect::<Result<_, _>>()?;
    let origin = envelope.origin.as_ref().map(|it| Origin {
        peer: it.peer.parse().unwrap_or(LOOPBACK),
        helo: it.helo.as_str().into(),
        method: match it.method.as_str() {
            "smtp" => Method::Smtp,
            _ => Method::Esmtp,
        },
    });
    let content = Content {
        batch: BatchId(0),
        received,
        origin: origin.unwrap_or_else(import_origin),
        sender,
        eight_bit: envelope.eight_bit || !body.is_ascii(),
        smtputf8: envelope.smtputf8,
        subject: envelope.subject.as_str().into(),
        friendly_from: envelope.friendly_from.as_str().into(),
        flow: FlowNames {
            class: &envelope.class,
            tenant: &envelope.tenant,
            campaign: &envelope.campaign,
        }
        .flow(),
        body: Bytes::from(body),
    };
    checked(Incoming {
        name: format!("{}.eml", envelope.id),
        key: key(spool_id, id),
        was: Some((spool_id, id)),
        content,
        recipients,
    })
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn import_origin() -> Origin {
    Origin {
        peer: LOOPBACK,
        helo: HELO.into(),
        method: Method::Esmtp,
    }
}

/// What holds for every message of a spool: lines end in CRLF and nothing else does, so that no two
/// readers of it can disagree on where it ends; and somebody is to get it.
fn checked(mut incoming: Incoming) -> Result<Incoming, String> {
    if incoming.recipients.is_empty() {
        return Err("it has no recipient".to_owned());
    }
    let most = crate::types::id::RECIPIENTS_MAX;
    if incoming.recipients.len() > most {
        return Err(format!("it has more than {most} recipients"));
    }
    let body = &incoming.content.body;
    let bare = |at: &usize| match body[*at] {
        b'\n' => *at == 0 || body[*at - 1] != b'\r',
        _ => body.get(*at + 1) != Some(&b'\n'),
    };
    let found = memchr::memchr2_iter(b'\r', b'\n', body).find(bare);
    if let Some(at) = found {
        return Err(format!(
            "byte {at} is a CR or LF alone: expected lines that end in CRLF and have neither \
             within"
        ));
    }
    let content = &mut incoming.content;
    for fact in [&mut content.subject, &mut content.friendly_from] {
        let end = fact.floor_char_boundary(HEADER_FACT_BYTES_MAX);
        *fact = fact[..end].into();
    }
    Ok(incoming)
}

fn from_spool(
    view: &mut View,
    open: &[crate::types::message::Arrival],
    wanted: &Wanted,
) -> Result<Incoming, String> {
    let message = view.message(&open[0])?;
    let (spool_id, id) = (view.file.spool_id, open[0].batch);
    let recipient = |it: &crate::types::message::Arrival| Recipient {
        address: it.address.clone(),
        binding: wanted.binding.as_ref().unwrap_or(&it.binding).clone(),
    };
    checked(Incoming {
        name: format!("message {id}"),
        key: key(spool_id, id),
        was: Some((spool_id, id)),
        content: message.content,
        recipients: open.iter().map(recipient).collect(),
    })
}

/// Gives a message of an mbox the name that it has each time that this file is read.
fn numbered(mut incoming: Incoming, name: String, seen: &mut BTreeMap<u128, u32>) -> Incoming {
    let mut sum = Sum::default();
    let sender = incoming.content.sender.as_ref();
    sum.add(sender.map_or("", |it| it.as_str()).as_bytes());
    for recipient in &incoming.recipients {
        sum.add(recipient.address.as_str().as_bytes());
    }
    sum.add(&incoming.content.body);
    let count = seen.entry(sum.0).or_default();
    *count += 1;
    incoming.key = format!("mbox-{:032x}-{count}", sum.0);
    incoming.name = name;
    incoming
}

/// FNV-1a of 128 bits: not against people who want two messages to be taken for one.
struct Sum(u128);

impl Default for Sum {
    fn default() -> Sum {
        Sum(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        // A byte that is in no address and no length of UTF-8 divides the parts.
        for byte in bytes.iter().chain(&[0xff]) {
            let mixed = self.0 ^ u128::from(*byte);
            self.0 = mixed.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

fn from_mbox(entry: Entry, wanted: &Wanted) -> Result<Incoming, String> {
    let Entry { sender, body, .. } = entry;
    let header = Header::of(&body);
    let sender = match sender {
        Sender::Address(text) => Some(address(&text)?),
        Sender::Null => None,
        Sender::Unknown => match header.first("Return-Path") {
            None => {
                let message = "neither its From_ line nor a Return-Path field names a sender: \
                               expected an address there, or MAILER-DAEMON for none";
                return Err(message.to_owned());
            }
            Some(path) => match path.trim_start_matches('<').trim_end_matches('>').trim() {
                "" => None,
                text => Some(address(text)?),
            },
        },
    };
    let named = header.recipients()?;
    let addresses = match wanted.to.is_empty() {
        false => wanted.to.clone(),
        true => named,
    };
    if addresses.is_empty() {
        let message = "no X-Original-To, Delivered-To or To field names a recipient: expected \
                       one, or --to ADDRESS";
        return Err(message.to_owned());
    }
    let binding = wanted.binding.clone();
    let binding = binding.unwrap_or_else(|| Arc::from(crate::cli::spool::import::BINDING_DEFAULT));
    let smtputf8 = !addresses.iter().chain(&sender).all(Address::is_ascii);
    let fact = |name: &str| header.first(name).unwrap_or_default().into_boxed_str();
    let (subject, friendly_from) = (fact("Subject"), fact("From"));
    let body = body[header.envelope_bytes(&body)..].to_vec();
    let recipient = |address: &Address| Recipient {
        address: address.clone(),
        binding: binding.clone(),
    };
    let content = Content {
        batch: BatchId(0),
        received: wanted.now,
        origin: import_origin(),
        sender,
        eight_bit: !body.is_ascii(),
        smtputf8,
        subject,
        friendly_from,
        flow: None,
        body: Bytes::from(body),
    };
    checked(Incoming {
        name: String::new(),
        key: String::new(),
        was: None,
        recipients: addresses.iter().map(recipient).collect(),
        content,
    })
}

/// The fields of a header section, unfolded.
struct Header {
    /// Name, value, and where the field ends in the message.
    fields: Vec<(String, String, usize)>,
}

impl Header {
    fn of(body: &[u8]) -> Header {
        let mut fields: Vec<(String, String, usize)> = Vec::new();
        let mut at = 0;
        for line in body.split_inclusive(|byte| *byte == b'\n') {
            at += line.len();
            let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let folded = text.starts_with([' ', '\t']);
            match (fields.last_mut(), text.split_once(':')) {
                _ if text.is_empty() => break,
                (Some((_, value, end)), _) if folded => {
                    value.push(' ');
                    value.push_str(text.trim());
                    *end = at;
                }
                (_, Some((name, value))) if !folded => {
                    fields.push((name.trim().to_owned(), value.trim().to_owned(), at));
                }
                _ => break,
            }
        }
        Header { fields }
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.fields.iter();
        named
            .filter(move |(known, ..)| known.eq_ignore_ascii_case(name))
            .map(|(_, value, _)| value.as_str())
    }

    fn first(&self, name: &str) -> Option<String> {
        self.all(name).next().map(str::to_owned)
    }

    /// Those that the first field of these has that is there at all.
    fn recipients(&self) -> Result<Vec<Address>, String> {
        for name in [RECIPIENT_FIELD, "Delivered-To", "To"] {
            let mut found: Vec<Address> = Vec::new();
            for text in self.all(name).flat_map(addresses) {
                let address = address(&text).map_err(|why| format!("field {name}: {why}"))?;
                if !found.contains(&address) {
                    found.push(address);
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Bytes of the fields on top that say how the message was delivered here, which are not to
    /// travel on: the recipients among them need not know of each other.
    fn envelope_bytes(&self, body: &[u8]) -> usize {
        let of_envelope = |name: &str| {
            let known = [RECIPIENT_FIELD, "Return-Path"];
            known.iter().any(|it| it.eq_ignore_ascii_case(name))
        };
        let on_top = self.fields.iter();
        let on_top = on_top.take_while(|(name, ..)| of_envelope(name));
        on_top.last().map_or(0, |(_, _, end)| *end).min(body.len())
    }
}

/// The addresses of a list as it stands in a header field.
fn addresses(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_u32);
    let mut plain = String::new();
    let mut angle: Option<String> = None;
    let mut within = false;
    for c in value.chars().chain([',']) {
        let is_escape = c == '\\' && !escaped;
        match c {
            '"' if !escaped && depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                escaped = false;
                continue;
            }
            _ => {}
        }
        escaped = is_escape;
        match c {
            _ if depth > 0 => {}
            '<' if !quoted => (angle, within) = (Some(String::new()), true),
            '>' if !quoted => within = false,
            // The name of a group, and its end.
            ':' if !quoted && !within => plain.clear(),
            ',' | ';' if !quoted && !within => {
                let text = angle.take().unwrap_or_else(|| plain.trim().to_owned());
                plain.clear();
                if !text.is_empty() {
                    found.push(text.trim().to_owned());
                }
            }
            c => match angle.as_mut().filter(|_| within) {
                Some(angle) => angle.push(c),
                None => plain.push(c),
            },
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_is_taken_apart() {
        for (list, expected) in [
            ("a@b", &["a@b"][..]),
            ("A <a@b>, \"C, D\" <c@d>", &["a@b", "c@d"]),
            ("a@b (one, two), c@d", &["a@b", "c@d"]),
            ("team: a@b, <c@d>;", &["a@b", "c@d"]),
            ("undisclosed-recipients:;", &[]),
            ("\"x y\"@b, ", &["\"x y\"@b"]),
            ("", &[]),
        ] {
            assert_eq!(addresses(list), expected, "{list}");
        }
    }

    #[test]
    fn what_was_on_top_for_the_delivery_does_not_travel_on() {
        let entry = Entry {
            line: 1,
            sender: Sender::Unknown,
            body: b"Return-Path: <s@x>\r\nX-Original-To: a@b\r\nX-Original-To:\r\n c@d\r\n\
                    To: z@z\r\nSubject: hi\r\n\r\nX-Original-To: no@no\r\n"
                .to_vec(),
        };
        let wanted = Wanted {
            binding: None,
            to: Vec::new(),
            now: Wall(7),
        };
        let it = from_mbox(entry.clone(), &wanted).unwrap();
        assert!(it.content.body.starts_with(b"To: z@z\r\n"));
        let to: Vec<&str> = it.recipients.iter().map(|it| it.address.as_str()).collect();
        assert_eq!(to, ["a@b", "c@d"]);
        assert_eq!(it.content.sender.unwrap().as_str(), "s@x");
        assert_eq!(&*it.content.subject, "hi");
        let wanted = Wanted {
            to: vec![Address::parse("q@q").unwrap()],
            ..wanted
        };
        let it = from_mbox(entry, &wanted).unwrap();
        assert_eq!(it.recipients[0].address.as_str(), "q@q");
    }

    #[test]
    fn a_line_end_that_is_half_a_one_is_refused() {
        let entry = |body: &[u8]| Entry {
            line: 1,
            sender: Sender::Null,
            body: body.to_vec(),
        };
        let wanted = Wanted {
            binding: None,
            to: vec![Address::parse("q@q").unwrap()],
            now: Wall(7),
        };
        for body in [
            &b"A: b\r\n\r\nx\ry\r\n"[..],
            b"A: b\r\n\r\nx\ny\r\n",
            b"A: b\r",
        ] {
            let why = from_mbox(entry(body), &wanted).unwrap_err();
            assert!(why.contains("CR or LF alone"), "{why}");
        }
        assert!(from_mbox(entry(b"A: b\r\n\r\nx\r\n"), &wanted).is_ok());
    }
}
