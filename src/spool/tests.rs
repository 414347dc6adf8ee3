//! Homes on a disk that fails: what was promised is there after every crash, and nothing else.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::prng::Prng;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::log::SyncMode;
use crate::types::address::Address;
use crate::types::flow::FlowNames;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Content;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::message::Progress;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;
use crate::types::outcome::OutcomeKind;
use crate::types::outcome::Remote;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

mod crash;
mod damage;
mod records;
mod space;
mod world;

fn now(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000),
        wall: Wall::from_secs(1_700_000_000) + core::time::Duration::from_millis(ms),
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

/// A message whose every field depends on the batch.
fn message(prng: &mut Prng, batch: BatchId, body_bytes: usize) -> (Content, Vec<Recipient>) {
    let body: Vec<u8> = (0..body_bytes).map(|_| prng.next() as u8).collect();
    let peer = if prng.chance(1, 2) {
        "127.0.0.9"
    } else {
        "::1"
    };
    let content = Content {
        batch,
        received: now(prng.below(1_000_000)).wall,
        origin: Origin {
            peer: peer.parse().expect("an address"),
            helo: format!("client-{batch}.example").into(),
            method: if prng.chance(1, 2) {
                Method::Esmtp
            } else {
                Method::Smtp
            },
        },
        sender: prng
            .chance(3, 4)
            .then(|| address(&format!("sender-{batch}@example.net"))),
        eight_bit: prng.chance(1, 2),
        smtputf8: prng.chance(1, 2),
        subject: format!("About {batch} \u{e4}").into(),
        friendly_from: "".into(),
        flow: [
            None,
            Some(("", "acme", "spring \u{e4}")),
            Some(("transactional", "", "")),
        ][(batch.0 % 3) as usize]
            .and_then(|(class, tenant, campaign)| {
                let names = FlowNames {
                    class,
                    tenant,
                    campaign,
                };
                names.flow()
            }),
        body: Bytes::from(body),
    };
    let count = if prng.chance(1, 3) {
        prng.between(2, 9)
    } else {
        1
    };
    let recipient = |index: u64| Recipient {
        address: address(&format!("r{index}-{batch}@example.com")),
        binding: Arc::from(["a", "b", "vip"][(index % 3) as usize]),
    };
    (content, (0..count).map(recipient).collect())
}

fn outcome(prng: &mut Prng, message: MessageId, attempts: u16, terminal: bool) -> Outcome {
    let at = now(prng.below(1_000_000)).wall;
    let due = at + core::time::Duration::from_secs(prng.below(100_000));
    let kinds = [
        OutcomeKind::Delivered,
        OutcomeKind::Bounced,
        OutcomeKind::Expired,
        OutcomeKind::Discarded,
    ];
    let kind = if terminal {
        prng.pick(&kinds).clone()
    } else if prng.chance(1, 3) {
        let to = *prng.pick(&["a", "c", "moved \u{e4}"]);
        OutcomeKind::Rebound { due, to: to.into() }
    } else {
        OutcomeKind::Delayed { due }
    };
    let remote = prng.chance(2, 3).then(|| Remote {
        host: "mx.example.com".into(),
        ip: "127.0.0.5".parse().expect("an address"),
        local: prng
            .chance(1, 2)
            .then(|| "::1".parse().expect("an address")),
    });
    Outcome {
        message,
        kind,
        attempts,
        at,
        reply: Reply::remote(
            450,
            prng.chance(1, 2).then_some(Enhanced(4, 2, 1)),
            "busy \u{e9}",
        ),
        stage: *prng.pick(&Stage::ALL),
        remote,
        possible_duplicate: prng.chance(1, 9),
    }
}
