//! What the engines tell in their event log: which attempts they have counted as failed, and which
//! messages they have given up.

use crate::practice::load;
use crate::practice::report::Ended;
use crate::practice::report::Retry;
use crate::sim::practice::world::World;

impl World {
    /// The reader of the event log takes what has become durable.
    pub fn read_events(&mut self) {
        for line in self.events.take_lines() {
            if line.starts_with("{\"type\":\"delay\"") {
                self.delayed(&line);
            } else if line.starts_with("{\"type\":\"bounce\"") {
                self.given_up(&line);
            }
        }
    }

    fn delayed(&mut self, line: &str) {
        let Some(number) = number_in(line) else {
            return;
        };
        let Some(mail) = self.mail.get(number) else {
            return;
        };
        let binding = text_in(line, "\"binding\":\"");
        let binding =
            binding.and_then(|name| self.scenario.bindings.iter().position(|it| it.name == name));
        self.retries.push(Retry {
            provider: mail.provider as usize,
            binding,
            at_us: self.now_us,
        });
    }

    fn given_up(&mut self, line: &str) {
        let mail = number_in(line).and_then(|number| self.mail.get_mut(number));
        if let Some(mail) = mail.filter(|it| it.ended.is_none()) {
            mail.ended = Some(Ended::Lost);
        }
    }
}

fn number_in(line: &str) -> Option<usize> {
    let recipient = text_in(line, "\"rcpt_to\":\"")?;
    load::number_of(recipient.as_bytes()).map(|it| it as usize)
}

/// A text value that has no escapes in it.
fn text_in<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let at = memchr::memmem::find(line.as_bytes(), key.as_bytes())? + key.len();
    let rest = &line[at..];
    rest.split('"').next()
}
