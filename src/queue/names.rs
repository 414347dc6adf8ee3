//! The names of queues: bindings and domains, each kept once, and which queue belongs to a pair.
//! Bindings come from the config and stay; a domain goes with its last queue.

use std::sync::Arc;

use crate::base::map::Map;
use crate::base::map::Set;
use crate::queue::pool::Pool;

#[derive(Default)]
pub struct Names {
    bindings: Set<Arc<str>>,
    domains: Pool<Domain>,
    by_name: Map<Arc<str>, u32>,
}

struct Domain {
    name: Arc<str>,
    /// Its queues with their bindings, in the order of bindings. One of a few, hundreds at most.
    queues: Vec<(u32, u32)>,
}

/// The names of one queue, as indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    pub binding: u32,
    pub domain: u32,
}

impl Names {
    /// O(log bindings of the domain).
    pub fn find(&self, binding: &str, domain: &str) -> Option<u32> {
        let binding = self.bindings.get_index_of(binding)? as u32;
        let queues = self.queues_of(domain);
        let at = queues.binary_search_by_key(&binding, |(of, _)| *of).ok()?;
        Some(queues[at].1)
    }

    /// The queues of a domain as (binding, queue).
    pub fn queues_of(&self, domain: &str) -> &[(u32, u32)] {
        match self.by_name.get(domain) {
            Some(domain) => &self.domains[*domain].queues,
            None => &[],
        }
    }

    /// Interns the names of a new queue.
    pub fn intern(&mut self, binding: &Arc<str>, domain: &str) -> Pair {
        let (binding, _) = self.bindings.insert_full(binding.clone());
        let domain = match self.by_name.get(domain) {
            Some(domain) => *domain,
            None => {
                let name: Arc<str> = domain.into();
                let domain = Domain {
                    name: name.clone(),
                    queues: Vec::new(),
                };
                let index = self.domains.insert(domain).index;
                self.by_name.insert(name, index);
                index
            }
        };
        Pair {
            binding: binding as u32,
            domain,
        }
    }

    /// Gives the names of `pair` to `queue`.
    pub fn add(&mut self, pair: Pair, queue: u32) {
        let queues = &mut self.domains[pair.domain].queues;
        let at = queues.partition_point(|(of, _)| *of < pair.binding);
        queues.insert(at, (pair.binding, queue));
    }

    /// Takes the names of `pair` from its queue.
    pub fn remove(&mut self, pair: Pair) {
        let queues = &mut self.domains[pair.domain].queues;
        queues.retain(|(of, _)| *of != pair.binding);
        if queues.is_empty() {
            let domain = self.domains.remove(pair.domain);
            self.by_name.swap_remove(&domain.name);
        }
    }

    pub fn binding(&self, pair: Pair) -> &Arc<str> {
        self.bindings
            .get_index(pair.binding as usize)
            .expect("bindings are never removed")
    }

    pub fn domain(&self, pair: Pair) -> &Arc<str> {
        &self.domains[pair.domain].name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_and_domains_go_with_their_last_queue() {
        let mut names = Names::default();
        let bindings: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let pairs = [(2, "x.example"), (0, "x.example"), (1, "y.example")];
        let pairs = pairs.map(|(binding, domain)| names.intern(&bindings[binding], domain));
        for (queue, pair) in pairs.into_iter().enumerate() {
            names.add(pair, queue as u32);
        }
        assert_eq!(names.find("c", "x.example"), Some(0));
        assert_eq!(names.find("a", "x.example"), Some(1));
        assert_eq!(names.find("b", "x.example"), None);
        assert_eq!(names.find("z", "x.example"), None);
        assert_eq!(names.queues_of("x.example").len(), 2);
        assert_eq!(
            (&**names.binding(pairs[2]), &**names.domain(pairs[2])),
            ("b", "y.example")
        );
        names.remove(pairs[0]);
        names.remove(pairs[1]);
        assert_eq!(names.find("a", "x.example"), None);
        assert_eq!((names.by_name.len(), names.domains.len()), (1, 1));
    }
}
