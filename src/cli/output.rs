//! How the commands that look at a running engine speak: text for people, JSON for programs, exit
//! codes for scripts. Text from outside reaches a terminal only through [`clean`].

use core::fmt::Write as _;
use core::time::Duration;
use std::io::IsTerminal;
use std::io::Write;

use clap::Args;
use clap::ValueEnum;
use serde_json::Value;
use serde_json::json;

use crate::base::time::Wall;
use crate::base::units;
use crate::cli::client::ServerArgs;
use crate::control::management::protocol::Finding;
use crate::control::management::protocol::error_document;

/// Exit codes of all commands.
pub const EXIT_DONE: u8 = 0;
/// It failed, or what was looked at is at fault.
pub const EXIT_FAILED: u8 = 1;
pub const EXIT_USAGE: u8 = 2;
/// The configuration has errors. `serve` alone exits with 78, for supervisors.
pub const EXIT_CONFIG: u8 = 2;
pub const EXIT_NOT_FOUND: u8 = 3;
/// No engine answers.
pub const EXIT_UNREACHABLE: u8 = 4;
/// The engine is there but not for this user.
pub const EXIT_NOT_ALLOWED: u8 = 5;

/// Refused for safety: nobody has said yes.
pub const EXIT_REFUSED: u8 = 6;

/// Columns where nobody says how wide the terminal is.
const WIDTH_DEFAULT: usize = 100;

#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OutputArgs {
    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
    /// When to colour: by default on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum When {
    #[default]
    Auto,
    Always,
    Never,
}

/// What a command has to say.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Page {
    /// `pelton.status/1`.
    pub schema: &'static str,
    pub node: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// For people, without the commands that lead on.
    pub text: String,
    pub data: Value,
    /// With these, `--jsonl` prints one a line instead of the document.
    pub records: Option<Vec<Value>>,
    pub warnings: Vec<String>,
    /// Commands that lead on, one argument each.
    pub next: Vec<Vec<String>>,
    pub exit: u8,
}

impl Page {
    /// The same page, its next commands about the engine that was asked.
    #[must_use]
    pub fn about(mut self, server: &ServerArgs) -> Page {
        self.next.iter_mut().for_each(|next| server.carry(next));
        self
    }

    /// What a person reads: the text, and last what to run next.
    pub fn whole_text(&self) -> String {
        let mut text = self.text.clone();
        text.extend(self.next.iter().map(|it| next_line(it)));
        text
    }
}

/// Why a command has nothing to show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub exit: u8,
    /// Stable: `E401`.
    pub code: String,
    pub message: String,
    /// What is wrong with a file, if that is it.
    pub findings: Vec<Finding>,
}

impl Failure {
    pub fn new(exit: u8, code: &str, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            code: code.to_owned(),
            message: message.into(),
            findings: Vec::new(),
        }
    }
}

/// What the text depends on beside the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    pub color: bool,
    /// Columns; lines of tables are cut there.
    pub width: usize,
    pub zone: Zone,
    /// The moment ages count from.
    pub now: Wall,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Of this machine.
    Local,
    Utc,
}

impl Style {
    /// As the terminal, the environment and `--color` say.
    pub fn of_stdout(when: When) -> Style {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let color = match when {
            When::Always => true,
            When::Never => false,
            When::Auto if set("CLICOLOR_FORCE") => true,
            When::Auto => terminal && !set("NO_COLOR") && !dumb,
        };
        // Lines that go to a file or a pipe are not cut.
        let width = if terminal {
            terminal_width()
        } else {
            usize::MAX
        };
        Style {
            color,
            width,
            zone: Zone::Local,
            now: wall_now(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn warn(&self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn fail(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// The time since an RFC 3339 time of ours: `2h10m`.
    pub fn age(&self, time: &str) -> String {
        match parse_time(time) {
            Some(at) => span(self.now.since(at)),
            None => clean(time),
        }
    }

    /// The time until it.
    pub fn until(&self, time: &str) -> String {
        match parse_time(time) {
            Some(at) => span(at.since(self.now)),
            None => clean(time),
        }
    }

    /// The clock time, with the day if it is another one: `02:41:07`, `Nov 21 23:59:00`.
    pub fn clock(&self, time: &str) -> String {
        let Some(at) = parse_time(time) else {
            return clean(time);
        };
        let (then, today) = (self.civil(at), self.civil(self.now));
        let clock = format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second);
        if (then.year, then.month, then.day) == (today.year, today.month, today.day) {
            return clock;
        }
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let month = MONTHS
            .get(then.month.wrapping_sub(1))
            .copied()
            .unwrap_or("?");
        let day = format!("{month} {}", then.day);
        if then.year == today.year {
            format!("{day} {clock}")
        } else {
            format!("{day} {} {clock}", then.year)
        }
    }

    fn civil(&self, at: Wall) -> Civil {
        match self.zone {
            Zone::Utc => utc(at),
            Zone::Local => local(at).unwrap_or_else(|| utc(at)),
        }
    }
}

/// A time that nobody needs to the millisecond.
fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..10 => format!("{seconds}s"),
        seconds => units::duration(Duration::from_secs(seconds)),
    }
}

/// Seconds since midnight where this machine is.
pub fn local_second_of_day(at: Wall) -> u64 {
    let civil = local(at).unwrap_or_else(|| utc(at));
    u64::from(civil.hour * 3_600 + civil.minute * 60 + civil.second)
}

struct Civil {
    year: i64,
    /// From 1.
    month: usize,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

fn utc(at: Wall) -> Civil {
    let text = at.rfc3339().to_string();
    let part = |from: usize, to: usize| text.get(from..to).and_then(|t| t.parse::<u32>().ok());
    let part = |from, to| part(from, to).unwrap_or(0);
    Civil {
        year: i64::from(part(0, 4)),
        month: part(5, 7) as usize,
        day: part(8, 10),
        hour: part(11, 13),
        minute: part(14, 16),
        second: part(17, 19),
    }
}

fn local(at: Wall) -> Option<Civil> {
    let seconds = libc::time_t::try_from(at.secs()).ok()?;
    // SAFETY: an all-zero tm is a valid value of that plain C struct, its one pointer being null.
    let mut tm: libc::tm = unsafe { core::mem::zeroed() };
    // SAFETY: both pointers are to live values, and localtime_r keeps neither.
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) };
    if result.is_null() {
        return None;
    }
    let part = |number: libc::c_int| u32::try_from(number).unwrap_or(0);
    Some(Civil {
        year: i64::from(tm.tm_year) + 1_900,
        month: part(tm.tm_mon) as usize + 1,
        day: part(tm.tm_mday),
        hour: part(tm.tm_hour),
        minute: part(tm.tm_min),
        second: part(tm.tm_sec),
    })
}

/// A time as Pelton writes it, `2026-11-22T02:12:09.120Z`.
pub fn parse_time(text: &str) -> Option<Wall> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00.000Z";
    let fits = |(byte, like): (&u8, &u8)| match like {
        b'0' => byte.is_ascii_digit(),
        _ => byte == like,
    };
    if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from 0000-03-01, counting years from March, so that a leap day ends its year.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let secs = days * 86_400 + part(11, 13)? * 3_600 + part(14, 16)? * 60 + part(17, 19)?;
    Some(Wall(secs * 1_000_000 + part(20, 23)? * 1_000))
}

/// Now, for ages. Commands read the clock; nothing below control does.
#[expect(clippy::disallowed_methods, reason = "a command has no other clock")]
pub fn wall_now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Wall(u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX))
}

fn terminal_width() -> usize {
    // SAFETY: an all-zero winsize is a valid value of that plain C struct.
    let mut size: libc::winsize = unsafe { core::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes a winsize, which `size` is, for the length of the call.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match usize::from(size.ws_col) {
        columns @ 20.. if result == 0 => columns,
        _ => WIDTH_DEFAULT,
    }
}

/// Text from outside without anything that could steer a terminal: line ends and tabs are blanks,
/// other control characters and the marks that reverse the direction of writing are gone.
pub fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' => Some(' '),
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        _ if c.is_control() => None,
        _ => Some(c),
    };
    text.chars().filter_map(harmless).collect()
}

/// Columns that `text` takes, as far as can be said without a table of wide characters.
fn columns(text: &str) -> usize {
    text.chars().count()
}

/// The first `width` columns; a cut shows.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(2)).collect();
    kept.push_str("..");
    kept
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    Left,
    Right,
}

/// A table without borders. The last column takes what is left of the line and is cut there.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Blanks between columns.
const GAP: &str = "  ";

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// A row with a cell for each column; cells are cleaned here.
    pub fn row(&mut self, cells: impl AsRef<[String]>) {
        let cells = cells.as_ref();
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows
            .push(cells.iter().map(|cell| clean(cell)).collect());
    }

    pub fn render(&self, style: &Style) -> String {
        let head: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let width_of = |index: usize| {
            let cells = self.rows.iter().map(|row| columns(&row[index]));
            cells.chain([columns(&head[index])]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
        let mut text = style.strong(&self.line(&head, &widths, style.width));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&self.line(row, &widths, style.width));
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize], width: usize) -> String {
        let mut line = String::new();
        for ((cell, wide), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push_str(GAP);
            }
            let fill = " ".repeat(wide.saturating_sub(columns(cell)));
            // A line of text never fails to take more text.
            let _ = match align {
                Align::Left => write!(line, "{cell}{fill}"),
                Align::Right => write!(line, "{fill}{cell}"),
            };
        }
        cut(line.trim_end(), width)
    }
}

/// The last line of most pages: what to run next.
fn next_line(command: &[String]) -> String {
    format!("Next      {}\n", shell_words(command))
}

/// A command as one types it.
pub fn shell_words(command: &[String]) -> String {
    let quote = |word: &String| {
        let word = clean(word);
        let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// A command from its words.
pub fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The document of `--json`.
pub fn document(page: &Page) -> Value {
    let next: Vec<Value> = page
        .next
        .iter()
        .map(|argv| json!({ "argv": argv }))
        .collect();
    json!({
        "schema": page.schema,
        "node": page.node,
        "at": page.at,
        "data": page.data,
        "warnings": page.warnings,
        "next": next,
    })
}

/// Writes a whole line to standard output. Where the reader has gone away, as `head` does, the rest
/// is for nobody: the process ends quietly with [`EXIT_DONE`].
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    if let Some(exit) = exit_of_write(&written) {
        std::process::exit(exit.into());
    }
}

/// The exit code of a command whose output could not be written; nothing if it was.
pub fn exit_of_write<T>(written: &std::io::Result<T>) -> Option<u8> {
    match written {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Some(EXIT_DONE),
        Err(error) => {
            eprint_line(&format!("E405 cannot write the answer: {error}"));
            Some(EXIT_FAILED)
        }
    }
}

/// Prints what a command came to and gives its exit code. Data goes to standard output, failures
/// to standard error; with `--json` both are JSON. A reader that goes away is no failure.
pub fn show(result: Result<Page, Failure>, args: OutputArgs, lines: bool) -> u8 {
    match result {
        Ok(page) => {
            // A line of its own has no place for what concerns all of them.
            let warn = || {
                for warning in &page.warnings {
                    eprint_line(&format!("WARN {}", clean(warning)));
                }
            };
            let text = match &page.records {
                Some(records) if lines => {
                    warn();
                    records.iter().map(|record| format!("{record}\n")).collect()
                }
                _ if args.json || lines => format!("{:#}\n", document(&page)),
                _ => {
                    warn();
                    page.whole_text()
                }
            };
            let mut out = std::io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            exit_of_write(&written).unwrap_or(page.exit)
        }
        Err(failure) => {
            let text = match args.json || lines {
                true => failure_document(&failure).to_string(),
                false => {
                    let found = failure.findings.iter().flat_map(|it| it.text.lines());
                    let lines = failure.message.lines().chain(found).map(clean);
                    let lines: Vec<String> = lines.collect();
                    format!("{} {}", failure.code, lines.join("\n"))
                }
            };
            eprint_line(&text);
            failure.exit
        }
    }
}

/// The document of an error with `--json`: that of the whole system, and the exit code.
pub fn failure_document(failure: &Failure) -> Value {
    let mut document = error_document(wall_now(), &failure.code, &failure.message);
    document["error"]["exit"] = failure.exit.into();
    if !failure.findings.is_empty() {
        let found = failure.findings.iter().map(|it| {
            let mut value = serde_json::to_value(it).unwrap_or_default();
            // The parts are there by themselves.
            value.as_object_mut().map(|it| it.remove("text"));
            value
        });
        document["error"]["findings"] = found.collect();
    }
    document
}

fn eprint_line(text: &str) {
    // Where standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        color: false,
        width: 30,
        zone: Zone::Utc,
        now: Wall(1_767_225_599_000_000),
    };

    #[test]
    fn tables_are_aligned_cut_and_clean() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("WHY", Align::Left),
        ]);
        table.row(["a\x1b[2J".into(), "1,234".into(), "short".into()]);
        table.row([
            "längér".into(),
            "5".into(),
            "a reply that does not fit".into(),
        ]);
        let expected = "NAME        N  WHY\na[2J    1,234  short\nlängér      5  a reply that ..\n";
        assert_eq!(table.render(&STYLE), expected);
        let colored = Style {
            color: true,
            ..STYLE
        };
        assert!(table.render(&colored).starts_with("\x1b[1mNAME"));
    }

    #[test]
    fn times_are_read_back_and_told_with_their_day_when_it_is_another() {
        for secs in [0, 951_826_155, 951_868_799, 1_767_225_599, 4_107_542_400] {
            let at = Wall(secs * 1_000_000 + 42_000);
            assert_eq!(parse_time(&at.rfc3339().to_string()), Some(at), "{secs}");
        }
        for text in [
            "",
            "2026-11-22",
            "2026-13-22T02:12:09.120Z",
            "2026-11-22T02:12:09.12éZ",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
        assert_eq!(STYLE.clock("2025-12-31T02:41:07.000Z"), "02:41:07");
        assert_eq!(STYLE.clock("2025-12-30T02:41:07.000Z"), "Dec 30 02:41:07");
        assert_eq!(
            STYLE.clock("2024-02-29T02:41:07.000Z"),
            "Feb 29 2024 02:41:07"
        );
        assert_eq!(STYLE.clock("\x1bnonsense"), "nonsense");
        assert_eq!(STYLE.age("2025-12-31T21:59:00.500Z"), "2h");
        assert_eq!(STYLE.until("2026-01-01T00:59:59.500Z"), "1h");
    }

    #[test]
    fn commands_can_be_pasted() {
        let words = command(&[
            "pelton",
            "queue",
            "list",
            "--where",
            "domain=a age>1h",
            "it's",
            "",
        ]);
        let expected = "pelton queue list --where 'domain=a age>1h' 'it'\\''s' ''";
        assert_eq!(shell_words(&words), expected);
    }

    #[test]
    fn what_steers_a_terminal_does_not_get_through() {
        assert_eq!(clean("a\x1b[31m\u{9b}b\u{202e}c\r\n\u{7f}é"), "a[31mbc é");
    }

    #[test]
    fn a_document_has_every_member() {
        let page = Page {
            schema: "pelton.test/1",
            next: vec![command(&["pelton", "status"])],
            ..Page::default()
        };
        let expected = json!({
            "schema": "pelton.test/1", "node": "", "at": "", "data": null, "warnings": [],
            "next": [{ "argv": ["pelton", "status"] }],
        });
        assert_eq!(document(&page), expected);
    }
}
