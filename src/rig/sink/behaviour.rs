//! What a receiving host does other than accept: rules per recipient domain or per listener, read
//! from lines of text and checked once, so that the session only ever sees rules that make sense.

use core::net::SocketAddr;
use core::time::Duration;

use crate::base::map::Map;
use crate::base::units;

/// Rules in one table. A larger file is refused.
pub const RULES_MAX: usize = 10_000;

/// Bytes of the longest hostile reply line, and lines of the longest hostile banner.
const LONG_LINE_BYTES: usize = 10 * 1024 * 1024;
const BANNER_LINES: usize = 100_000;

/// The format of a behaviour file, for `--help`.
pub const FORMAT: &str = "\
BEHAVIOUR FILE
  One rule a line, `#` begins a comment, a value with blanks stands in double quotes.
  Inside quotes \\r \\n \\t \\0 \\\\ \\\" and \\xHH are understood.

    domain NAME|*.NAME|*   KEY[=VALUE] ...    mail for this recipient domain
    listener IP:PORT|*     KEY[=VALUE] ...    everything on this listening address

  Rules are tried in order, those of the listener first; the first that answers wins.

  at=STAGE            connect, ehlo, mail, rcpt, data, body or dot (body: while the message is
                      being sent; dot: after its end, by DATA or BDAT). A domain is not known
                      before rcpt. Default: rcpt for a domain; connect for a listener, but mail
                      with rate= and rcpt with greylist=.
  reply=\"451 4.3.0 x\" answer this; 4xx and 5xx refuse, 2xx and 354 accept. 421 also closes.
  raw=\"...\"           send exactly these bytes and treat the command as refused
  close               close: after reply or raw, else with no answer (at=dot: the message is
                      counted as dropped after the dot and captured with \"final_reply\":false)
  after=BYTES         with at=body close: this much of the message is read first (default 1)
  chance=0.25         the rule holds for this share of the cases
  delay=2s|1s-3s      wait before the answer, also when the rule does not answer itself
  connections=N       holds while more than N connections are open (listener) or have named the
                      domain; default reply 421, which closes
  rate=N/DURATION     holds when more than N came within the window; default reply 451
  greylist=DURATION   holds until this long after the first attempt of (peer, sender, recipient);
                      default reply 451
  read_rate=BYTES     read at most this much per second from here on
  reply_rate=BYTES    write at most this much per second from here on
  hostile=KIND        banner-flood long-line code-000 code-999 code-25 dash-close mixed-codes
                      354-to-mail 250-to-data 250-twice lf-only nul bad-utf8 slow-reply

  Example:
    domain defer.example   reply=\"451 4.2.0 not now\" chance=0.5
    domain slow.example    at=dot delay=500ms-2s
    domain grey.example    greylist=10s
    listener 127.0.0.1:2527 connections=20 reply=\"421 4.3.2 too many\"
    domain lost.example    at=dot close chance=0.01
";

/// Where in a session a rule applies, in the order of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Body,
    Dot,
}

impl Stage {
    fn parse(text: &str) -> Option<Stage> {
        Some(match text {
            "connect" => Stage::Connect,
            "ehlo" => Stage::Ehlo,
            "mail" => Stage::Mail,
            "rcpt" => Stage::Rcpt,
            "data" => Stage::Data,
            "body" => Stage::Body,
            "dot" => Stage::Dot,
            _ => return None,
        })
    }

    /// The code that means success at this stage.
    fn success(self) -> &'static str {
        match self {
            Stage::Connect => "220",
            Stage::Data => "354",
            Stage::Ehlo | Stage::Mail | Stage::Rcpt | Stage::Body | Stage::Dot => "250",
        }
    }
}

/// What a rule sends, and what that means for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Sent as they are; empty with `close` means no answer at all.
    pub bytes: Vec<u8>,
    /// The command counts as accepted and the session goes on as if it had been answered well.
    pub accepts: bool,
    pub close: bool,
}

/// When a rule holds, apart from its chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Always,
    Connections(u64),
    Rate { count: u64, window: Duration },
    Greylist(Duration),
}

/// One checked rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub stage: Stage,
    pub condition: Condition,
    /// Cases in a million in which the rule holds.
    pub chance_ppm: u64,
    /// Shortest and longest wait before the answer.
    pub delay: Option<(Duration, Duration)>,
    /// Bytes of the body that are read before an answer at [`Stage::Body`].
    pub after_bytes: u64,
    pub read_rate: Option<u64>,
    pub reply_rate: Option<u64>,
    pub answer: Option<Answer>,
}

/// The position of a rule in its table; limits are kept under it.
pub type RuleIndex = usize;

/// All rules of one sink.
#[derive(Debug, Clone, Default)]
pub struct Behaviours {
    rules: Vec<Rule>,
    by_domain: Map<String, Vec<RuleIndex>>,
    by_listener: Map<SocketAddr, Vec<RuleIndex>>,
    every_listener: Vec<RuleIndex>,
}

/// A line of a behaviour file that cannot be meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("behaviour line {line}: {what}")]
pub struct BehaviourError {
    pub line: usize,
    pub what: String,
}

impl Behaviours {
    /// Reads the lines of a behaviour file (see [`FORMAT`]).
    pub fn parse(text: &str) -> Result<Behaviours, BehaviourError> {
        let mut table = Behaviours::default();
        for (index, line) in text.lines().enumerate() {
            table.line(line).map_err(|what| BehaviourError {
                line: index + 1,
                what,
            })?;
        }
        Ok(table)
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn rule(&self, index: RuleIndex) -> &Rule {
        &self.rules[index]
    }

    /// Rules of the listener at `addr`, in the order of the file within each kind.
    pub fn of_listener(&self, addr: SocketAddr) -> impl Iterator<Item = RuleIndex> + '_ {
        let own = self.by_listener.get(&addr).map_or(&[][..], Vec::as_slice);
        own.iter().chain(&self.every_listener).copied()
    }

    /// Rules of a lower-case recipient domain: its own, else those of the closest `*.parent`,
    /// else those of `*`.
    pub fn of_domain(&self, domain: &str) -> &[RuleIndex] {
        if let Some(rules) = self.by_domain.get(domain) {
            return rules;
        }
        let mut rest = domain;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(rules) = self.by_domain.get(&format!("*.{parent}")) {
                return rules;
            }
            rest = parent;
        }
        self.by_domain.get("*").map_or(&[], Vec::as_slice)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let words = words(line)?;
        let mut words = words.iter();
        let Some(kind) = words.next() else {
            return Ok(());
        };
        let Some(Word {
            key: name,
            value: None,
        }) = words.next()
        else {
            return Err("expected `domain NAME` or `listener IP:PORT`".to_owned());
        };
        let listener = match kind.key.as_str() {
            "domain" => false,
            "listener" => true,
            other => return Err(format!("`{other}`: expected `domain` or `listener`")),
        };
        let mut draft = Draft::default();
        for word in words {
            draft.set(word)?;
        }
        if self.rules.len() == RULES_MAX {
            return Err(format!("more than {RULES_MAX} rules"));
        }
        let index = self.rules.len();
        self.rules.push(draft.finish(listener)?);
        let place = match (listener, name.as_str()) {
            (true, "*") => &mut self.every_listener,
            (true, addr) => {
                let addr = addr
                    .parse()
                    .map_err(|_| format!("`{addr}` is not an IP:PORT"))?;
                self.by_listener.entry(addr).or_default()
            }
            (false, domain) => self
                .by_domain
                .entry(domain.to_ascii_lowercase())
                .or_default(),
        };
        place.push(index);
        Ok(())
    }
}

/// A rule while its line is being read: nothing is checked against anything else yet.
#[derive(Default)]
struct Draft {
    stage: Option<Stage>,
    condition: Option<Condition>,
    chance_ppm: Option<u64>,
    delay: Option<(Duration, Duration)>,
    after_bytes: Option<u64>,
    read_rate: Option<u64>,
    reply_rate: Option<u64>,
    bytes: Option<(Vec<u8>, bool)>,
    hostile: Option<String>,
    close: bool,
}

impl Draft {
    fn set(&mut self, word: &Word) -> Result<(), String> {
        let key = word.key.as_str();
        let Some(value) = word.value.as_deref() else {
            return match key {
                "close" => {
                    self.close = true;
                    Ok(())
                }
                _ => Err(format!("`{key}` needs a value or is unknown")),
            };
        };
        let text = String::from_utf8_lossy(value).into_owned();
        let bad = || format!("{key}={text}: not understood");
        match key {
            "at" => self.stage = Some(Stage::parse(&text).ok_or_else(bad)?),
            "reply" => {
                let mut bytes = value.to_vec();
                bytes.extend_from_slice(b"\r\n");
                once(
                    &mut self.bytes,
                    (bytes, reply_accepts(value).ok_or_else(bad)?),
                    key,
                )?;
            }
            "raw" => once(&mut self.bytes, (value.to_vec(), false), key)?,
            "hostile" => once(&mut self.hostile, text, key)?,
            "chance" => self.chance_ppm = Some(chance(&text).ok_or_else(bad)?),
            "delay" => self.delay = Some(range(&text).ok_or_else(bad)?),
            "after" => self.after_bytes = Some(units::parse_size(&text).ok_or_else(bad)?),
            "read_rate" => self.read_rate = Some(rate_of_bytes(&text).ok_or_else(bad)?),
            "reply_rate" => self.reply_rate = Some(rate_of_bytes(&text).ok_or_else(bad)?),
            "connections" => {
                let condition = Condition::Connections(text.parse().map_err(|_| bad())?);
                once(&mut self.condition, condition, key)?;
            }
            "greylist" => {
                let wait = units::parse_duration(&text).ok_or_else(bad)?;
                once(&mut self.condition, Condition::Greylist(wait), key)?;
            }
            "rate" => {
                once(
                    &mut self.condition,
                    rate_condition(&text).ok_or_else(bad)?,
                    key,
                )?;
            }
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }

    fn finish(mut self, listener: bool) -> Result<Rule, String> {
        let condition = self.condition.take().unwrap_or(Condition::Always);
        let default_stage = match (&condition, listener, self.hostile.as_deref()) {
            (_, false, _) => Stage::Rcpt,
            (Condition::Rate { .. }, true, _) => Stage::Mail,
            (Condition::Greylist(_), true, _) => Stage::Rcpt,
            (_, true, _) => Stage::Connect,
        };
        let default_stage = match self.hostile.as_deref() {
            Some("354-to-mail") => Stage::Mail,
            Some("250-to-data") => Stage::Data,
            Some("250-twice") => Stage::Dot,
            _ => default_stage,
        };
        let stage = self.stage.unwrap_or(default_stage);
        if !listener && stage < Stage::Rcpt {
            return Err("a domain is not known before rcpt: give this to a listener".to_owned());
        }
        if matches!(condition, Condition::Greylist(_)) && stage != Stage::Rcpt {
            return Err("greylist= looks at a recipient: only at=rcpt".to_owned());
        }
        if self.after_bytes.is_some() && stage != Stage::Body {
            return Err("after= counts bytes of the body: only at=body".to_owned());
        }
        if matches!(condition, Condition::Connections(_)) && !listener && stage != Stage::Rcpt {
            return Err("connections= of a domain is counted at rcpt".to_owned());
        }
        if let Some(kind) = self.hostile.take() {
            self.hostile(&kind, stage)?;
        }
        let answer = self.answer(&condition, stage)?;
        if stage == Stage::Body && answer.as_ref().is_none_or(|answer| !answer.close) {
            return Err("at=body takes only close".to_owned());
        }
        let acts = answer.is_some() || self.delay.is_some();
        if !acts && self.read_rate.is_none() && self.reply_rate.is_none() {
            return Err("the rule does nothing".to_owned());
        }
        Ok(Rule {
            stage,
            condition,
            chance_ppm: self.chance_ppm.unwrap_or(1_000_000),
            delay: self.delay,
            after_bytes: self.after_bytes.unwrap_or(1),
            read_rate: self.read_rate,
            reply_rate: self.reply_rate,
            answer,
        })
    }

    fn answer(&mut self, condition: &Condition, stage: Stage) -> Result<Option<Answer>, String> {
        let default = match condition {
            Condition::Connections(_) => Some(&b"421 4.3.2 too many connections\r\n"[..]),
            Condition::Rate { .. } => Some(&b"451 4.7.1 too many messages, try later\r\n"[..]),
            Condition::Greylist(_) => Some(&b"451 4.7.1 greylisted, try again\r\n"[..]),
            Condition::Always => None,
        };
        let (bytes, accepts) = match (self.bytes.take(), default) {
            (Some(given), _) => given,
            (None, Some(default)) if !self.close => (default.to_vec(), false),
            (None, _) if self.close => (Vec::new(), false),
            (None, _) => return Ok(None),
        };
        if accepts && stage == Stage::Data && !bytes.starts_with(b"354") && !self.close {
            return Err("a message follows only a 354".to_owned());
        }
        let close = self.close || bytes.starts_with(b"421");
        Ok(Some(Answer {
            bytes,
            accepts,
            close,
        }))
    }

    /// Turns the name of a hostile reply into what is sent at `stage`.
    fn hostile(&mut self, kind: &str, stage: Stage) -> Result<(), String> {
        let code = stage.success();
        let (bytes, accepts) = match kind {
            "banner-flood" => {
                let mut bytes = format!("{code}-more to come\r\n").repeat(BANNER_LINES);
                bytes.push_str(&format!("{code} at last\r\n"));
                (bytes.into_bytes(), true)
            }
            "long-line" => (
                format!("{code} {}\r\n", "x".repeat(LONG_LINE_BYTES)).into(),
                true,
            ),
            "code-000" => (b"000 nothing\r\n".to_vec(), false),
            "code-999" => (b"999 everything\r\n".to_vec(), false),
            "code-25" => (b"25 short\r\n".to_vec(), false),
            "dash-close" => {
                self.close = true;
                (format!("{code}-never ended\r\n").into_bytes(), false)
            }
            "mixed-codes" => (format!("{code}-yes\r\n550 no\r\n").into_bytes(), false),
            "354-to-mail" => (b"354 go ahead\r\n".to_vec(), false),
            "250-to-data" => (b"250 2.0.0 fine\r\n".to_vec(), false),
            "250-twice" => (b"250 2.0.0 taken\r\n250 2.0.0 taken\r\n".to_vec(), true),
            "lf-only" => (format!("{code} bare\n").into_bytes(), true),
            "nul" => (format!("{code} n\0l\r\n").into_bytes(), true),
            "bad-utf8" => ([code.as_bytes(), b" \xff\xfe\xc0\x80\r\n"].concat(), true),
            "slow-reply" => {
                self.reply_rate = Some(1);
                return Ok(());
            }
            _ => return Err(format!("unknown hostile reply `{kind}`")),
        };
        once(&mut self.bytes, (bytes, accepts), "hostile")
    }
}

fn once<T>(place: &mut Option<T>, value: T, key: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{key}= says twice what is to be done")),
    }
}

/// Whether a reply accepts the command; `None` if it is not a reply.
fn reply_accepts(reply: &[u8]) -> Option<bool> {
    let code = reply.get(..3)?;
    let separated = matches!(reply.get(3), None | Some(b' ' | b'-'));
    (code.iter().all(u8::is_ascii_digit) && separated).then(|| matches!(code[0], b'2' | b'3'))
}

fn chance(text: &str) -> Option<u64> {
    let chance: f64 = text.parse().ok()?;
    (0.0..=1.0)
        .contains(&chance)
        .then_some((chance * 1_000_000.0).round() as u64)
}

fn range(text: &str) -> Option<(Duration, Duration)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (units::parse_duration(low)?, units::parse_duration(high)?);
    (low <= high).then_some((low, high))
}

fn rate_of_bytes(text: &str) -> Option<u64> {
    units::parse_size(text).filter(|rate| *rate > 0)
}

fn rate_condition(text: &str) -> Option<Condition> {
    let (count, window) = text.split_once('/')?;
    let window = units::parse_duration(window)?;
    let count = count.parse().ok()?;
    (!window.is_zero()).then_some(Condition::Rate { count, window })
}

/// `key` or `key=value` of a line.
struct Word {
    key: String,
    value: Option<Vec<u8>>,
}

fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let end = rest
            .find(|c: char| c.is_whitespace() || c == '=')
            .unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let mut value = None;
        if let Some(after) = rest.strip_prefix('=') {
            let (bytes, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted_value(quoted)?,
                None => {
                    let end = after.find(char::is_whitespace).unwrap_or(after.len());
                    (after.as_bytes()[..end].to_vec(), &after[end..])
                }
            };
            value = Some(bytes);
            rest = left;
        }
        words.push(Word { key, value });
        rest = rest.trim_start();
    }
    Ok(words)
}

/// The bytes up to the closing quote, and what follows it.
fn quoted_value(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('r') => bytes.push(b'\r'),
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some('0') => bytes.push(0),
                Some('\\') => bytes.push(b'\\'),
                Some('"') => bytes.push(b'"'),
                Some('x') => {
                    let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
                    match (digit(), digit()) {
                        (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
                        _ => return Err("\\x needs two hexadecimal digits".to_owned()),
                    }
                }
                _ => return Err("unknown escape after \\".to_owned()),
            },
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err("a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(line: &str) -> Result<Rule, String> {
        let table = Behaviours::parse(line).map_err(|error| error.what)?;
        Ok(table
            .rules
            .into_iter()
            .next()
            .expect("the line holds one rule"))
    }

    #[test]
    fn a_rule_says_when_and_what() {
        let rule = only(r#"domain a.example reply="451 4.2.0 later" chance=0.5 delay=1s-3s"#);
        let rule = rule.expect("a good line");
        assert_eq!((rule.stage, rule.chance_ppm), (Stage::Rcpt, 500_000));
        assert_eq!(
            rule.delay,
            Some((Duration::from_secs(1), Duration::from_secs(3)))
        );
        let answer = rule.answer.expect("it answers");
        assert_eq!(answer.bytes, b"451 4.2.0 later\r\n");
        assert!(!answer.accepts && !answer.close);
    }

    #[test]
    fn defaults_follow_from_the_condition_and_the_owner() {
        let cases = [
            ("listener * connections=3", Stage::Connect, "421", true),
            ("listener * rate=5/1m", Stage::Mail, "451", false),
            ("listener * greylist=5s", Stage::Rcpt, "451", false),
            ("domain x rate=5/1m", Stage::Rcpt, "451", false),
            ("domain x connections=1", Stage::Rcpt, "421", true),
            ("domain x at=dot close", Stage::Dot, "", true),
            ("domain x hostile=250-to-data", Stage::Data, "250", false),
            (
                "listener 127.0.0.1:25 hostile=354-to-mail",
                Stage::Mail,
                "354",
                false,
            ),
            (
                "listener 127.0.0.1:25 hostile=dash-close",
                Stage::Connect,
                "220-",
                true,
            ),
        ];
        for (line, stage, bytes, close) in cases {
            let rule = only(line).expect(line);
            let answer = rule.answer.expect(line);
            assert_eq!((rule.stage, answer.close), (stage, close), "{line}");
            assert!(answer.bytes.starts_with(bytes.as_bytes()), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        let lines = [
            "domain",
            "host x close",
            "domain x",
            "domain x at=mail close",
            "domain x at=noon close",
            "domain x reply=\"45 no\"",
            "domain x reply=\"451 a\" raw=\"b\"",
            "domain x reply=\"451 open",
            "domain x raw=\"\\q\"",
            "domain x raw=\"\\x4\"",
            "domain x chance=1.5 close",
            "domain x delay=3s-1s",
            "domain x rate=5 close",
            "domain x rate=5/0s",
            "domain x at=body delay=1s",
            "domain x at=dot after=5 close",
            "domain x at=dot greylist=5s",
            "domain x at=data reply=\"250 fine\"",
            "domain x hostile=rude",
            "domain x read_rate=0",
            "listener localhost close",
        ];
        for line in lines {
            let error = Behaviours::parse(&format!("# fine\n{line}\n")).expect_err(line);
            assert_eq!(error.line, 2, "{line}");
        }
    }

    #[test]
    fn the_closest_name_decides() {
        let table = Behaviours::parse(
            "domain a.example close\ndomain *.example delay=1s\ndomain * delay=2s\n\
             listener * at=mail delay=1s\nlistener 127.0.0.1:25 at=mail delay=2s\n",
        )
        .expect("good lines");
        assert_eq!(table.of_domain("a.example"), [0]);
        assert_eq!(table.of_domain("b.example"), [1]);
        assert_eq!(table.of_domain("x.y.example"), [1]);
        assert_eq!(table.of_domain("example"), [2]);
        let addr = "127.0.0.1:25".parse().expect("an address");
        assert_eq!(table.of_listener(addr).collect::<Vec<_>>(), [4, 3]);
    }

    #[test]
    fn escapes_give_any_byte() {
        let rule = only(r#"domain x raw="a\r\n\x00\xfe\"\\""#).expect("a good line");
        assert_eq!(
            rule.answer.map(|answer| answer.bytes),
            Some(b"a\r\n\0\xfe\"\\".to_vec())
        );
    }
}
