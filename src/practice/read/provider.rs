//! The `provider` stanza.

use crate::base::throttle::Rate;
use crate::practice::SECOND;
use crate::practice::read::reader::Reader;
use crate::practice::read::reader::Stanza;
use crate::practice::scenario::Abuse;
use crate::practice::scenario::Binding;
use crate::practice::scenario::Block;
use crate::practice::scenario::DOMAINS_MAX;
use crate::practice::scenario::HOSTS_MAX;
use crate::practice::scenario::Limits;
use crate::practice::scenario::Outage;
use crate::practice::scenario::Phase;
use crate::practice::scenario::Provider;
use crate::practice::scenario::Volume;
use crate::practice::words::Cause;
use crate::practice::words::Style;
use crate::practice::words::Words;
use crate::practice::words::is_refusal;

/// Limits, which may also stand in an `at` stanza.
const LIMITS: &[&str] = &[
    "connections",
    "messages_per_connection",
    "rate",
    "connection_rate",
    "volume",
    "greylist",
    "latency",
    "abuse",
];

const OTHERS: &[&str] = &[
    "share",
    "domains",
    "mx",
    "mailboxes",
    "words",
    "round_trip",
    "replies",
    "block",
    "outage",
    "at",
];

/// Changes of one provider's limits.
const PHASES_MAX: usize = 1_000;

/// Reads one; `known` are the bindings, and the providers before it.
pub fn provider(
    reader: &mut Reader,
    stanza: &Stanza<'_>,
    known: (&[Binding], &[Provider]),
) -> Option<Provider> {
    let (bindings, others) = known;
    let names: Vec<&str> = OTHERS.iter().chain(LIMITS).copied().collect();
    reader.names(stanza, &names);
    let name = reader
        .name(stanza, "provider \"big\"")?
        .to_ascii_lowercase();
    if others.iter().any(|it| it.name == name) {
        let expected = "another name for each provider";
        reader.wrong(
            Some(stanza.span),
            &format!("{name} is there twice"),
            expected,
        );
        return None;
    }
    let domains = domains(reader, stanza, &name);
    let taken = |domain: &&String| others.iter().any(|it| it.domains.contains(domain));
    if let Some(twice) = domains.iter().find(taken) {
        let message = format!("{twice} belongs to another provider");
        reader.wrong(stanza.span_of("domains"), &message, "a domain of its own");
    }
    let hosts = hosts(reader, stanza, &name);
    let taken = |host: &&String| others.iter().any(|it| it.hosts.contains(host));
    if let Some(twice) = hosts.iter().find(taken) {
        let message = format!("{twice} belongs to another provider");
        reader.wrong(stanza.span_of("mx"), &message, "hosts of its own");
    }
    let usual = Limits {
        thinks_us: (10_000, 30_000),
        ..Limits::default()
    };
    let first = limits(reader, stanza, &usual);
    Some(Provider {
        share: reader.number(stanza, "share", 0, 1_000_000).unwrap_or(1),
        hosts,
        mailboxes: reader
            .number(stanza, "mailboxes", 1, 1_000_000_000)
            .unwrap_or(10_000),
        round_trip_us: round_trip(reader, stanza),
        words: words(reader, stanza),
        phases: phases(reader, stanza, first),
        blocks: blocks(reader, stanza, bindings),
        outages: outages(reader, stanza),
        domains,
        name,
    })
}

fn domains(reader: &mut Reader, stanza: &Stanza<'_>, name: &str) -> Vec<String> {
    let words = reader.words(stanza, "domains");
    let count = match &words[..] {
        [] => Some(1),
        [word] if word.text.bytes().all(|byte| byte.is_ascii_digit()) => {
            reader.number_of(word, 1, DOMAINS_MAX as u64)
        }
        _ => None,
    };
    match count {
        Some(1) => return vec![format!("{name}.example")],
        Some(count) => {
            return (1..=count)
                .map(|it| format!("d{it}.{name}.example"))
                .collect();
        }
        None => {}
    }
    let mut domains: Vec<String> = Vec::new();
    for word in words.iter().take(DOMAINS_MAX) {
        let domain = word.text.to_ascii_lowercase();
        if is_name(&domain) && !domains.contains(&domain) {
            domains.push(domain);
        } else {
            let expected = "a number of domains, or names such as a.example, each once";
            let message = format!("\"{}\" is no domain of its own", word.text);
            reader.wrong(Some(word.span), &message, expected);
        }
    }
    domains
}

fn hosts(reader: &mut Reader, stanza: &Stanza<'_>, name: &str) -> Vec<String> {
    let words = reader.words(stanza, "mx");
    let count = match &words[..] {
        [] => Some(2),
        [word] if word.text.bytes().all(|byte| byte.is_ascii_digit()) => {
            reader.number_of(word, 1, HOSTS_MAX as u64)
        }
        _ => None,
    };
    if let Some(count) = count {
        return (1..=count)
            .map(|it| format!("mx{it}.{name}.example"))
            .collect();
    }
    let mut hosts: Vec<String> = Vec::new();
    for word in &words {
        let host = word.text.to_ascii_lowercase();
        if is_name(&host) && !hosts.contains(&host) && hosts.len() < HOSTS_MAX {
            hosts.push(host);
        } else {
            let expected = format!("1 to {HOSTS_MAX} hosts, or that many names, each once");
            let message = format!("\"{}\" is no host of its own", word.text);
            reader.wrong(Some(word.span), &message, &expected);
        }
    }
    hosts
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    text.len() <= 200 && text.contains('.') && text.split('.').all(label)
}

fn round_trip(reader: &mut Reader, stanza: &Stanza<'_>) -> u64 {
    let given = reader.duration(stanza, "round_trip").unwrap_or(20_000);
    if !(2..=60 * SECOND).contains(&given) {
        let expected = "from 2 microseconds to a minute";
        reader.wrong(
            stanza.span_of("round_trip"),
            "no such way is known",
            expected,
        );
    }
    given
}

fn words(reader: &mut Reader, stanza: &Stanza<'_>) -> Words {
    let mut words = Words::default();
    if let Some(word) = reader.word(stanza, "words") {
        let found = Style::ALL.iter().find(|(name, _)| *name == word.text);
        match found {
            Some((_, style)) => words.style = *style,
            None => {
                let names: Vec<&str> = Style::ALL.iter().map(|(name, _)| *name).collect();
                let expected = format!("one of {}", names.join(", "));
                reader.wrong(Some(word.span), "nobody speaks like that", &expected);
            }
        }
    }
    let Some(replies) = reader.only(stanza, "replies") else {
        return words;
    };
    let names: Vec<&str> = Cause::ALL.iter().map(|it| it.name()).collect();
    reader.names(&replies, &names);
    for cause in Cause::ALL {
        if let Some(word) = reader.word(&replies, cause.name()) {
            if !is_refusal(&word.text) {
                let expected = "a code of the fours or fives, a space, and words in ASCII";
                reader.wrong(Some(word.span), "this refuses nothing", expected);
            }
            words.own.push((cause, word.text));
        }
    }
    words
}

/// What the stanza says of limits; what it does not name is as before.
fn limits(reader: &mut Reader, stanza: &Stanza<'_>, before: &Limits) -> Limits {
    let mut limits = before.clone();
    // Zero lifts a limit.
    let number = |reader: &mut Reader, name: &str, before: Option<u32>| {
        let given = reader.number(stanza, name, 0, 1_000_000);
        given.map_or(before, |it| (it > 0).then_some(it as u32))
    };
    limits.connections = number(reader, "connections", before.connections);
    let name = "messages_per_connection";
    limits.messages_per_connection = number(reader, name, before.messages_per_connection);
    if stanza.has("rate") {
        limits.rates = reader.rates(stanza, "rate");
    }
    if stanza.has("connection_rate") {
        limits.connection_rates = reader.rates(stanza, "connection_rate");
    }
    if let Some(delay) = reader.duration(stanza, "greylist") {
        limits.greylist_us = (delay > 0).then_some(delay);
    }
    let times = reader.words(stanza, "latency");
    let parsed: Vec<u64> = times
        .iter()
        .filter_map(|it| reader.duration_of(it))
        .collect();
    match parsed[..] {
        [] => {}
        [both] => limits.thinks_us = (both, both),
        [low, high] if low <= high && high <= 600 * SECOND => limits.thinks_us = (low, high),
        _ => {
            let expected = "one time, or the least and the most, at most 10 minutes";
            reader.wrong(
                stanza.span_of("latency"),
                "no such latency is known",
                expected,
            );
        }
    }
    if let Some(volume) = reader.only(stanza, "volume") {
        reader.names(&volume, &["least", "most", "grows", "falls"]);
        let most = reader
            .number(&volume, "most", 0, 1_000_000_000)
            .unwrap_or(0);
        let least = reader
            .number(&volume, "least", 0, 1_000_000_000)
            .unwrap_or(most);
        if least > most {
            let expected = "least, and most not below it; both 0 for no limit";
            reader.wrong(Some(volume.span), "the volume is upside down", expected);
        }
        limits.volume = (most > 0).then_some(Volume {
            least,
            most,
            grows: reader.number(&volume, "grows", 0, 1_000).unwrap_or(50),
            falls: reader.number(&volume, "falls", 0, 100).unwrap_or(30),
        });
    }
    if let Some(abuse) = reader.only(stanza, "abuse") {
        reader.names(&abuse, &["refusals", "lasts"]);
        let refusals: Option<Rate> = reader.rates(&abuse, "refusals").first().copied();
        let lasts = reader.duration(&abuse, "lasts").unwrap_or(3_600 * SECOND);
        limits.abuse = refusals.map(|refusals| Abuse {
            refusals,
            lasts_us: lasts,
        });
    }
    limits
}

fn phases(reader: &mut Reader, stanza: &Stanza<'_>, first: Limits) -> Vec<Phase> {
    let mut phases = vec![Phase {
        from_us: 0,
        limits: first,
    }];
    for at in stanza.stanzas("at") {
        reader.names(&at, LIMITS);
        let from_us = at.instance.map(|word| reader.beginning_of(word));
        if from_us == Some(None) {
            continue;
        }
        let from_us = from_us.flatten();
        let before = &phases[phases.len() - 1];
        let Some(from_us) = from_us.filter(|it| *it > before.from_us) else {
            let span = at.instance.map_or(at.span, |word| word.span);
            let expected = "at \"02:00:00\" { .. }, each later than the one before";
            reader.wrong(
                Some(span),
                "this change has no place in the timetable",
                expected,
            );
            continue;
        };
        if phases.len() == PHASES_MAX {
            let expected = format!("at most {PHASES_MAX}");
            reader.wrong(Some(at.span), "too many changes", &expected);
            break;
        }
        let limits = limits(reader, &at, &before.limits.clone());
        phases.push(Phase { from_us, limits });
    }
    phases
}

fn span_of_time(reader: &mut Reader, stanza: &Stanza<'_>) -> Option<(u64, u64)> {
    let from = reader.word(stanza, "from");
    let named = from.is_some();
    let from = from.and_then(|word| reader.beginning_of(&word));
    let to = reader.moment(stanza, "to");
    match (from, to) {
        (Some(from), Some(to)) if from < to => Some((from, to)),
        (None, _) if named => None,
        _ => {
            let expected = "from = \"02:00\" and to = \"03:00\", a later time";
            reader.wrong(Some(stanza.span), "this has no beginning and end", expected);
            None
        }
    }
}

fn blocks(reader: &mut Reader, stanza: &Stanza<'_>, bindings: &[Binding]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for block in stanza.stanzas("block") {
        reader.names(&block, &["binding", "from", "to"]);
        let mut binding = None;
        if let Some(word) = reader.word(&block, "binding") {
            binding = bindings.iter().position(|it| it.name == word.text);
            if binding.is_none() {
                let message = format!("there is no binding \"{}\"", word.text);
                reader.wrong(Some(word.span), &message, "a binding that stands before");
            }
        }
        if let Some((from_us, to_us)) = span_of_time(reader, &block) {
            blocks.push(Block {
                binding,
                from_us,
                to_us,
            });
        }
    }
    blocks
}

fn outages(reader: &mut Reader, stanza: &Stanza<'_>) -> Vec<Outage> {
    let mut outages = Vec::new();
    for outage in stanza.stanzas("outage") {
        reader.names(&outage, &["from", "to"]);
        if let Some((from_us, to_us)) = span_of_time(reader, &outage) {
            outages.push(Outage { from_us, to_us });
        }
    }
    outages
}
