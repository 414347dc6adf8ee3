//! Which binding sends a message (`default_binding`, `default_binding_group`, policy). Of a group
//! one binding is drawn per transaction and domain: recipients of one domain then stay together
//! and can go in one delivery. Bindings are numbers here; whoever calls knows their names.

use crate::base::map::Map;
use crate::base::prng::Prng;

/// What policy or config named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<'a> {
    Binding(u32),
    /// The members that may be drawn; the caller has left out what must not be (suspended ones,
    /// unless all are).
    Group(&'a [u32]),
    /// The same where members have shares, one for each; those without one are drawn if all are.
    Weighted(&'a [u32], &'a [u32]),
}

impl<'a> Choice<'a> {
    /// Those that may be drawn of a group.
    pub fn members(self) -> &'a [u32] {
        match self {
            Choice::Binding(_) => &[],
            Choice::Group(members) | Choice::Weighted(members, _) => members,
        }
    }
}

/// The binding named, or one drawn uniformly from the group. Nothing for an empty group.
pub fn choose_binding(choice: Choice<'_>, prng: &mut Prng) -> Option<u32> {
    match choice {
        Choice::Binding(binding) => Some(binding),
        Choice::Group([]) => None,
        Choice::Group(members) => Some(*prng.pick(members)),
        Choice::Weighted(members, weights) => {
            let sum: u64 = weights.iter().copied().map(u64::from).sum();
            if sum == 0 {
                return choose_binding(Choice::Group(members), prng);
            }
            let mut left = prng.below(sum);
            let mut all = members.iter().zip(weights);
            let drawn = all.find(|(_, weight)| {
                let weight = u64::from(**weight);
                let is_it = left < weight;
                left = left.saturating_sub(weight);
                is_it
            });
            drawn.map(|(member, _)| *member)
        }
    }
}

/// The draws of one transaction. To be cleared and used again: it then allocates nothing new.
#[derive(Default, Debug)]
pub struct BindingChooser {
    /// At most one entry per recipient of the transaction.
    drawn: Map<Box<str>, u32>,
}

impl BindingChooser {
    pub fn new() -> BindingChooser {
        BindingChooser::default()
    }

    /// The next transaction begins.
    pub fn clear(&mut self) {
        self.drawn.clear();
    }

    /// The binding for a recipient at `domain` (its routing form). A choice is made the first time
    /// a domain is seen and stands for the transaction, as long as it is one of the choice given.
    pub fn choose(&mut self, domain: &str, choice: Choice<'_>, prng: &mut Prng) -> Option<u32> {
        let members = match choice {
            Choice::Binding(binding) => return Some(binding),
            Choice::Group(members) | Choice::Weighted(members, _) => members,
        };
        if let Some(binding) = self.drawn.get(domain)
            && members.contains(binding)
        {
            return Some(*binding);
        }
        let binding = choose_binding(choice, prng)?;
        self.drawn.insert(domain.into(), binding);
        Some(binding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_keeps_its_binding_for_one_transaction() {
        let mut prng = Prng::new(1);
        let mut chooser = BindingChooser::new();
        let group = Choice::Group(&[1, 2, 3]);
        let mut firsts = [0; 4];
        for _ in 0..600 {
            chooser.clear();
            let first = chooser.choose("a.example", group, &mut prng).unwrap();
            for _ in 0..5 {
                chooser.choose("b.example", group, &mut prng);
                assert_eq!(chooser.choose("a.example", group, &mut prng), Some(first));
            }
            firsts[first as usize] += 1;
        }
        assert!(
            firsts[1..].iter().all(|count| (150..250).contains(count)),
            "{firsts:?}"
        );
        assert_eq!(firsts[0], 0);
    }

    #[test]
    fn two_domains_of_one_transaction_may_differ() {
        let mut prng = Prng::new(2);
        let mut chooser = BindingChooser::new();
        let group = Choice::Group(&[1, 2]);
        let differ = (0..100).filter(|_| {
            chooser.clear();
            let a = chooser.choose("a.example", group, &mut prng);
            a != chooser.choose("b.example", group, &mut prng)
        });
        assert!((20..80).contains(&differ.count()));
    }

    #[test]
    fn members_are_drawn_by_their_weights() {
        let mut prng = Prng::new(4);
        let mut drawn = |weights: [u32; 3]| {
            let mut counts = [0; 3];
            for _ in 0..1_000 {
                let choice = Choice::Weighted(&[0, 1, 2], &weights);
                counts[choose_binding(choice, &mut prng).unwrap() as usize] += 1;
            }
            counts
        };
        let [a, b, c] = drawn([3, 1, 0]);
        assert!(
            (700..800).contains(&a) && b == 1_000 - a && c == 0,
            "{a} {b} {c}"
        );
        assert_eq!(drawn([0, 7, 0]), [0, 1_000, 0]);
        assert!(drawn([0, 0, 0]).iter().all(|count| *count > 250));
    }

    #[test]
    fn a_named_binding_is_taken_and_an_empty_group_gives_none() {
        let mut prng = Prng::new(3);
        let mut chooser = BindingChooser::new();
        assert_eq!(chooser.choose("a", Choice::Binding(7), &mut prng), Some(7));
        assert_eq!(chooser.choose("a", Choice::Group(&[]), &mut prng), None);
        let first = chooser
            .choose("a", Choice::Group(&[1, 2]), &mut prng)
            .unwrap();
        let other = 3 - first;
        assert_eq!(
            chooser.choose("a", Choice::Group(&[other]), &mut prng),
            Some(other)
        );
    }
}
