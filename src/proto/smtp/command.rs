//! Commands as a server reads them (RFC 5321 4.1, with SIZE, 8BITMIME, SMTPUTF8 and CHUNKING): one
//! line in, one [`Command`] out, borrowed from the line. Nothing here allocates, and nothing here
//! knows which command may follow which.

use crate::proto::smtp::path;
use crate::proto::smtp::path::Path;
use crate::proto::smtp::path::PathFault;
use crate::types::replies;
use crate::types::replies::Canned;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    Helo(&'a str),
    Ehlo(&'a str),
    Mail(Mail<'a>),
    /// Never [`Path::Null`].
    Rcpt(Path<'a>),
    Data,
    Bdat(Bdat),
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mail<'a> {
    /// Never [`Path::Postmaster`].
    pub path: Path<'a>,
    /// SIZE (RFC 1870), octets; a number over 64 bits counts as the largest.
    pub size: Option<u64>,
    pub smtputf8: bool,
    /// At least one parameter was given: HELO allows none.
    pub has_parameters: bool,
}

/// RFC 3030 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bdat {
    pub octets: u64,
    pub last: bool,
}

/// A line that is no command to obey.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub reply: &'static Canned,
    /// What follows on this connection cannot be trusted to be what it seems: close it.
    pub closes: bool,
}

impl Fault {
    const fn go_on(reply: &'static Canned) -> Fault {
        Fault {
            reply,
            closes: false,
        }
    }

    const fn close(reply: &'static Canned) -> Fault {
        Fault {
            reply,
            closes: true,
        }
    }
}

/// Takes one line, without its CR LF and free of other CR and LF. `smtputf8` tells whether the
/// transaction going on allows addresses beyond ASCII; MAIL says so for itself.
pub fn parse(line: &[u8], smtputf8: bool) -> Result<Command<'_>, Fault> {
    if line.iter().any(|byte| *byte < b' ' || *byte == 127) {
        let has_nul = line.contains(&0);
        let reply = if has_nul {
            &replies::COMMAND_NUL
        } else {
            &replies::COMMAND_SYNTAX
        };
        return Err(Fault::go_on(reply));
    }
    let Ok(text) = core::str::from_utf8(line) else {
        return Err(Fault::go_on(&replies::COMMAND_EIGHT_BIT));
    };
    let text = text.trim_end_matches(' ');
    let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
    let Some(verb) = Verb::of(verb) else {
        return Err(not_a_verb(verb, argument));
    };
    if !text.is_ascii() && !matches!(verb, Verb::Mail | Verb::Rcpt) {
        return Err(Fault::go_on(&replies::COMMAND_EIGHT_BIT));
    }
    match verb {
        Verb::Helo => Ok(Command::Helo(helo_name(argument)?)),
        Verb::Ehlo => Ok(Command::Ehlo(helo_name(argument)?)),
        Verb::Mail => mail(argument),
        Verb::Rcpt => rcpt(argument, smtputf8),
        Verb::Data => alone(argument, Command::Data),
        Verb::Bdat => bdat(argument),
        Verb::Rset => alone(argument, Command::Rset),
        Verb::Noop => Ok(Command::Noop),
        Verb::Help => Ok(Command::Help),
        Verb::Vrfy if argument.is_empty() => Err(Fault::go_on(&replies::ARGUMENT_SYNTAX)),
        Verb::Vrfy => Ok(Command::Vrfy),
        Verb::Quit => alone(argument, Command::Quit),
        Verb::NotOffered => Err(Fault::go_on(&replies::COMMAND_NOT_OFFERED)),
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
    /// A command that exists, for servers that announce it.
    NotOffered,
}

impl Verb {
    fn of(text: &str) -> Option<Verb> {
        let Ok(four) = <[u8; 4]>::try_from(text.as_bytes()) else {
            const LONGER: [&str; 3] = ["STARTTLS", "XCLIENT", "XFORWARD"];
            let known = LONGER.iter().any(|verb| verb.eq_ignore_ascii_case(text));
            return known.then_some(Verb::NotOffered);
        };
        match &four.map(|byte| byte.to_ascii_uppercase()) {
            b"HELO" => Some(Verb::Helo),
            b"EHLO" => Some(Verb::Ehlo),
            b"MAIL" => Some(Verb::Mail),
            b"RCPT" => Some(Verb::Rcpt),
            b"DATA" => Some(Verb::Data),
            b"BDAT" => Some(Verb::Bdat),
            b"RSET" => Some(Verb::Rset),
            b"NOOP" => Some(Verb::Noop),
            b"HELP" => Some(Verb::Help),
            b"VRFY" => Some(Verb::Vrfy),
            b"QUIT" => Some(Verb::Quit),
            b"EXPN" | b"AUTH" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" => {
                Some(Verb::NotOffered)
            }
            _ => None,
        }
    }
}

/// A request of another protocol ends the connection: a browser or proxy that was talked into
/// connecting here must not get to send what follows (a form's body) as commands.
fn not_a_verb(verb: &str, argument: &str) -> Fault {
    const FOREIGN: [&str; 10] = [
        "GET", "POST", "CONNECT", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "PROXY",
    ];
    if !argument.is_empty()
        && FOREIGN
            .iter()
            .any(|foreign| foreign.eq_ignore_ascii_case(verb))
    {
        return Fault::close(&replies::NOT_HTTP);
    }
    let is_word = !verb.is_empty() && verb.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Fault::go_on(match (is_word, verb.is_ascii()) {
        (true, _) => &replies::COMMAND_UNKNOWN,
        (false, true) => &replies::COMMAND_SYNTAX,
        (false, false) => &replies::COMMAND_EIGHT_BIT,
    })
}

fn alone<'a>(argument: &str, command: Command<'a>) -> Result<Command<'a>, Fault> {
    match argument.is_empty() {
        true => Ok(command),
        false => Err(Fault::go_on(&replies::ARGUMENT_UNWANTED)),
    }
}

fn helo_name(argument: &str) -> Result<&str, Fault> {
    match path::is_helo_name(argument) {
        true => Ok(argument),
        false => Err(Fault::go_on(&replies::HELO_SYNTAX)),
    }
}

fn mail(argument: &str) -> Result<Command<'_>, Fault> {
    let text = after_keyword(argument, "FROM:")?;
    let (path, rest) = path::parse(text).map_err(|fault| {
        Fault::go_on(match fault {
            PathFault::Syntax => &replies::SENDER_SYNTAX,
            PathFault::Route => &replies::SENDER_ROUTE,
        })
    })?;
    if path == Path::Postmaster {
        return Err(Fault::go_on(&replies::SENDER_SYNTAX));
    }
    let mut mail = Mail {
        path,
        size: None,
        smtputf8: false,
        has_parameters: false,
    };
    let mut has_body = false;
    for parameter in parameters(rest, &replies::SENDER_SYNTAX)? {
        mail.has_parameters = true;
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        };
        if keyword.eq_ignore_ascii_case("SIZE") {
            once(mail.size.is_none())?;
            mail.size = Some(size(value)?);
        } else if keyword.eq_ignore_ascii_case("BODY") {
            once(!has_body)?;
            has_body = true;
            body(value)?;
        } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
            once(!mail.smtputf8)?;
            if value.is_some() {
                return Err(Fault::go_on(&replies::PARAMETER_SYNTAX));
            }
            mail.smtputf8 = true;
        } else {
            return Err(Fault::go_on(&replies::PARAMETER_UNKNOWN));
        }
    }
    require_ascii(path, mail.smtputf8)?;
    Ok(Command::Mail(mail))
}

fn rcpt(argument: &str, smtputf8: bool) -> Result<Command<'_>, Fault> {
    let text = after_keyword(argument, "TO:")?;
    let (path, rest) = path::parse(text).map_err(|fault| {
        Fault::go_on(match fault {
            PathFault::Syntax => &replies::RECIPIENT_SYNTAX,
            PathFault::Route => &replies::RECIPIENT_ROUTE,
        })
    })?;
    if path == Path::Null {
        return Err(Fault::go_on(&replies::RECIPIENT_SYNTAX));
    }
    // No extension that is announced here has a parameter for RCPT.
    if parameters(rest, &replies::RECIPIENT_SYNTAX)?
        .next()
        .is_some()
    {
        return Err(Fault::go_on(&replies::PARAMETER_UNKNOWN));
    }
    require_ascii(path, smtputf8)?;
    Ok(Command::Rcpt(path))
}

/// What follows `FROM:` or `TO:`. Blanks after the colon break RFC 5321 3.3 but are common, and
/// change no meaning.
fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, Fault> {
    match argument.get(..keyword.len()) {
        Some(head) if head.eq_ignore_ascii_case(keyword) => {
            Ok(argument[keyword.len()..].trim_start_matches(' '))
        }
        _ => Err(Fault::go_on(&replies::ARGUMENT_SYNTAX)),
    }
}

/// The words after a path. Something that follows it without a blank belongs to a broken path.
fn parameters<'a>(
    rest: &'a str,
    reply: &'static Canned,
) -> Result<impl Iterator<Item = &'a str>, Fault> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(Fault::go_on(reply));
    }
    Ok(rest.split(' ').filter(|word| !word.is_empty()))
}

fn once(is_first: bool) -> Result<(), Fault> {
    if is_first {
        Ok(())
    } else {
        Err(Fault::go_on(&replies::PARAMETER_REPEATED))
    }
}

/// RFC 1870 3: 1 to 20 digits.
fn size(value: Option<&str>) -> Result<u64, Fault> {
    number(value.unwrap_or("")).ok_or(Fault::go_on(&replies::PARAMETER_SYNTAX))
}

/// 20 digits may still be over 64 bits; such a number is larger than any limit there is.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Whether the body has 8-bit data is seen, not believed, so that both values mean the same.
fn body(value: Option<&str>) -> Result<(), Fault> {
    let is = |name: &str| value.is_some_and(|value| value.eq_ignore_ascii_case(name));
    if is("7BIT") || is("8BITMIME") {
        return Ok(());
    }
    let reply = match is("BINARYMIME") {
        true => &replies::PARAMETER_UNKNOWN,
        false => &replies::PARAMETER_SYNTAX,
    };
    Err(Fault::go_on(reply))
}

fn require_ascii(path: Path<'_>, smtputf8: bool) -> Result<(), Fault> {
    let is_ascii = match path {
        Path::Mailbox(mailbox) => mailbox.local.is_ascii() && mailbox.domain.is_ascii(),
        Path::Null | Path::Postmaster => true,
    };
    match is_ascii || smtputf8 {
        true => Ok(()),
        false => Err(Fault::go_on(&replies::ADDRESS_NOT_ASCII)),
    }
}

/// A BDAT whose count cannot be read ends the connection: where the next command begins is then
/// anybody's guess, and a guess would let content be run as commands.
fn bdat(argument: &str) -> Result<Command<'_>, Fault> {
    let (count, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let rest = rest.trim_start_matches(' ');
    let last = rest.eq_ignore_ascii_case("LAST");
    match number(count) {
        Some(octets) if octets < u64::MAX && (last || rest.is_empty()) => {
            Ok(Command::Bdat(Bdat { octets, last }))
        }
        _ => Err(Fault::close(&replies::ARGUMENT_SYNTAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::smtp::path::Mailbox;

    fn check(line: &[u8], expected: &str) {
        let given = match parse(line, false) {
            Ok(command) => format!("{command:?}"),
            Err(Fault { reply, closes }) => {
                let enhanced = reply.enhanced.map(|it| it.to_string()).unwrap_or_default();
                format!(
                    "{} {enhanced}{}",
                    reply.code,
                    if closes { " close" } else { "" }
                )
            }
        };
        assert_eq!(given, expected, "{}", line.escape_ascii());
    }

    #[test]
    fn plain_commands_are_taken_in_any_case() {
        let cases: [(&[u8], &str); 14] = [
            (b"HELO a", "Helo(\"a\")"),
            (b"eHlO [127.0.0.1] ", "Ehlo(\"[127.0.0.1]\")"),
            (b"DATA", "Data"),
            (b"DATA  ", "Data"),
            (b"rset", "Rset"),
            (b"NOOP and more", "Noop"),
            (b"HELP", "Help"),
            (b"HELP mail", "Help"),
            (b"VRFY a", "Vrfy"),
            (b"QUIT", "Quit"),
            (b"BDAT 0", "Bdat(Bdat { octets: 0, last: false })"),
            (b"bdat 10 last", "Bdat(Bdat { octets: 10, last: true })"),
            (b"RCPT TO:<postmaster>", "Rcpt(Postmaster)"),
            (b"RCPT to: <postmaster>", "Rcpt(Postmaster)"),
        ];
        for (line, expected) in cases {
            check(line, expected);
        }
    }

    #[test]
    fn what_is_no_command_here_has_its_reply() {
        let cases: [(&[u8], &str); 21] = [
            (b"", "500 5.5.2"),
            (b" NOOP", "500 5.5.2"),
            (b"FOO", "500 5.5.1"),
            (b"DEBUG", "500 5.5.1"),
            (b"WIZ", "500 5.5.1"),
            (b"XXXXXXXA", "500 5.5.1"),
            (b"EXPN all", "502 5.5.1"),
            (b"ETRN x", "502 5.5.1"),
            (b"AUTH PLAIN AA==", "502 5.5.1"),
            (b"STARTTLS", "502 5.5.1"),
            (b"XCLIENT ADDR=127.0.0.1", "502 5.5.1"),
            (b"XFORWARD ADDR=127.0.0.1", "502 5.5.1"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1", "554 5.5.1 close"),
            (b"GET / HTTP/1.1", "554 5.5.1 close"),
            (b"POST / HTTP/1.1", "554 5.5.1 close"),
            (b"CONNECT a:25 HTTP/1.1", "554 5.5.1 close"),
            (b"NOOP\0", "500 5.5.2"),
            (b"NOOP\x01", "500 5.5.2"),
            (b"NOOP\xff", "500 5.5.2"),
            ("NOOP é".as_bytes(), "500 5.5.2"),
            ("é".as_bytes(), "500 5.5.2"),
        ];
        for (line, expected) in cases {
            check(line, expected);
        }
    }

    #[test]
    fn a_bad_argument_has_its_reply() {
        let cases: [(&[u8], &str); 19] = [
            (b"EHLO", "501 5.5.4"),
            (b"EHLO a b", "501 5.5.4"),
            (b"EHLO []", "501 5.5.4"),
            (b"DATA x", "501 5.5.4"),
            (b"RSET x", "501 5.5.4"),
            (b"QUIT x", "501 5.5.4"),
            (b"VRFY", "501 5.5.4"),
            (b"MAIL", "501 5.5.4"),
            (b"MAIL TO:<a@b>", "501 5.5.4"),
            (b"RCPT FROM:<a@b>", "501 5.5.4"),
            (b"RCPT TO:<>", "501 5.1.3"),
            (b"RCPT TO:<a@b>x", "501 5.1.3"),
            (b"RCPT TO:<a@b> ORCPT=rfc822;a+0Ab", "555 5.5.4"),
            (b"RCPT TO:<@r:a@b>", "553 5.1.3"),
            (b"BDAT", "501 5.5.4 close"),
            (b"BDAT -1", "501 5.5.4 close"),
            (b"BDAT 0x10", "501 5.5.4 close"),
            (b"BDAT 99999999999999999999", "501 5.5.4 close"),
            (b"BDAT 1 LAST x", "501 5.5.4 close"),
        ];
        for (line, expected) in cases {
            check(line, expected);
        }
    }

    #[test]
    fn parameters_of_mail_are_typed() {
        // Line, SIZE, SMTPUTF8, whether there are parameters at all.
        let cases: [(&[u8], Option<u64>, bool, bool); 6] = [
            (b"MAIL FROM:<>", None, false, false),
            (b"MAIL FROM:<> SIZE=0", Some(0), false, true),
            (
                b"MAIL FROM: <>  size=18446744073709551616",
                Some(u64::MAX),
                false,
                true,
            ),
            (b"MAIL FROM:<> BODY=8bitmime", None, false, true),
            (b"MAIL FROM:<> BODY=7BIT SMTPUTF8", None, true, true),
            (b"mail from:<> smtputf8 size=7 ", Some(7), true, true),
        ];
        for (line, size, smtputf8, has_parameters) in cases {
            let path = Path::Null;
            let mail = Mail {
                path,
                size,
                smtputf8,
                has_parameters,
            };
            let shown = line.escape_ascii();
            assert_eq!(parse(line, false), Ok(Command::Mail(mail)), "{shown}");
        }
        let mailbox = Mailbox {
            local: "a",
            domain: "b",
        };
        let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<a@b>", false) else {
            panic!("a plain sender");
        };
        assert_eq!(mail.path, Path::Mailbox(mailbox));
    }

    #[test]
    fn parameters_of_mail_are_known_and_given_once() {
        let faults: [(&[u8], &str); 14] = [
            (b"MAIL FROM:<postmaster>", "501 5.1.7"),
            (b"MAIL FROM:a@b", "501 5.1.7"),
            (b"MAIL FROM:<@r:a@b>", "553 5.1.7"),
            (b"MAIL FROM:<a@b>SIZE=1", "501 5.1.7"),
            (b"MAIL FROM:<a@b> SIZE", "501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=-1", "501 5.5.4"),
            (b"MAIL FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4"),
            (b"MAIL FROM:<a@b> BODY=7BIT BODY=7BIT", "501 5.5.4"),
            (b"MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            (b"MAIL FROM:<a@b> SMTPUTF8=1", "501 5.5.4"),
            (b"MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4"),
            (b"MAIL FROM:<a@b> BODY=BINARYMIME", "555 5.5.4"),
            (b"MAIL FROM:<a@b> AUTH=x+0Ay", "555 5.5.4"),
            (b"MAIL FROM:<a@b> RET=HDRS", "555 5.5.4"),
        ];
        for (line, expected) in faults {
            check(line, expected);
        }
    }

    #[test]
    fn addresses_beyond_ascii_need_smtputf8() {
        let rcpt = "RCPT TO:<ü@b>".as_bytes();
        check(rcpt, "553 5.6.7");
        assert!(matches!(parse(rcpt, true), Ok(Command::Rcpt(_))));
        check("MAIL FROM:<a@ü>".as_bytes(), "553 5.6.7");
        assert!(parse("MAIL FROM:<a@ü> SMTPUTF8".as_bytes(), false).is_ok());
        assert!(parse(b"RCPT TO:<\xff@b>", true).is_err());
    }

    #[test]
    fn no_line_makes_the_parser_panic() {
        let seeds: [&[u8]; 4] = [
            b"MAIL FROM:<\"a\\\"b\"@c.d> SIZE=10 BODY=7BIT SMTPUTF8",
            b"RCPT TO:<a@[IPv6:::1]>",
            b"BDAT 100 LAST",
            "RCPT TO:<ü@é.example>".as_bytes(),
        ];
        for seed in seeds {
            for at in 0..seed.len() {
                let _ = parse(&seed[..at], true);
                let _ = parse(&seed[at..], true);
                for byte in 0..=255 {
                    let mut line = seed.to_vec();
                    line[at] = byte;
                    let _ = parse(&line, true);
                }
            }
        }
    }
}
