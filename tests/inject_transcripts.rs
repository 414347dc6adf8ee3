//! Whole sessions as transcripts: what goes over the wire, and what is stored.

mod inject_rig;

use std::fmt::Write;
use std::path::Path;

use inject_rig::Rig;
use inject_rig::settings;

/// `C:` lines are sent with CR LF (consecutive ones in one segment), `S:` lines are the replies,
/// `M:` lines are what was stored, `X` is the end of the connection. `peer ADDRESS` as the first
/// line says who the client is. With `PELTON_GOLDEN=write` the answers are written anew.
#[test]
fn transcripts_are_as_they_were_agreed() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "smtp"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 6, "the transcripts are there");
    for path in paths {
        let agreed = std::fs::read_to_string(&path).unwrap();
        let given = replay(&agreed);
        if std::env::var("PELTON_GOLDEN").is_ok_and(|it| it == "write") {
            std::fs::write(&path, &given).unwrap();
        } else {
            assert_eq!(given, agreed, "{}", path.display());
        }
    }
}

fn replay(transcript: &str) -> String {
    let (head, talk_lines) = transcript
        .split_once("\n\n")
        .expect("a head, an empty line, a talk");
    let peer = head
        .lines()
        .find_map(|line| line.strip_prefix("peer "))
        .expect("who the client is");
    let mut rig = Rig::new(peer, settings());
    let mut given = format!("{head}\n\n");
    let mut segment = String::new();
    for line in talk_lines.lines() {
        if let Some(command) = line.strip_prefix("C:") {
            segment.push_str(command.strip_prefix(' ').unwrap_or(command));
            segment.push_str("\r\n");
        } else {
            talk(&mut rig, &mut segment, &mut given);
        }
        if !(line.starts_with("S:") || line.starts_with("M:") || line == "X") {
            writeln!(given, "{line}").unwrap();
        }
    }
    talk(&mut rig, &mut segment, &mut given);
    given
}

fn talk(rig: &mut Rig, segment: &mut String, given: &mut String) {
    let was_closed = rig.is_closed;
    rig.feed(core::mem::take(segment).as_bytes());
    let sent = String::from_utf8(core::mem::take(&mut rig.sent)).unwrap();
    for submission in core::mem::take(&mut rig.submissions) {
        let sender = submission
            .sender
            .as_ref()
            .map_or("", |sender| sender.as_str());
        write!(given, "M: from <{sender}>").unwrap();
        for recipient in &submission.recipients {
            write!(given, " to {:?}", recipient.address).unwrap();
        }
        given.push('\n');
        for line in submission.body.split_inclusive(|byte| *byte == b'\n') {
            writeln!(given, "M: | {}", line.escape_ascii()).unwrap();
        }
    }
    for line in sent.split_terminator("\r\n") {
        writeln!(given, "S: {line}").unwrap();
    }
    if rig.is_closed && !was_closed {
        given.push_str("X\n");
    }
}
