//! A question in, an answer out: the wire format is hickory's, what is said is the zone's.

use core::time::Duration;

use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::SOA;

use super::zone::Entry;
use super::zone::Mark;
use super::zone::Zone;

/// Aliases that are followed within one answer.
const ALIASES_MAX: usize = 8;

/// Octets of a UDP answer to a client that says nothing of its room (RFC 1035 section 4.2.1).
const UDP_BYTES_DEFAULT: u16 = 512;

/// The room that the responder announces for itself.
const UDP_BYTES_OWN: u16 = 1_232;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What became of a question.
#[derive(Debug)]
pub(super) struct Outcome {
    pub name: String,
    pub query_type: String,
    pub code: String,
    pub truncated: bool,
    pub delay: Duration,
    /// The encoded answer, if one is given.
    pub reply: Option<Vec<u8>>,
}

/// Answers one packet; `None` if it is not a question.
pub(super) fn answer(zone: &Zone, packet: &[u8], transport: Transport) -> Option<Outcome> {
    let query = Message::from_vec(packet).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let question = query.queries.first()?.clone();
    let mut name = question.name().to_ascii().to_ascii_lowercase();
    if name.len() > 1 && name.ends_with('.') {
        name.pop();
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.authoritative = true;
    reply.add_query(question.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_OWN);
        reply.set_edns(edns);
    }
    let entry = zone.entry(&name);
    let mut outcome = Outcome {
        query_type: question.query_type().to_string(),
        code: String::new(),
        truncated: false,
        delay: entry.map(|entry| entry.delay).unwrap_or_default(),
        reply: None,
        name,
    };
    if entry.is_some_and(|entry| entry.mark == Mark::Silent) {
        return Some(outcome);
    }
    reply.metadata.response_code = match query.metadata.op_code {
        OpCode::Query => fill(
            zone,
            entry,
            question.name(),
            question.query_type(),
            &mut reply,
        ),
        _ => ResponseCode::NotImp,
    };
    outcome.code = format!("{:?}", reply.metadata.response_code).to_ascii_uppercase();
    let room = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => query.edns.as_ref().map_or(UDP_BYTES_DEFAULT, |edns| {
            edns.max_payload().max(UDP_BYTES_DEFAULT)
        }),
    };
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() > usize::from(room) {
        outcome.truncated = true;
        bytes = reply.truncate().to_vec().ok()?;
    }
    outcome.reply = Some(bytes);
    Some(outcome)
}

/// Puts the records that answer into `reply` and tells the code.
fn fill(
    zone: &Zone,
    entry: Option<&Entry>,
    name: &Name,
    wanted: RecordType,
    reply: &mut Message,
) -> ResponseCode {
    let mut owner = name.clone();
    let mut entry = entry;
    for _ in 0..ALIASES_MAX {
        let code = match entry.map(|entry| entry.mark) {
            None | Some(Mark::NxDomain) => ResponseCode::NXDomain,
            Some(Mark::ServFail | Mark::Silent) => return ResponseCode::ServFail,
            Some(Mark::Refused) => return ResponseCode::Refused,
            Some(Mark::None) => ResponseCode::NoError,
        };
        let records = entry.map_or(&[][..], |entry| &entry.records);
        let mut alias = None;
        let mut found = false;
        for (ttl_s, data) in records {
            let is_alias = matches!(data, RData::CNAME(_)) && wanted != RecordType::CNAME;
            if data.record_type() == wanted || wanted == RecordType::ANY || is_alias {
                found = true;
                reply.add_answer(Record::from_rdata(owner.clone(), *ttl_s, data.clone()));
            }
            if let (RData::CNAME(target), true) = (data, is_alias) {
                alias = Some(target.0.clone());
            }
        }
        let Some(target) = alias else {
            if !found || code != ResponseCode::NoError {
                reply.add_authority(start_of_authority(zone));
            }
            return code;
        };
        let mut key = target.to_ascii().to_ascii_lowercase();
        key.pop();
        entry = zone.entry(&key);
        owner = target;
    }
    // A chain of aliases without an end: what was found is given, as a plain server does.
    ResponseCode::NoError
}

/// One authority for everything: negative answers need it to be remembered (RFC 2308).
fn start_of_authority(zone: &Zone) -> Record {
    let ttl_s = zone.negative_ttl_s();
    let soa = SOA::new(Name::root(), Name::root(), 1, 3_600, 600, 86_400, ttl_s);
    Record::from_rdata(Name::root(), ttl_s, RData::SOA(soa))
}
