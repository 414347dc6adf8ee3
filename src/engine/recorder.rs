//! The flight recorder: the transcripts of recent failed attempts, so that the first failure can
//! be read afterwards. A ring bounded in bytes; the oldest go first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::time::Wall;
use crate::engine::query::Transcript;
use crate::types::id::MessageId;

pub struct Flight {
    pub at: Wall,
    pub binding: Arc<str>,
    pub domain: Arc<str>,
    pub host: Box<str>,
    pub message: Option<MessageId>,
    pub lines: Vec<String>,
}

impl Flight {
    fn bytes(&self) -> usize {
        size_of::<Flight>()
            + self
                .lines
                .iter()
                .map(|line| line.capacity() + 24)
                .sum::<usize>()
    }

    fn transcript(&self) -> Transcript {
        Transcript {
            at: self.at.rfc3339().to_string(),
            binding: self.binding.to_string(),
            domain: self.domain.to_string(),
            host: self.host.to_string(),
            message: self.message.map(|id| id.to_string()),
            lines: self.lines.clone(),
        }
    }
}

pub struct Recorder {
    flights: VecDeque<Flight>,
    bytes: usize,
    bytes_max: usize,
}

impl Recorder {
    pub fn new(bytes_max: usize) -> Recorder {
        Recorder {
            flights: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.trim();
    }

    pub fn record(&mut self, flight: Flight) {
        self.bytes += flight.bytes();
        self.flights.push_back(flight);
        self.trim();
    }

    fn trim(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.flights.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// The newest transcript of a queue.
    pub fn of_queue(&self, binding: &str, domain: &str) -> Option<Transcript> {
        let is_it = |flight: &&Flight| &*flight.binding == binding && &*flight.domain == domain;
        self.flights
            .iter()
            .rev()
            .find(is_it)
            .map(Flight::transcript)
    }

    /// All transcripts of a message, oldest first.
    pub fn of_message(&self, id: MessageId) -> Vec<Transcript> {
        let is_it = |flight: &&Flight| flight.message == Some(id);
        self.flights
            .iter()
            .filter(is_it)
            .map(Flight::transcript)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_within_its_bytes() {
        let mut recorder = Recorder::new(2_000);
        for n in 0..100_u64 {
            recorder.record(Flight {
                at: Wall::from_secs(n),
                binding: "a".into(),
                domain: "example.com".into(),
                host: "mx".into(),
                message: None,
                lines: vec![format!("line {n}")],
            });
            assert!(recorder.bytes <= 2_000);
        }
        let newest = recorder.of_queue("a", "example.com").expect("kept");
        assert_eq!(newest.lines, ["line 99"]);
        assert_eq!(recorder.of_queue("b", "example.com"), None);
        assert!(recorder.flights.len() > 5);
    }
}
