//! Bytes of a source file to words, strings and punctuation. A quoted string ends on its line; a
//! bare word may not contain any of `# / " ' = { } [ ] ( )` or white space.

use super::findings::Findings;
use super::source::Sources;
use super::source::Span;

/// Bytes of one word or string.
pub const WORD_BYTES_MAX: usize = 64 << 10;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A bare word.
    Word(String),
    /// A quoted string, its escapes resolved.
    Text(String),
    /// One of `= { } [ ] ( )`.
    Mark(char),
    /// End of the file; every stream ends with one.
    End,
}

/// A token, where it stands, and whether it is the first on its line.
#[derive(Clone, Debug)]
pub struct Lexeme {
    pub token: Token,
    pub span: Span,
    pub starts_line: bool,
}

/// Splits a file. Always ends with [`Token::End`]; what cannot be read is reported and skipped.
pub fn lex(sources: &Sources, file: u32, findings: &mut Findings) -> Vec<Lexeme> {
    let text = sources.text(file);
    let mut lexer = Lexer {
        sources,
        text,
        file,
        at: 0,
        starts_line: true,
        findings,
    };
    let mut lexemes = Vec::new();
    loop {
        let lexeme = lexer.next();
        let done = lexeme.token == Token::End;
        lexemes.push(lexeme);
        if done {
            return lexemes;
        }
    }
}

/// True for a character that a bare word may contain.
pub fn is_bare(character: char) -> bool {
    !character.is_whitespace() && !character.is_control() && !"#/\"'={}[]()".contains(character)
}

struct Lexer<'a> {
    sources: &'a Sources,
    text: &'a str,
    file: u32,
    at: usize,
    starts_line: bool,
    findings: &'a mut Findings,
}

impl Lexer<'_> {
    fn next(&mut self) -> Lexeme {
        loop {
            self.skip_space();
            let start = self.at;
            let starts_line = core::mem::take(&mut self.starts_line);
            let rest = &self.text[start..];
            let Some(first) = rest.chars().next() else {
                return Lexeme {
                    token: Token::End,
                    span: self.span(start),
                    starts_line: true,
                };
            };
            let token = match first {
                '"' => self.quoted(),
                '=' | '{' | '}' | '[' | ']' | '(' | ')' => {
                    self.at += 1;
                    Some(Token::Mark(first))
                }
                _ if is_bare(first) => self.bare(),
                _ => self.stray(first),
            };
            if let Some(token) = token {
                return Lexeme {
                    token,
                    span: self.span(start),
                    starts_line,
                };
            }
        }
    }

    fn span(&self, start: usize) -> Span {
        Span {
            file: self.file,
            start: start as u32,
            end: self.at as u32,
        }
    }

    /// White space and comments.
    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let Some(first) = rest.chars().next() else {
                return;
            };
            if first == '\n' {
                self.starts_line = true;
            }
            if first.is_whitespace() || first == '\u{feff}' {
                self.at += first.len_utf8();
            } else if first == '#' {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.skip_block_comment();
            } else {
                return;
            }
        }
    }

    fn skip_block_comment(&mut self) {
        let start = self.at;
        let rest = &self.text[start..];
        match rest[2..].find("*/") {
            Some(length) => {
                let end = start + 2 + length + 2;
                self.starts_line |= self.text[start..end].contains('\n');
                self.at = end;
            }
            None => {
                self.at = start + 2;
                let span = self.span(start);
                self.at = self.text.len();
                self.error("E003", span, "this comment is not closed", "`*/` after it");
            }
        }
    }

    fn bare(&mut self) -> Option<Token> {
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest.find(|it| !is_bare(it)).unwrap_or(rest.len());
        self.at += length;
        let word = &rest[..length];
        let follow = rest[length..].chars().next();
        match follow {
            Some('#') => {
                let hash = Span {
                    start: self.at as u32,
                    end: self.at as u32 + 1,
                    ..self.span(0)
                };
                let message = "`#` directly after a word starts a comment";
                let expected = "a space before the comment, or double quotes if `#` belongs \
                    to the value";
                self.findings
                    .warning(self.sources, "W006", hash, message, expected);
            }
            Some('/') if !rest[length..].starts_with("/*") => return self.needs_quotes(start),
            Some('\'') => return self.needs_quotes(start),
            _ => {}
        }
        self.bounded(start, word.to_string()).map(Token::Word)
    }

    /// A word with a character in it that only a quoted value may have: the whole of it is taken,
    /// so that one mistake gives one message.
    fn needs_quotes(&mut self, start: usize) -> Option<Token> {
        let rest = &self.text[start..];
        let stop = |it: char| it.is_whitespace() || it.is_control() || "\"={}[]()".contains(it);
        let length = rest.find(stop).unwrap_or(rest.len());
        let word = rest[..length].replace('\'', "");
        self.at = start + length;
        let span = self.span(start);
        let message = format!("the value {} must stand in double quotes", &rest[..length]);
        self.error("E001", span, &message, &format!("\"{word}\""));
        self.bounded(start, word).map(Token::Text)
    }

    fn stray(&mut self, first: char) -> Option<Token> {
        let start = self.at;
        if first == '/' || first == '\'' {
            return self.needs_quotes(start);
        }
        self.at += first.len_utf8();
        let span = self.span(start);
        let message = format!("the character U+{:04X} may not stand here", first as u32);
        self.error("E001", span, &message, "a name, a value or a closing brace");
        None
    }

    /// `\"` and `\\` are escapes; any other backslash stands for itself, so that a regular
    /// expression reads as it is meant.
    fn quoted(&mut self) -> Option<Token> {
        let start = self.at;
        let rest = &self.text[start..];
        let mut value = String::new();
        let mut characters = rest.char_indices().skip(1).peekable();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.at = start + offset + 1;
                    return self.bounded(start, value).map(Token::Text);
                }
                '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                    Some((_, escaped)) => value.push(escaped),
                    None => value.push('\\'),
                },
                '\n' => break,
                _ => value.push(character),
            }
        }
        self.at = start + rest.find('\n').unwrap_or(rest.len());
        let span = self.span(start);
        self.error(
            "E002",
            span,
            "this string is not closed on its line",
            "a closing `\"`",
        );
        self.bounded(start, value.trim_end().to_string())
            .map(Token::Text)
    }

    fn bounded(&mut self, start: usize, value: String) -> Option<String> {
        if value.len() <= WORD_BYTES_MAX {
            return Some(value);
        }
        let message = format!("a value of {} bytes is too long", value.len());
        let expected = format!("at most {WORD_BYTES_MAX} bytes");
        let span = self.span(start);
        self.error("E007", span, &message, &expected);
        Some(String::new())
    }

    fn error(&mut self, code: &'static str, span: Span, message: &str, expected: &str) {
        self.findings
            .error(self.sources, code, span, message, expected);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::SourceFile;
    use super::*;

    fn run(text: &str) -> (Vec<String>, Vec<String>) {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile {
            name: "t".to_string(),
            text: text.to_string(),
        });
        let mut findings = Findings::default();
        let tokens = lex(&sources, file, &mut findings);
        let findings = findings.into_sorted(&sources);
        let shown = tokens.iter().filter_map(|it| match &it.token {
            Token::Word(word) => Some(word.clone()),
            Token::Text(text) => Some(format!("\"{text}\"")),
            Token::Mark(mark) => Some(mark.to_string()),
            Token::End => None,
        });
        let codes = findings.iter().map(|it| {
            let place = it.place.as_ref().expect("a place");
            format!("{}@{}:{}", it.code, place.line, place.column)
        });
        (shown.collect(), codes.collect())
    }

    #[test]
    fn words_strings_marks_and_comments() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a=b", &["a", "=", "b"]),
            (
                "bind_address = 10.0.0.1 # note",
                &["bind_address", "=", "10.0.0.1"],
            ),
            ("a /* b\nc */ d", &["a", "d"]),
            ("/* /* */ x", &["x"]),
            (
                "domain \"#spe_relay\" { }",
                &["domain", "\"#spe_relay\"", "{", "}"],
            ),
            (r#"x = "a\"b\\c\.d\e""#, &["x", "=", r#""a"b\c\.d\e""#]),
            (r#"x = "\\." "#, &["x", "=", r#""\.""#]),
            ("l = ( 1 2 )", &["l", "=", "(", "1", "2", ")"]),
            (
                "d = [ k = \"v\" ]",
                &["d", "=", "[", "k", "=", "\"v\"", "]"],
            ),
            ("a\u{a0}b", &["a", "b"]),
            ("-1 *.x 1,2", &["-1", "*.x", "1,2"]),
        ];
        for (text, expected) in cases {
            let (tokens, findings) = run(text);
            assert_eq!(tokens, *expected, "{text}");
            assert!(findings.is_empty(), "{text}: {findings:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_reported_with_its_place_and_does_not_stop_the_rest() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("a = \"open\nb", &["a", "=", "\"open\"", "b"], &["E002@1:5"]),
            ("a\n /* open", &["a"], &["E003@2:2"]),
            (
                "n = 10.0.0.0/8 x",
                &["n", "=", "\"10.0.0.0/8\"", "x"],
                &["E001@1:5"],
            ),
            ("n = 'x' y", &["n", "=", "\"x\"", "y"], &["E001@1:5"]),
            ("n = it's y", &["n", "=", "\"its\"", "y"], &["E001@1:5"]),
            ("n = 5#six\nm", &["n", "=", "5", "m"], &["W006@1:6"]),
            ("a \u{1} b", &["a", "b"], &["E001@1:3"]),
            ("\"", &["\"\""], &["E002@1:1"]),
            ("a = \"\\", &["a", "=", "\"\\\""], &["E002@1:5"]),
        ];
        for (text, tokens, findings) in cases {
            let (found, reported) = run(text);
            assert_eq!(
                (found, reported),
                (to_strings(tokens), to_strings(findings)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_word_over_its_bound_is_refused() {
        let (_, findings) = run(&format!("a = {}", "x".repeat(WORD_BYTES_MAX + 1)));
        assert_eq!(findings, ["E007@1:5"]);
        let (_, findings) = run(&format!("a = {}", "x".repeat(WORD_BYTES_MAX)));
        assert!(findings.is_empty());
    }

    fn to_strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|it| it.to_string()).collect()
    }
}
