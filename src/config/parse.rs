//! Tokens to statements: options, stanzas and includes, as written. Nothing here knows which names
//! exist. After a mistake reading goes on with the next statement, so that one run finds them all.

use super::findings::Findings;
use super::lexer::Lexeme;
use super::lexer::Token;
use super::lexer::lex;
use super::source::Sources;
use super::source::Span;

/// Stanzas inside each other.
pub const STANZA_DEPTH_MAX: usize = 16;
/// Lists and dictionaries inside each other.
pub const LIST_DEPTH_MAX: usize = 8;
/// Items of one list or dictionary.
pub const LIST_ITEMS_MAX: usize = 65_536;

/// A word or string as written, its escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub quoted: bool,
    pub span: Span,
}

/// The right-hand side of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawValue {
    Word(Word),
    List(Vec<RawValue>, Span),
    Dictionary(Vec<(Word, RawValue)>, Span),
}

impl RawValue {
    /// Where the value stands.
    pub fn span(&self) -> Span {
        match self {
            RawValue::Word(word) => word.span,
            RawValue::List(_, span) | RawValue::Dictionary(_, span) => *span,
        }
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Option {
        name: Word,
        value: RawValue,
    },
    Stanza {
        name: Word,
        instance: Option<Word>,
        items: Vec<Item>,
    },
    Include {
        path: Word,
        readonly: bool,
    },
}

/// Parses a whole file.
pub fn parse(sources: &Sources, file: u32, findings: &mut Findings) -> Vec<Item> {
    let lexemes = lex(sources, file, findings);
    let mut parser = Parser {
        sources,
        lexemes,
        at: 0,
        findings,
    };
    parser.items(&mut Vec::new())
}

struct Parser<'a> {
    sources: &'a Sources,
    lexemes: Vec<Lexeme>,
    at: usize,
    findings: &'a mut Findings,
}

impl Parser<'_> {
    fn peek(&self) -> &Lexeme {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Lexeme {
        let last = self.lexemes.len() - 1;
        &self.lexemes[(self.at + ahead).min(last)]
    }

    fn is_mark(&self, ahead: usize, mark: char) -> bool {
        self.peek_at(ahead).token == Token::Mark(mark)
    }

    fn take(&mut self) -> Lexeme {
        let lexeme = self.peek().clone();
        self.at += 1;
        lexeme
    }

    fn error(&mut self, code: &'static str, span: Span, message: &str, expected: &str) {
        self.findings
            .error(self.sources, code, span, message, expected);
    }

    /// Statements up to the closing brace of the innermost open stanza, or the end of the file.
    fn items(&mut self, open: &mut Vec<Span>) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            let lexeme = self.peek().clone();
            match lexeme.token {
                Token::End => {
                    if let Some(brace) = open.last().copied() {
                        let message = "this stanza is not closed before the end of the file";
                        self.error("E005", brace, message, "a matching `}`");
                    }
                    return items;
                }
                Token::Mark('}') => {
                    self.at += 1;
                    if !open.is_empty() {
                        return items;
                    }
                    let message = "this `}` closes nothing";
                    self.error(
                        "E005",
                        lexeme.span,
                        message,
                        "a statement or the end of the file",
                    );
                }
                Token::Word(_) => items.extend(self.statement(open)),
                Token::Text(_) | Token::Mark(_) => {
                    let message = format!("a statement does not start with {}", shown(&lexeme));
                    let expected = "the name of an option or a stanza";
                    self.error("E004", lexeme.span, &message, expected);
                    self.at += 1;
                    self.recover();
                }
            }
        }
    }

    fn statement(&mut self, open: &mut Vec<Span>) -> Option<Item> {
        let lexeme = self.take();
        let name = word_of(&lexeme)?;
        let lower = name.text.to_ascii_lowercase();
        let is_include = lower == "include" || lower == "readonly_include";
        let next = self.peek().clone();
        match next.token {
            Token::Mark('=') => self.assignment(name),
            Token::Mark('{') => self.stanza(name, None, open),
            Token::Word(_) | Token::Text(_) if is_include && !next.starts_line => {
                self.at += 1;
                let path = word_of(&next)?;
                Some(Item::Include {
                    path,
                    readonly: lower == "readonly_include",
                })
            }
            Token::Word(_) | Token::Text(_) if self.is_mark(1, '{') => {
                self.at += 1;
                self.stanza(name, word_of(&next), open)
            }
            _ => {
                let message = format!("{} is neither an option nor a stanza", shown(&lexeme));
                let expected = match is_include {
                    true => "a file or directory name after it, on the same line",
                    false => "`=` and a value, or `{`",
                };
                self.error("E004", name.span, &message, expected);
                self.recover();
                None
            }
        }
    }

    fn assignment(&mut self, name: Word) -> Option<Item> {
        let equals = self.take();
        let next = self.peek().clone();
        let is_next_statement = next.starts_line && self.is_statement_ahead();
        let is_value = match &next.token {
            Token::Word(_) => !is_next_statement,
            Token::Text(_) | Token::Mark('(' | '[') => true,
            Token::Mark(_) | Token::End => false,
        };
        if !is_value {
            let message = format!("{} has no value", name.text);
            let expected = "a value after `=`; one with a space or any of # / \" ' = { } [ ] ( ) \
                in it stands in double quotes";
            self.error("E004", equals.span, &message, expected);
            if !is_next_statement && !matches!(next.token, Token::Mark('}') | Token::End) {
                self.at += 1;
                self.recover();
            }
            return None;
        }
        let value = self.value(0)?;
        let value = self.without_semicolon(value);
        self.trailing(&value);
        Some(Item::Option { name, value })
    }

    /// True at a word that is followed by what only a statement has after its name.
    fn is_statement_ahead(&self) -> bool {
        matches!(self.peek().token, Token::Word(_))
            && (self.is_mark(1, '=') || self.is_mark(1, '{'))
    }

    /// A second value on the same line is a forgotten list or forgotten quotes.
    fn trailing(&mut self, value: &RawValue) {
        let next = self.peek().clone();
        let is_stray = match &next.token {
            Token::Word(_) => !next.starts_line && !self.is_mark(1, '=') && !self.is_mark(1, '{'),
            Token::Text(_) | Token::Mark('(' | '[') => !next.starts_line,
            Token::Mark(_) | Token::End => false,
        };
        let is_stanza_next = matches!(next.token, Token::Word(_)) && self.is_mark(2, '{');
        if is_stray && !is_stanza_next && !self.is_include(&next) {
            let message = format!("{} follows a complete value", shown(&next));
            let expected = match value {
                RawValue::Word(_) => {
                    "double quotes around a text with spaces, or ( ) around a list"
                }
                _ => "a new line",
            };
            self.error("E004", next.span, &message, expected);
            self.recover();
        }
    }

    fn is_include(&self, lexeme: &Lexeme) -> bool {
        let Token::Word(word) = &lexeme.token else {
            return false;
        };
        ["include", "readonly_include"].contains(&word.to_ascii_lowercase().as_str())
    }

    fn without_semicolon(&mut self, value: RawValue) -> RawValue {
        let RawValue::Word(mut word) = value else {
            return value;
        };
        if !word.quoted && word.text.len() > 1 && word.text.ends_with(';') {
            let message = "a statement does not end with a semicolon";
            let last = Span {
                start: word.span.end - 1,
                ..word.span
            };
            self.error("E004", last, message, "the end of the line after the value");
            word.text.pop();
        }
        RawValue::Word(word)
    }

    fn stanza(&mut self, name: Word, instance: Option<Word>, open: &mut Vec<Span>) -> Option<Item> {
        let brace = self.take().span;
        if open.len() == STANZA_DEPTH_MAX {
            let message = "stanzas are nested too deeply";
            let expected = format!("at most {STANZA_DEPTH_MAX} stanzas inside each other");
            self.error("E007", name.span, message, &expected);
            self.at -= 1;
            self.skip_block();
            return None;
        }
        open.push(brace);
        let items = self.items(open);
        open.pop();
        Some(Item::Stanza {
            name,
            instance,
            items,
        })
    }

    fn value(&mut self, depth: usize) -> Option<RawValue> {
        let lexeme = self.take();
        match lexeme.token {
            Token::Word(_) | Token::Text(_) => word_of(&lexeme).map(RawValue::Word),
            Token::Mark(_) if depth == LIST_DEPTH_MAX => {
                let expected = format!("at most {LIST_DEPTH_MAX} lists inside each other");
                self.error(
                    "E007",
                    lexeme.span,
                    "lists are nested too deeply",
                    &expected,
                );
                self.recover();
                None
            }
            Token::Mark('(') => self.list(lexeme.span, depth),
            Token::Mark(_) | Token::End => self.dictionary(lexeme.span, depth),
        }
    }

    fn list(&mut self, open: Span, depth: usize) -> Option<RawValue> {
        let mut items = Vec::new();
        loop {
            let next = self.peek().clone();
            let is_item = match &next.token {
                Token::Word(_) => !(next.starts_line && self.is_statement_ahead()),
                Token::Text(_) | Token::Mark('(' | '[') => true,
                Token::Mark(')') => {
                    self.at += 1;
                    return Some(RawValue::List(items, open.to(next.span)));
                }
                Token::Mark(_) | Token::End => false,
            };
            if !is_item {
                self.error("E006", open, "this list is not closed", "a matching `)`");
                return Some(RawValue::List(items, open));
            }
            if items.len() == LIST_ITEMS_MAX {
                let expected = format!("at most {LIST_ITEMS_MAX} items");
                self.error("E007", next.span, "this list is too long", &expected);
                self.recover();
                return None;
            }
            let item = self.value(depth + 1)?;
            items.extend(self.without_comma(item));
        }
    }

    /// Items are separated by white space; a comma is reported once and dropped.
    fn without_comma(&mut self, item: RawValue) -> Option<RawValue> {
        let RawValue::Word(mut word) = item else {
            return Some(item);
        };
        if !word.quoted && word.text.contains(',') {
            let message = "the items of a list are separated by spaces, without commas";
            self.error("E006", word.span, message, "a space instead of the comma");
            word.text = word.text.split(',').next().unwrap_or_default().to_string();
        }
        if word.quoted || !word.text.is_empty() {
            Some(RawValue::Word(word))
        } else {
            None
        }
    }

    fn dictionary(&mut self, open: Span, depth: usize) -> Option<RawValue> {
        let mut entries = Vec::new();
        loop {
            let next = self.peek().clone();
            match &next.token {
                Token::Mark(']') => {
                    self.at += 1;
                    return Some(RawValue::Dictionary(entries, open.to(next.span)));
                }
                Token::Word(_) | Token::Text(_) if self.is_mark(1, '=') => {
                    let key = word_of(&self.take())?;
                    self.at += 1;
                    let is_value = match &self.peek().token {
                        Token::Word(_) | Token::Text(_) => true,
                        other => matches!(other, Token::Mark('(' | '[')),
                    };
                    if !is_value {
                        self.error(
                            "E004",
                            key.span,
                            "this key has no value",
                            "a value after `=`",
                        );
                        self.recover();
                        return None;
                    }
                    if entries.len() == LIST_ITEMS_MAX {
                        let expected = format!("at most {LIST_ITEMS_MAX} entries");
                        self.error("E007", key.span, "this dictionary is too long", &expected);
                        self.recover();
                        return None;
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                _ => {
                    let message = "this dictionary is not closed";
                    self.error(
                        "E006",
                        open,
                        message,
                        "entries `key = value` and a matching `]`",
                    );
                    self.recover();
                    return None;
                }
            }
        }
    }

    /// Skips to the next statement: the closing brace of this stanza, or a name that starts a line.
    fn recover(&mut self) {
        loop {
            let next = self.peek();
            match &next.token {
                Token::End | Token::Mark('}') => return,
                Token::Word(_) if next.starts_line => return,
                Token::Mark('{') => self.skip_block(),
                _ => self.at += 1,
            }
        }
    }

    /// Skips from an opening brace to behind its closing one.
    fn skip_block(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek().token {
                Token::End => return,
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

fn word_of(lexeme: &Lexeme) -> Option<Word> {
    match &lexeme.token {
        Token::Word(text) => Some(Word {
            text: text.clone(),
            quoted: false,
            span: lexeme.span,
        }),
        Token::Text(text) => Some(Word {
            text: text.clone(),
            quoted: true,
            span: lexeme.span,
        }),
        Token::Mark(_) | Token::End => None,
    }
}

fn shown(lexeme: &Lexeme) -> String {
    match &lexeme.token {
        Token::Word(text) | Token::Text(text) => {
            let cut: String = text.chars().take(60).collect();
            format!("\"{cut}\"")
        }
        Token::Mark(mark) => format!("`{mark}`"),
        Token::End => "the end of the file".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::SourceFile;
    use super::*;

    fn run(text: &str) -> (String, Vec<String>) {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile {
            name: "t".to_string(),
            text: text.to_string(),
        });
        let mut findings = Findings::default();
        let items = parse(&sources, file, &mut findings);
        let findings = findings.into_sorted(&sources);
        let shape = items.iter().map(item).collect::<Vec<_>>().join(" ");
        let codes = findings.iter().map(|it| {
            let place = it.place.as_ref().expect("a place");
            format!("{}@{}:{}", it.code, place.line, place.column)
        });
        (shape, codes.collect())
    }

    fn item(item: &Item) -> String {
        match item {
            Item::Option { name, value: it } => format!("{}={}", name.text, value(it)),
            Item::Include { path, readonly } => format!("<{} {readonly}>", path.text),
            Item::Stanza {
                name,
                instance,
                items,
            } => {
                let instance = instance.as_ref().map_or("", |it| it.text.as_str());
                let inner: Vec<String> = items.iter().map(self::item).collect();
                format!("{}:{instance}{{{}}}", name.text, inner.join(" "))
            }
        }
    }

    fn value(raw: &RawValue) -> String {
        match raw {
            RawValue::Word(word) => word.text.clone(),
            RawValue::List(items, _) => {
                format!(
                    "({})",
                    items.iter().map(value).collect::<Vec<_>>().join(",")
                )
            }
            RawValue::Dictionary(entries, _) => {
                let entries = entries
                    .iter()
                    .map(|(key, it)| format!("{}={}", key.text, value(it)));
                format!("[{}]", entries.collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn statements_of_all_forms() {
        let cases = [
            ("a = 1", "a=1"),
            ("a = 1 b = 2", "a=1 b=2"),
            (
                "binding \"x\" { a = 1 } alerting {}",
                "binding:x{a=1} alerting:{}",
            ),
            (
                "binding \"x\" { a = 1 domain b.c { d = 2 } }",
                "binding:x{a=1 domain:b.c{d=2}}",
            ),
            (
                "include \"x.conf\" readonly_include y",
                "<x.conf false> <y true>",
            ),
            ("a = 1 include \"x.conf\"", "a=1 <x.conf false>"),
            ("l = ( 1 \"2 3\" ( 4 ) [ k = 5 ] )", "l=(1,2 3,(4),[k=5])"),
            ("l = ( )  d = [ ]", "l=() d=[]"),
            (
                "d = [ 99 = \"profanity\" \"a b\" = ( 1 ) ]",
                "d=[99=profanity,a b=(1)]",
            ),
            ("a\n=\n1\n", "a=1"),
            ("Listen\n \"x\"\n {\n}", "Listen:x{}"),
            ("l = (\n a\n b\n)\nc = 1", "l=(a,b) c=1"),
        ];
        for (text, expected) in cases {
            let (shape, findings) = run(text);
            assert_eq!(shape, expected, "{text}");
            assert!(findings.is_empty(), "{text}: {findings:?}");
        }
    }

    #[test]
    fn after_a_mistake_reading_goes_on_with_the_next_statement() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("a b\nc = 1", "c=1", &["E004@1:1"]),
            ("a = \nc = 1", "c=1", &["E004@1:3"]),
            ("a = }", "", &["E004@1:3", "E005@1:5"]),
            ("a = 1 2 3\nc = 1", "a=1 c=1", &["E004@1:7"]),
            ("= 5\nc = 1", "c=1", &["E004@1:1"]),
            ("x { a = 1", "x:{a=1}", &["E005@1:3"]),
            ("a = 1 }\nb = 2", "a=1 b=2", &["E005@1:7"]),
            ("l = ( 1 2\nb = 2", "l=(1,2) b=2", &["E006@1:5"]),
            (
                "l = ( 1, 2, )\nb = 2",
                "l=(1,2) b=2",
                &["E006@1:7", "E006@1:10"],
            ),
            ("x { l = ( 1 } b = 2", "x:{l=(1)} b=2", &["E006@1:9"]),
            ("d = [ a 1 ]\nb = 2", "b=2", &["E006@1:5"]),
            ("d = [ a = ]\nb = 2", "b=2", &["E004@1:7"]),
            ("a = 5;\nb = 6", "a=5 b=6", &["E004@1:6"]),
            ("include\nb = 6", "b=6", &["E004@1:1"]),
            ("x \"y\" = 3\nb = 6", "b=6", &["E004@1:1"]),
            ("x y z {\n a = 1 }\nb = 6", "b=6", &["E004@1:1"]),
            ("a", "", &["E004@1:1"]),
            ("a =", "", &["E004@1:3"]),
        ];
        for (text, expected, codes) in cases {
            let (shape, findings) = run(text);
            assert_eq!(
                (shape.as_str(), findings),
                (*expected, owned(codes)),
                "{text}"
            );
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |count: usize| format!("{}{}", "x { ".repeat(count), "} ".repeat(count));
        assert!(run(&nested(STANZA_DEPTH_MAX)).1.is_empty());
        assert_eq!(run(&nested(STANZA_DEPTH_MAX + 1)).1, ["E007@1:65"]);
        assert_eq!(run(&nested(100_000)).1.len(), 1);
        let lists = |count: usize| format!("a = {}{}", "( ".repeat(count), ") ".repeat(count));
        assert!(run(&lists(LIST_DEPTH_MAX)).1.is_empty());
        assert_eq!(run(&lists(LIST_DEPTH_MAX + 1)).1.len(), 1);
        let long = |count: usize| format!("a = ( {})", "x ".repeat(count));
        assert!(run(&long(LIST_ITEMS_MAX)).1.is_empty());
        assert_eq!(run(&long(LIST_ITEMS_MAX + 1)).1.len(), 1);
    }

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|it| it.to_string()).collect()
    }
}
