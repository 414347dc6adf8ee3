//! From a scenario file to a [`Scenario`]. The language is that of the configuration; names and
//! values are checked here, and every mistake is told with its place and what was expected.

mod provider;
mod reader;

use crate::config;
use crate::config::Diagnostic;
use crate::config::Item;
use crate::config::SourceFile;
use crate::practice::DAY;
use crate::practice::HOUR;
use crate::practice::SECOND;
use crate::practice::read::reader::Reader;
use crate::practice::read::reader::Stanza;
use crate::practice::scenario::BINDINGS_MAX;
use crate::practice::scenario::Binding;
use crate::practice::scenario::DAYS_MAX;
use crate::practice::scenario::Goals;
use crate::practice::scenario::Load;
use crate::practice::scenario::MESSAGES_MAX;
use crate::practice::scenario::PROVIDERS_MAX;
use crate::practice::scenario::Scenario;

/// Hours that a load names one by one.
const HOURS_MAX: usize = 24 * 31;

/// Bytes of one message: the content names itself in at least so many.
const SIZES: (u64, u64) = (256, 1 << 20);

/// What a scenario file may say, for `--help`.
pub const FORMAT: &str = "\
Scenario files are written in the language of the configuration:
  duration = \"24h\"  seed = 1
  load { messages_per_hour = ( 1000 5000 )  sizes = ( 2K 8K )  until = \"23:00\" }
  binding \"a\" { address = 127.0.1.1  reputation = 100 }
  provider \"big\" {
    share = 40  domains = 1  mx = 2  mailboxes = 10000  words = google  round_trip = \"40ms\"
    connections = 10  messages_per_connection = 50  connection_rate = \"60/60\"
    rate = ( \"20\" \"600/60\" \"20000/3600\" )  latency = ( \"10ms\" \"40ms\" )  greylist = \"5m\"
    volume { least = 500  most = 50000  grows = 50  falls = 30 }
    abuse { refusals = \"200/60\"  lasts = \"1h\" }
    block { binding = \"a\"  from = \"02:00\"  to = \"03:00\" }
    outage { from = \"04:00\"  to = \"04:10\" }
    replies { rate = \"451 4.7.1 slower\" }
    at \"06:00\" { rate = \"10\" }
  }
  goals { settles = \"30m\"  share = 90  deferrals = 1  halved = \"2m\"  lifted = \"1h\" }
Limits hold for each sending address. Domains are a number or a list of names, as are MX hosts.
";

const TOP: &[&str] = &["duration", "seed", "load", "binding", "provider", "goals"];

/// Reads a scenario, or tells all that is wrong with it, in the order of the file.
pub fn read(source: SourceFile) -> Result<Scenario, Vec<Diagnostic>> {
    let statements = config::statements(source);
    let mut reader = Reader {
        sources: statements.sources,
        findings: statements.findings,
        ends_us: u64::MAX,
    };
    let scenario = scenario(&mut reader, &statements.items);
    let refused = reader.findings.has_errors();
    let findings = reader.findings.into_sorted(&reader.sources);
    match scenario {
        Some(scenario) if !refused => Ok(scenario),
        _ => Err(findings),
    }
}

fn scenario(reader: &mut Reader, items: &[Item]) -> Option<Scenario> {
    let top = Stanza::top(items);
    reader.names(&top, TOP);
    let duration_us = reader.duration(&top, "duration").unwrap_or(DAY);
    if !(SECOND..=DAYS_MAX * DAY).contains(&duration_us) {
        let expected = format!("from 1 second to {DAYS_MAX} days");
        reader.wrong(
            top.span_of("duration"),
            "the duration is not usable",
            &expected,
        );
    }
    reader.ends_us = duration_us;
    let seed = reader.number(&top, "seed", 0, u64::MAX).unwrap_or(1);
    let load = match reader.only(&top, "load") {
        Some(stanza) => load(reader, &stanza, duration_us),
        None => {
            reader.missing(
                "the scenario has no load",
                "load { messages_per_hour = 1000 }",
            );
            None
        }
    };
    let bindings = bindings(reader, &top);
    if bindings.is_empty() {
        let expected = "binding \"a\" { address = 127.0.1.1 }";
        reader.missing("the scenario has no binding", expected);
    }
    let mut providers = Vec::new();
    for stanza in top.stanzas("provider") {
        if providers.len() == PROVIDERS_MAX {
            let expected = format!("at most {PROVIDERS_MAX} providers");
            reader.wrong(Some(stanza.span), "too many providers", &expected);
            break;
        }
        let known = (&bindings[..], &providers[..]);
        providers.extend(provider::provider(reader, &stanza, known));
    }
    if providers.is_empty() {
        reader.missing("the scenario has no provider", "provider \"big\" { .. }");
    }
    let goals = match reader.only(&top, "goals") {
        Some(stanza) => goals(reader, &stanza, duration_us),
        None => default_goals(duration_us),
    };
    Some(Scenario {
        duration_us,
        seed,
        load: load?,
        bindings,
        providers,
        goals,
    })
}

fn load(reader: &mut Reader, stanza: &Stanza<'_>, duration_us: u64) -> Option<Load> {
    reader.names(stanza, &["messages_per_hour", "sizes", "until"]);
    let hours = reader.words(stanza, "messages_per_hour");
    let mut messages_per_hour = Vec::new();
    for word in &hours {
        messages_per_hour.extend(reader.number_of(word, 0, MESSAGES_MAX));
    }
    if messages_per_hour.is_empty() || messages_per_hour.len() > HOURS_MAX {
        let expected = format!("messages_per_hour: from 1 to {HOURS_MAX} numbers");
        let message = "the load does not say how much mail comes";
        reader.wrong(Some(stanza.span), message, &expected);
        return None;
    }
    let mut sizes = Vec::new();
    for word in reader.words(stanza, "sizes") {
        sizes.extend(reader.size_of(&word, SIZES));
    }
    if sizes.is_empty() {
        sizes.push(1_024);
    }
    let until_us = reader.moment(stanza, "until").unwrap_or(duration_us);
    let load = Load {
        messages_per_hour,
        until_us: until_us.min(duration_us),
        sizes,
    };
    let messages = load.messages();
    if messages > MESSAGES_MAX {
        let message = format!("the load has {messages} messages");
        let expected = format!("at most {MESSAGES_MAX} in the whole run");
        reader.wrong(Some(stanza.span), &message, &expected);
    }
    Some(load)
}

impl Load {
    /// Messages of the whole run.
    pub fn messages(&self) -> u64 {
        let hours = self.until_us.div_ceil(HOUR);
        let of_hour = |hour: u64| {
            let per_hour = self.messages_per_hour[hour as usize % self.messages_per_hour.len()];
            let part_us = (self.until_us - hour * HOUR).min(HOUR);
            (u128::from(per_hour) * u128::from(part_us) / u128::from(HOUR)) as u64
        };
        (0..hours).map(of_hour).fold(0, u64::saturating_add)
    }
}

fn bindings(reader: &mut Reader, top: &Stanza<'_>) -> Vec<Binding> {
    let mut bindings: Vec<Binding> = Vec::new();
    for stanza in top.stanzas("binding") {
        reader.names(&stanza, &["address", "reputation"]);
        let Some(name) = reader.name(&stanza, "binding \"a\"") else {
            continue;
        };
        if bindings.iter().any(|it| it.name == name) {
            let expected = "another name for each binding";
            reader.wrong(
                Some(stanza.span),
                &format!("{name} is there twice"),
                expected,
            );
        }
        let reputation = reader.number(&stanza, "reputation", 0, 100).unwrap_or(100);
        let expected = "address = 127.0.1.1, an IPv4 address of its own";
        let address = reader.words(&stanza, "address").first().cloned();
        let parsed = address.as_ref().and_then(|word| word.text.parse().ok());
        let own = parsed.filter(|it: &core::net::Ipv4Addr| {
            !it.is_unspecified() && bindings.iter().all(|other| other.address != *it)
        });
        let Some(own) = own else {
            let span = address.map_or(stanza.span, |word| word.span);
            reader.wrong(
                Some(span),
                &format!("{name} has no usable address"),
                expected,
            );
            continue;
        };
        if bindings.len() == BINDINGS_MAX {
            let expected = format!("at most {BINDINGS_MAX} bindings");
            reader.wrong(Some(stanza.span), "too many bindings", &expected);
            break;
        }
        bindings.push(Binding {
            name,
            address: own.into(),
            reputation,
        });
    }
    bindings
}

fn default_goals(duration_us: u64) -> Goals {
    Goals {
        settles_us: (30 * 60 * SECOND).min(duration_us / 2),
        share: 90,
        deferrals: 1,
        halved_us: 120 * SECOND,
        lifted_us: HOUR,
    }
}

fn goals(reader: &mut Reader, stanza: &Stanza<'_>, duration_us: u64) -> Goals {
    let usual = default_goals(duration_us);
    reader.names(
        stanza,
        &["settles", "share", "deferrals", "halved", "lifted"],
    );
    let goals = Goals {
        settles_us: reader
            .duration(stanza, "settles")
            .unwrap_or(usual.settles_us),
        share: reader
            .number(stanza, "share", 0, 100)
            .unwrap_or(usual.share),
        deferrals: reader
            .number(stanza, "deferrals", 0, 100)
            .unwrap_or(usual.deferrals),
        halved_us: reader.duration(stanza, "halved").unwrap_or(usual.halved_us),
        lifted_us: reader.duration(stanza, "lifted").unwrap_or(usual.lifted_us),
    };
    if goals.settles_us >= duration_us {
        let expected = "a time before the end of the scenario";
        reader.wrong(
            stanza.span_of("settles"),
            "nothing is left to be judged",
            expected,
        );
    }
    goals
}

/// Reads what tests write, which is right. Single quotes stand for double ones.
#[cfg(test)]
pub fn for_tests(text: &str) -> Scenario {
    let source = SourceFile {
        name: "test.scenario".to_string(),
        text: text.replace('\'', "\""),
    };
    match read(source) {
        Ok(scenario) => scenario,
        Err(errors) => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{}", all.join("\n"));
        }
    }
}

#[cfg(test)]
mod tests;
