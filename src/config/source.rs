//! The source files of one load and places in them. A span is three numbers; it becomes a line and
//! a column only when somebody reads it.

use super::diagnostic::Excerpt;
use super::diagnostic::Place;

/// Bytes of one source file.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// Files of one load, the same file counted each time it is included.
pub const FILES_MAX: usize = 1_000;

/// One file as read by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The name shown in messages; two names are the same file when they are the same text, so
    /// the reader of includes should give canonical paths.
    pub name: String,
    pub text: String,
}

/// Bytes `start..end` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub file: u32,
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// From the start of `self` to the end of `other`, which follows it in the same file.
    pub fn to(self, other: Span) -> Span {
        Span {
            end: other.end.max(self.start),
            ..self
        }
    }
}

/// All files of a load.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<LoadedFile>,
}

#[derive(Debug)]
struct LoadedFile {
    source: SourceFile,
    /// Byte offset at which each line starts.
    lines: Vec<u32>,
}

impl Sources {
    /// Keeps a file; the caller has checked [`FILE_BYTES_MAX`] and [`FILES_MAX`].
    pub fn add(&mut self, source: SourceFile) -> u32 {
        assert!(source.text.len() <= FILE_BYTES_MAX && self.files.len() < FILES_MAX);
        let starts = source
            .text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n');
        let lines = core::iter::once(0)
            .chain(starts.map(|(at, _)| at as u32 + 1))
            .collect();
        self.files.push(LoadedFile { source, lines });
        self.files.len() as u32 - 1
    }

    /// How many files were added.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// The text of a file.
    pub fn text(&self, file: u32) -> &str {
        &self.files[file as usize].source.text
    }

    /// Position of a file in load order, the last for a name that is not there.
    pub fn order(&self, name: &str) -> usize {
        let found = self.files.iter().position(|it| it.source.name == name);
        found.unwrap_or(self.files.len())
    }

    /// Line and column of a span's first byte.
    pub fn place(&self, span: Span) -> Place {
        let file = &self.files[span.file as usize];
        let line = file.lines.partition_point(|start| *start <= span.start) - 1;
        let before = &file.source.text[file.lines[line] as usize..span.start as usize];
        let column = before.chars().filter(|it| *it != '\u{feff}').count() as u32 + 1;
        Place {
            file: file.source.name.clone(),
            line: line as u32 + 1,
            column,
        }
    }

    /// The line a span starts in, and how many characters of it the span covers.
    pub fn excerpt(&self, span: Span) -> Excerpt {
        let file = &self.files[span.file as usize];
        let text = &file.source.text;
        let line = file.lines.partition_point(|start| *start <= span.start) - 1;
        let start = file.lines[line] as usize;
        let end = file
            .lines
            .get(line + 1)
            .map_or(text.len(), |next| *next as usize);
        let whole = text[start..end].trim_end_matches(['\n', '\r']);
        let part_end = (span.end as usize).clamp(span.start as usize, start + whole.len().max(1));
        let part = text.get(span.start as usize..part_end).unwrap_or("");
        Excerpt {
            line: whole.trim_start_matches('\u{feff}').to_string(),
            width: part.chars().count().max(1) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let mut sources = Sources::default();
        let text = "\u{feff}a = 1\r\nπρος = 2\n\nlast".to_string();
        let file = sources.add(SourceFile {
            name: "x".to_string(),
            text: text.clone(),
        });
        let cases = [
            ("a =", 1, 1, "a = 1"),
            ("2", 2, 8, "προς = 2"),
            ("last", 4, 1, "last"),
        ];
        for (needle, line, column, whole) in cases {
            let start = text.find(needle).expect("in the text") as u32;
            let span = Span {
                file,
                start,
                end: start + needle.len() as u32,
            };
            let place = sources.place(span);
            assert_eq!((place.line, place.column), (line, column), "{needle}");
            assert_eq!(sources.excerpt(span).line, whole);
        }
        let end = text.len() as u32;
        let span = Span {
            file,
            start: end,
            end,
        };
        assert_eq!(sources.place(span).column, 5);
        assert_eq!(sources.excerpt(span).width, 1);
    }
}
