//! The right-hand side of an option as a checked value, and back to canonical text.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use crate::base::throttle::Rate;
use crate::base::units;
use crate::types::flow::FLOW_NAME_BYTES_MAX;

use super::adaptive;
use super::curfew::Curfew;
use super::diagnostic::near_miss;
use super::domains;
use super::domains::DomainSet;
use super::nets;
use super::nets::NetSet;
use super::nets::ProhibitedHosts;
use super::parse::RawValue;
use super::parse::Word;
use super::settings::Host;
use super::settings::RouteItem;
use super::settings::StaticTarget;
use super::source::Span;
use super::spec::Kind;
use super::spec::RATE_COUNT_MAX;
use super::spec::duration_text;
use super::spec::size_text;
use super::target;

/// Words that mean true, and words that mean false.
const TRUE_WORDS: [&str; 5] = ["true", "on", "enabled", "yes", "1"];
const FALSE_WORDS: [&str; 5] = ["false", "off", "disabled", "no", "0"];

/// Bytes of the name of a header field that an option may hold.
const FIELD_NAME_BYTES_MAX: usize = 76;

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Duration(Duration),
    Size(u64),
    /// Nothing: no limit.
    Rate(Option<Rate>),
    Octal(u32),
    /// A word of the option's kind, in the kind's spelling.
    Word(&'static str),
    Text(String),
    SocketAddresses(Vec<SocketAddr>),
    /// Empty: `*`.
    SourceAddresses(Vec<IpAddr>),
    Networks(Arc<NetSet>),
    ProhibitedHosts(Arc<ProhibitedHosts>),
    Domains(Arc<DomainSet>),
    Routes(Arc<[RouteItem]>),
    Curfew(Arc<Curfew>),
    Target(StaticTarget),
    Adaptive(adaptive::Value),
}

/// Why a value was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    pub span: Span,
    pub code: &'static str,
    pub message: String,
    pub expected: String,
    pub suggestion: Option<String>,
}

/// Checks a value against the type of its option.
pub fn parse_value(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    match kind {
        Kind::SocketAddresses { port } => {
            let parse = |word: &Word| {
                socket_address(&word.text, Some(*port))
                    .ok_or_else(|| refuse(kind, word, "E020", "is not an address"))
            };
            each(kind, raw, parse).map(Value::SocketAddresses)
        }
        Kind::SourceAddresses => source_addresses(kind, raw),
        Kind::Networks => {
            let parse = |word: &Word| {
                nets::parse_net(&word.text)
                    .ok_or_else(|| refuse(kind, word, "E020", "is not an address or network"))
            };
            let nets = each(kind, raw, parse)?;
            Ok(Value::Networks(Arc::new(NetSet::new(nets))))
        }
        Kind::ProhibitedHosts => prohibited_hosts(kind, raw),
        Kind::Domains => domain_set(kind, raw),
        Kind::Routes => routes(kind, raw),
        Kind::Adaptive(of) => {
            let words = words(kind, raw)?;
            let texts: Vec<&str> = words.iter().map(|it| it.text.as_str()).collect();
            let parsed = adaptive::parse(*of, &texts).map(Value::Adaptive);
            parsed.map_err(|(at, why)| refuse_at(kind, raw, words.get(at).copied(), &why))
        }
        Kind::Curfew => curfew(kind, raw),
        _ => scalar(kind, one(kind, raw)?),
    }
}

/// Reads a preset of the table: white space separates the items of a list.
pub fn parse_preset(kind: &Kind, text: &str) -> Result<Value, ValueError> {
    let span = Span {
        file: 0,
        start: 0,
        end: 0,
    };
    let word = |it: &str| {
        RawValue::Word(Word {
            text: it.to_string(),
            quoted: true,
            span,
        })
    };
    match kind {
        Kind::Path | Kind::HostName | Kind::BindingName | Kind::FieldName => {
            parse_value(kind, &word(text))
        }
        _ => {
            let mut items: Vec<RawValue> = text.split_whitespace().map(word).collect();
            match items.len() {
                1 => parse_value(kind, &items.remove(0)),
                _ => parse_value(kind, &RawValue::List(items, span)),
            }
        }
    }
}

/// `address:port`; `:port` and `*:port` are every IPv4 address; a missing port is `port`.
pub fn socket_address(text: &str, port: Option<u16>) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, port?));
    }
    let number = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'))?;
    Some(SocketAddr::new(
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        number.parse().ok()?,
    ))
}

fn refuse(kind: &Kind, word: &Word, code: &'static str, why: &str) -> ValueError {
    let shown: String = word.text.chars().take(60).collect();
    ValueError {
        span: word.span,
        code,
        message: format!("\"{shown}\" {why}"),
        expected: kind.expectation(),
        suggestion: None,
    }
}

/// The same for a word of a list, or for the list if it has no such word.
fn refuse_at(kind: &Kind, raw: &RawValue, word: Option<&Word>, why: &str) -> ValueError {
    match word {
        Some(word) => refuse(kind, word, "E020", why),
        None => ValueError {
            span: raw.span(),
            code: "E020",
            message: format!("the list {why}"),
            expected: kind.expectation(),
            suggestion: None,
        },
    }
}

fn one<'a>(kind: &Kind, raw: &'a RawValue) -> Result<&'a Word, ValueError> {
    let (span, what) = match raw {
        RawValue::Word(word) => return Ok(word),
        RawValue::List(_, span) => (*span, "a list"),
        RawValue::Dictionary(_, span) => (*span, "a dictionary"),
    };
    Err(ValueError {
        span,
        code: "E020",
        message: format!("{what} stands where one value belongs"),
        expected: kind.expectation(),
        suggestion: None,
    })
}

/// The words of a list; one word is a list of one.
fn words<'a>(kind: &Kind, raw: &'a RawValue) -> Result<Vec<&'a Word>, ValueError> {
    match raw {
        RawValue::List(items, _) => items.iter().map(|it| one(kind, it)).collect(),
        other => one(kind, other).map(|word| vec![word]),
    }
}

fn each<T>(
    kind: &Kind,
    raw: &RawValue,
    parse: impl FnMut(&Word) -> Result<T, ValueError>,
) -> Result<Vec<T>, ValueError> {
    words(kind, raw)?.into_iter().map(parse).collect()
}

fn scalar(kind: &Kind, word: &Word) -> Result<Value, ValueError> {
    let text = word.text.as_str();
    match kind {
        Kind::Bool => boolean(text)
            .map(Value::Bool)
            .ok_or_else(|| choice(kind, word, &["true", "false"])),
        Kind::BoolOrWord(list) => match boolean(text) {
            Some(false) => Ok(Value::Bool(false)),
            Some(true) => Ok(Value::Word(list[0])),
            None => word_of(list, text).ok_or_else(|| choice(kind, word, list)),
        },
        Kind::Word(list) => word_of(list, text).ok_or_else(|| choice(kind, word, list)),
        Kind::IntOrWord { min, max, words } => match word_of(words, text) {
            Some(value) => Ok(value),
            None => integer(kind, word, *min, *max),
        },
        Kind::Int { min, max } => integer(kind, word, *min, *max),
        Kind::Limit { max } => match integer(kind, word, -1, *max)? {
            Value::Int(0) => Err(refuse(kind, word, "E021", "is out of bounds")),
            value => Ok(value),
        },
        Kind::Duration { min_ms, max_s } => {
            let duration = units::parse_duration(text)
                .ok_or_else(|| refuse(kind, word, "E020", "is not a duration"))?;
            let range = Duration::from_millis(*min_ms)..=Duration::from_secs(*max_s);
            match range.contains(&duration) {
                true => Ok(Value::Duration(duration)),
                false => Err(refuse(kind, word, "E021", "is out of bounds")),
            }
        }
        Kind::Size { min, max } => {
            let size = units::parse_size(text)
                .ok_or_else(|| refuse(kind, word, "E020", "is not a size"))?;
            match (*min..=*max).contains(&size) {
                true => Ok(Value::Size(size)),
                false => Err(refuse(kind, word, "E021", "is out of bounds")),
            }
        }
        Kind::Rate => rate(kind, word),
        Kind::Octal { max } => octal(kind, word, *max),
        Kind::Target => target::parse_target(text)
            .map(Value::Target)
            .map_err(|why| refuse(kind, word, "E020", &why)),
        _ => text_value(kind, word),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let is_in = |list: &[&str]| list.iter().any(|it| it.eq_ignore_ascii_case(text));
    if is_in(&TRUE_WORDS) {
        return Some(true);
    }
    if is_in(&FALSE_WORDS) {
        Some(false)
    } else {
        None
    }
}

fn word_of(words: &[&'static str], text: &str) -> Option<Value> {
    words
        .iter()
        .find(|it| it.eq_ignore_ascii_case(text))
        .map(|it| Value::Word(it))
}

fn choice(kind: &Kind, word: &Word, words: &[&str]) -> ValueError {
    let mut error = refuse(kind, word, "E022", "is not one of the possible values");
    error.suggestion = near_miss(&word.text, words.iter().copied()).map(str::to_string);
    error
}

fn integer(kind: &Kind, word: &Word, min: i64, max: i64) -> Result<Value, ValueError> {
    match word.text.parse::<i64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(Value::Int(number)),
        Ok(_) => Err(refuse(kind, word, "E021", "is out of bounds")),
        Err(_) => {
            let mut error = refuse(kind, word, "E020", "is not a whole number");
            if let Kind::IntOrWord { words, .. } = kind {
                let near = near_miss(&word.text, words.iter().copied());
                error.suggestion = near.map(str::to_string);
            }
            Err(error)
        }
    }
}

fn rate(kind: &Kind, word: &Word) -> Result<Value, ValueError> {
    let Some(rate) = Rate::parse(&word.text) else {
        return Err(refuse(kind, word, "E020", "is not a rate"));
    };
    let windows = Duration::from_secs(1)..=Duration::from_secs(31_536_000);
    let fits = |it: &Rate| it.count <= RATE_COUNT_MAX && windows.contains(&it.window);
    match rate.as_ref().is_none_or(fits) {
        true => Ok(Value::Rate(rate)),
        false => Err(refuse(kind, word, "E021", "is out of bounds")),
    }
}

fn octal(kind: &Kind, word: &Word, max: u32) -> Result<Value, ValueError> {
    match u32::from_str_radix(&word.text, 8) {
        // Without read permission for the owner the next start could not read its own spool.
        Ok(bits) if bits <= max && bits & 0o600 == 0o600 => Ok(Value::Octal(bits)),
        Ok(_) => Err(refuse(
            kind,
            word,
            "E021",
            "does not let the owner read and write",
        )),
        Err(_) => Err(refuse(kind, word, "E020", "is not an octal number")),
    }
}

fn text_value(kind: &Kind, word: &Word) -> Result<Value, ValueError> {
    let text = word.text.as_str();
    let result = match kind {
        Kind::Path if text.is_empty() => Err("is empty".to_string()),
        Kind::Path if text.chars().any(char::is_control) => {
            Err("contains a control character".to_string())
        }
        Kind::HostName if text.eq_ignore_ascii_case("__message__") => {
            Err("is known from Momentum and not supported".to_string())
        }
        Kind::HostName | Kind::Gateway => {
            check_host(text).map_err(|why| format!("cannot be a host: {why}"))
        }
        Kind::BindingName | Kind::GroupName | Kind::FlowName if text.is_empty() => {
            Err("is empty".to_string())
        }
        Kind::FlowName => check_flow_name(text),
        Kind::FieldName => check_field_name(text),
        _ => Ok(()),
    };
    result.map_err(|why| refuse(kind, word, "E020", &why))?;
    Ok(Value::Text(match kind {
        Kind::Gateway => domains::normal(text),
        _ => text.to_string(),
    }))
}

/// What stays as it is when it becomes the name of a class, tenant or campaign.
fn check_flow_name(text: &str) -> Result<(), String> {
    if text.len() > FLOW_NAME_BYTES_MAX {
        return Err(format!("has {} bytes", text.len()));
    }
    if text.contains(char::is_control) || text.trim() != text {
        return Err("has a control character, or a blank at its end".to_string());
    }
    Ok(())
}

/// RFC 5322 2.2: printable ASCII without the colon.
fn check_field_name(text: &str) -> Result<(), String> {
    if text.len() > FIELD_NAME_BYTES_MAX {
        return Err(format!("has {} bytes", text.len()));
    }
    match text
        .bytes()
        .find(|it| !it.is_ascii_graphic() || *it == b':')
    {
        Some(_) => Err("has a character that no field name has".to_string()),
        None => Ok(()),
    }
}

fn source_addresses(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    let list = words(kind, raw)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for word in &list {
        if word.text == "*" && list.len() == 1 {
            return Ok(Value::SourceAddresses(Vec::new()));
        }
        let bare = word.text.trim_start_matches('[').trim_end_matches(']');
        let Ok(address) = bare.parse::<IpAddr>() else {
            return Err(refuse(kind, word, "E020", "is not an IP address"));
        };
        let address = address.to_canonical();
        if addresses.iter().any(|it| it.is_ipv4() == address.is_ipv4()) {
            return Err(refuse(
                kind,
                word,
                "E021",
                "is a second address of its family",
            ));
        }
        if address.is_unspecified() || address.is_multicast() {
            return Err(refuse(
                kind,
                word,
                "E021",
                "cannot be the source of a connection",
            ));
        }
        addresses.push(address);
    }
    match addresses.is_empty() {
        true => Err(ValueError {
            span: raw.span(),
            code: "E021",
            message: "the list is empty".to_string(),
            expected: kind.expectation(),
            suggestion: None,
        }),
        false => Ok(Value::SourceAddresses(addresses)),
    }
}

fn prohibited_hosts(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    let mut nets = Vec::new();
    let mut own_addresses = false;
    for word in words(kind, raw)? {
        match word.text.to_ascii_lowercase().as_str() {
            "none" => {}
            "own" => own_addresses = true,
            "auto" => {
                let auto = ProhibitedHosts::auto();
                nets.extend_from_slice(auto.nets.nets());
                own_addresses |= auto.own_addresses;
            }
            text => match nets::parse_net(text) {
                Some(net) => nets.push(net),
                None => return Err(refuse(kind, word, "E020", "is not a network")),
            },
        }
    }
    let nets = NetSet::new(nets);
    Ok(Value::ProhibitedHosts(Arc::new(ProhibitedHosts {
        nets,
        own_addresses,
    })))
}

fn domain_set(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    let mut set = DomainSet::default();
    for word in words(kind, raw)? {
        let code = if domains::pattern_of(&word.text).is_some() {
            "E023"
        } else {
            "E020"
        };
        set.add(&word.text)
            .map_err(|why| refuse(kind, word, code, &format!("is not a domain: {why}")))?;
    }
    Ok(Value::Domains(Arc::new(set)))
}

fn routes(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    let list = words(kind, raw)?;
    let mut routes = Vec::new();
    for (position, word) in list.iter().enumerate() {
        let route = target::parse_route(&word.text, position)
            .map_err(|why| refuse(kind, word, "E020", &why))?;
        routes.push(route);
    }
    routes.sort_by_key(|it| it.pref);
    Ok(Value::Routes(routes.into()))
}

fn curfew(kind: &Kind, raw: &RawValue) -> Result<Value, ValueError> {
    let mut curfew = Curfew::default();
    for word in words(kind, raw)? {
        curfew
            .add(&word.text)
            .map_err(|why| refuse(kind, word, "E020", &why))?;
        if curfew.is_for_ever() {
            let why = "leaves no time to deliver: suspend_delivery says that";
            return Err(refuse(kind, word, "E020", why));
        }
    }
    Ok(Value::Curfew(Arc::new(curfew)))
}

/// A quoted string: backslashes and quotes escaped.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list_text<T: core::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|it| quoted(&it.to_string())).collect();
    match items.is_empty() {
        true => "( )".to_string(),
        false => format!("( {} )", items.join(" ")),
    }
}

/// The text that the configuration language reads back as the same value.
impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Duration(value) => f.write_str(&duration_text(*value)),
            Value::Size(value) => f.write_str(&size_text(*value)),
            Value::Rate(Some(rate)) => f.write_str(&quoted(&rate.to_string())),
            Value::Rate(None) => f.write_str("0"),
            Value::Octal(value) => write!(f, "0{value:o}"),
            Value::Word(value) => f.write_str(value),
            Value::Text(value) => f.write_str(&quoted(value)),
            Value::SocketAddresses(list) => f.write_str(&list_text(list.iter())),
            Value::SourceAddresses(list) => match list.as_slice() {
                [] => f.write_str("\"*\""),
                [only] => f.write_str(&quoted(&only.to_string())),
                list => f.write_str(&list_text(list.iter())),
            },
            Value::Networks(set) => f.write_str(&list_text(set.nets().iter())),
            Value::ProhibitedHosts(set) => {
                let own = set.own_addresses.then(|| "own".to_string());
                let nets = set.nets.nets().iter().map(ToString::to_string);
                let items: Vec<String> = own.into_iter().chain(nets).collect();
                match items.is_empty() {
                    true => f.write_str("\"none\""),
                    false if **set == ProhibitedHosts::auto() => f.write_str("auto"),
                    false => f.write_str(&list_text(items.iter())),
                }
            }
            Value::Domains(set) => f.write_str(&list_text(set.items().iter())),
            Value::Routes(routes) => {
                let items = routes.iter().map(target::route_text);
                f.write_str(&list_text(items))
            }
            Value::Adaptive(value) => write!(f, "{value}"),
            Value::Curfew(curfew) => f.write_str(&list_text(curfew.items().iter())),
            Value::Target(StaticTarget { host, port }) => {
                f.write_str(&quoted(&format!("{host}:{port}")))
            }
        }
    }
}

/// Reads `name`, `address`, `[v6]` as a host.
pub fn parse_host(text: &str) -> Result<Host, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Host::Address(address.to_canonical()));
    }
    check_host(text)?;
    Ok(Host::Name(domains::normal(text)))
}

/// A name, an address, or an address literal of the protocol; never a name with a port.
fn check_host(text: &str) -> Result<(), String> {
    let is_address = text.starts_with('[') || text.parse::<IpAddr>().is_ok();
    match text.contains(':') && !is_address {
        true => Err("a name does not contain ':', and a port does not belong here".to_string()),
        false => domains::check_name(text),
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
