//! The senders of the messages here. The text of each is kept once, as long as a message has it and
//! there is room; of the others there is the hash, which each message has anyway.

use std::sync::Arc;

use crate::base::map::Entry;
use crate::base::map::Map;
use crate::types::sender::Sender;
use crate::types::sender::SenderFact;
use crate::types::sender::SenderHash;

/// The sender of a message: the bits of its hash, and one that says whether it is counted here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderId(u64);

const KEPT: u64 = 1;

impl SenderId {
    fn hash(self) -> SenderHash {
        SenderHash::from_bits(self.0)
    }

    fn is_kept(self) -> bool {
        self.0 & KEPT != 0
    }
}

struct Kept {
    text: Arc<str>,
    messages: u32,
}

pub struct SenderTable {
    kept: Map<SenderHash, Kept>,
    kept_max: usize,
}

impl SenderTable {
    pub fn new(kept_max: usize) -> SenderTable {
        SenderTable {
            kept: Map::default(),
            kept_max,
        }
    }

    /// What is kept already stays.
    pub fn set_max(&mut self, kept_max: usize) {
        self.kept_max = kept_max;
    }

    /// One more message of a sender, with its text if that is at hand.
    pub fn enter(&mut self, sender: &Sender, text: Option<&str>) -> SenderId {
        let hash = sender.hash();
        if hash == SenderHash::NULL {
            return SenderId(hash.bits());
        }
        let room = self.kept.len() < self.kept_max;
        let text = match sender {
            Sender::Text(text) => Some(&**text),
            Sender::Hash(_) => text,
        };
        let kept = SenderId(hash.bits() | KEPT);
        match (self.kept.entry(hash), text) {
            (Entry::Occupied(mut place), text) => {
                let known = place.get_mut();
                // Two with one hash: only the first has its text here.
                let same = text.is_none_or(|it| it.eq_ignore_ascii_case(&known.text));
                if same && known.messages < u32::MAX {
                    known.messages += 1;
                    return kept;
                }
            }
            (Entry::Vacant(place), Some(text)) if room => {
                let text = match sender {
                    Sender::Text(text) => text.clone(),
                    Sender::Hash(_) => text.into(),
                };
                place.insert(Kept { text, messages: 1 });
                return kept;
            }
            (Entry::Vacant(_), _) => {}
        }
        SenderId(hash.bits())
    }

    /// One message less. A text goes with the last message that has it.
    pub fn leave(&mut self, id: SenderId) {
        if !id.is_kept() {
            return;
        }
        if let Entry::Occupied(mut place) = self.kept.entry(id.hash()) {
            place.get_mut().messages -= 1;
            if place.get().messages == 0 {
                place.swap_remove();
            }
        }
    }

    pub fn fact(&self, id: SenderId) -> SenderFact<'_> {
        match self.text(id) {
            Some(text) => SenderFact::Text(text),
            None if id.hash() == SenderHash::NULL => SenderFact::Text(""),
            None => SenderFact::Hash(id.hash()),
        }
    }

    pub fn sender(&self, id: SenderId) -> Sender {
        match self.text(id) {
            Some(text) => Sender::Text(text.clone()),
            None => Sender::Hash(id.hash()),
        }
    }

    fn text(&self, id: SenderId) -> Option<&Arc<str>> {
        let kept = id.is_kept().then(|| self.kept.get(&id.hash()))?;
        Some(&kept?.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_goes_with_its_last_message() {
        let mut table = SenderTable::new(10);
        let text = |text: &str| Sender::Text(text.into());
        let hash = |text: &str| Sender::Hash(SenderHash::of(text));
        let one = table.enter(&text("a@b"), None);
        let same = table.enter(&hash("A@b"), Some("A@b"));
        let bare = table.enter(&hash("a@b"), None);
        assert_eq!((one, one), (same, bare));
        assert_eq!(table.fact(one), SenderFact::Text("a@b"));
        assert_eq!(table.sender(one), text("a@b"));
        for _ in 0..2 {
            table.leave(one);
            assert_eq!(table.fact(one), SenderFact::Text("a@b"));
        }
        table.leave(one);
        assert!(table.kept.is_empty());
        let unknown = table.enter(&hash("a@b"), None);
        assert_eq!(table.fact(unknown), SenderFact::Hash(SenderHash::of("a@b")));
        let known = table.enter(&hash("a@b"), Some("a@b"));
        table.leave(unknown);
        assert_eq!(table.fact(known), SenderFact::Text("a@b"), "not counted");
        let null = table.enter(&text(""), None);
        assert_eq!(table.fact(null), SenderFact::Text(""));
        table.leave(null);
    }

    #[test]
    fn too_many_senders_have_hashes_and_so_have_two_with_one_hash() {
        let mut table = SenderTable::new(10);
        let clash = SenderHash::of("a@b");
        let first = table.enter(&Sender::Hash(clash), Some("a@b"));
        let second = table.enter(&Sender::Hash(clash), Some("other@b"));
        assert_eq!(table.fact(second), SenderFact::Hash(clash));
        table.leave(second);
        assert_eq!(table.fact(first), SenderFact::Text("a@b"));
        for number in 0..20 {
            let text: Arc<str> = format!("{number}@c").into();
            table.enter(&Sender::Text(text), None);
        }
        assert_eq!(table.kept.len(), 10);
        let late = table.enter(&Sender::Text("late@c".into()), None);
        assert_eq!(table.fact(late), SenderFact::Hash(SenderHash::of("late@c")));
    }
}
