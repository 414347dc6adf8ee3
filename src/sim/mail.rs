//! The mail of a run: who writes to whom, and what. Every message is a function of the seed and
//! its number, and names itself in its header and in the address of each recipient.

use crate::base::prng::Prng;
use crate::sim::ledger::Ledger;
use crate::sim::ledger::Message;
use crate::sim::ledger::Recipient;
use crate::types::flow::CLASS_DEFAULT;
use crate::types::flow::FlowNames;

/// A class that the config of every run defines beside the built-in ones.
pub const CLASS_OWN: &str = "news";

/// Its share, in percent.
pub const SHARE_OWN: u32 = 30;

/// Recipients of one message.
pub const RECIPIENTS_MAX: u64 = 9;

pub struct Writer {
    domains: Vec<String>,
    prng: Prng,
}

impl Writer {
    pub fn new(seed: u64, domains: Vec<String>) -> Writer {
        Writer {
            domains,
            prng: Prng::stream(seed, "mail"),
        }
    }

    /// Writes one more message into the ledger; gives its number.
    pub fn write(&mut self, ledger: &mut Ledger) -> usize {
        let number = ledger.messages.len();
        let prng = &mut self.prng;
        let recipients = match prng.chance(2, 3) {
            true => 1,
            false => prng.between(2, RECIPIENTS_MAX),
        };
        let one_domain = prng.chance(1, 2);
        let domain = prng.pick(&self.domains).clone();
        let recipients: Vec<Recipient> = (0..recipients)
            .map(|index| {
                let domain = match one_domain {
                    true => &domain,
                    false => prng.pick(&self.domains),
                };
                let address = format!("r{index}.m{number}@{domain}");
                Recipient::new(address)
            })
            .collect();
        let eight_bit = prng.chance(1, 10);
        let sender = match prng.chance(1, 15) {
            true => String::new(),
            false => format!("s{number}@sender.example"),
        };
        let content = content(prng, number, eight_bit);
        ledger
            .messages
            .push(Message::new(sender, recipients, content, eight_bit));
        number
    }
}

/// What a message says of its flow, a function of its number: the header fields, which the engine
/// takes out, and what it is to make of them.
pub fn flow(number: usize) -> (String, FlowNames<'static>) {
    let class = ["", "Transactional", CLASS_OWN, "misspelt", "bulk"][number % 5];
    let tenant = ["", "acme", "b & c", "\u{f6}rtlich"][number / 5 % 4];
    let campaign = ["", "spring sale"][number / 20 % 2];
    let fields = [
        ("X-Pelton-Class", class),
        ("X-Tenant", tenant),
        ("X-Campaign", campaign),
    ];
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    let class = match class {
        "Transactional" => "transactional",
        CLASS_OWN => CLASS_OWN,
        _ => CLASS_DEFAULT,
    };
    let names = FlowNames {
        class,
        tenant,
        campaign,
    };
    let head = fields.map(|(name, value)| format!("{name}: {value}\r\n"));
    (head.collect(), names)
}

fn content(prng: &mut Prng, number: usize, eight_bit: bool) -> Vec<u8> {
    let mut text = format!(
        "X-Simulated: {number}\r\nSubject: message {number}\r\nFrom: <s{number}@sender.example>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: {}\r\n\r\n",
        if eight_bit { "8bit" } else { "7bit" },
    )
    .into_bytes();
    let bytes = text.len()
        + match prng.below(40) {
            0 => prng.between(10_000, 90_000),
            1..=9 => prng.between(1_000, 8_000),
            _ => prng.between(0, 700),
        } as usize;
    while text.len() < bytes {
        match prng.below(12) {
            0 => text.extend_from_slice(b"."),
            1 => text.extend_from_slice(b".."),
            2 => text.extend_from_slice(b"."),
            3 if eight_bit => text.extend_from_slice("größer".as_bytes()),
            _ => {}
        }
        let words = prng.below(4) * 19;
        for _ in 0..words {
            text.push(b'a' + (text.len() % 26) as u8);
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}
