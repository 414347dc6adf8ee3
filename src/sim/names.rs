//! The name servers of the run, behind control: they answer late, fail for a while, and change
//! their minds.

use crate::deliver::dns_answer::Addresses;
use crate::deliver::dns_answer::Answer;
use crate::deliver::dns_answer::Exchange;
use crate::deliver::dns_answer::Failure;
use crate::deliver::dns_answer::Found;
use crate::deliver::dns_answer::Kind;
use crate::deliver::dns_answer::Question;
use crate::engine::io::ToShard;
use crate::sim::counts::Fault;
use crate::sim::scenario::PROHIBITED;
use crate::sim::scenario::SECOND;
use crate::sim::scenario::Zone;
use crate::sim::world::Event;
use crate::sim::world::World;

impl World {
    pub fn asks_dns(&mut self, shard: usize, question: Question) {
        let life = self.life();
        let slow = self.switches.dns_fails && self.streams.dns.chance(1, 3);
        let after_us = match slow {
            true => {
                self.ledger.counts.fault(Fault::DnsSlow);
                self.streams.dns.between(SECOND, 15 * SECOND)
            }
            false => self.streams.dns.between(200, 50_000),
        };
        self.plan(
            after_us,
            Event::Resolve {
                life,
                shard,
                question,
            },
        );
    }

    pub fn resolve(&mut self, shard: usize, question: Question) {
        let answer = self.answer_of(&question);
        self.control(shard, ToShard::Resolved { question, answer });
    }

    fn answer_of(&mut self, question: &Question) -> Answer {
        if self.switches.dns_fails && self.streams.dns.chance(2, 3) {
            self.ledger.counts.fault(Fault::DnsFails);
            let failures = [Failure::Server, Failure::Timeout, Failure::AliasLoop];
            let failure = *self.streams.dns.pick(&failures);
            return Answer {
                found: Found::Failed(failure),
                ttl_s: 5,
            };
        }
        let Some(domain) = self.domains.iter().find(|it| it.name == *question.name) else {
            return Answer {
                found: Found::NoName,
                ttl_s: 5,
            };
        };
        let address = |host: &usize| self.scenario.hosts[*host].address;
        let found = match (&domain.zone, question.kind) {
            (Zone::NoName, _) => Found::NoName,
            (Zone::NoData, _) => Found::NoData,
            (Zone::Own(host), _) => Found::Own(vec![address(host)]),
            (Zone::NullMx | Zone::Mx(_) | Zone::Prohibited, Kind::Address) => Found::NoData,
            (Zone::NullMx, Kind::Mx) => Found::Exchanges(vec![Exchange {
                preference: 0,
                host: "".into(),
                addresses: Addresses::None,
            }]),
            (Zone::Prohibited, Kind::Mx) => Found::Exchanges(vec![Exchange {
                preference: 5,
                host: "inside.example".into(),
                addresses: Addresses::Found(vec![PROHIBITED.into()]),
            }]),
            (Zone::Mx(exchanges), Kind::Mx) => {
                let exchange = |(preference, host): &(u16, usize)| Exchange {
                    preference: *preference,
                    host: self.scenario.hosts[*host].name.as_str().into(),
                    addresses: Addresses::Found(vec![address(host)]),
                };
                let mut all: Vec<Exchange> = exchanges.iter().map(exchange).collect();
                all.sort_by_key(|it| it.preference);
                Found::Exchanges(all)
            }
        };
        let ttl_s = domain.ttl_s;
        Answer { found, ttl_s }
    }

    /// A domain moves to other hosts.
    pub fn dns_changes(&mut self) {
        self.ledger.counts.fault(Fault::DnsChanges);
        let hosts = self.scenario.hosts.len() as u64;
        let place = self.streams.dns.below(self.domains.len() as u64) as usize;
        let host = self.streams.dns.below(hosts) as usize;
        let domain = &mut self.domains[place];
        if let Zone::Mx(_) | Zone::Own(_) = domain.zone {
            domain.zone = Zone::Mx(vec![(10, host)]);
        }
    }
}
