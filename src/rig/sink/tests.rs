//! The session without sockets: segmentation, captures, waits.

use core::time::Duration;

use super::behaviour::Behaviours;
use super::capture::Record;
use super::counts::Counts;
use super::judge::Judge;
use super::session::Extensions;
use super::session::Profile;
use super::session::Session;
use super::session::Step;
use super::session::Surroundings;
use crate::base::prng::Prng;
use crate::rig::base64;

/// A sink of one connection under a clock that only waits move.
struct World {
    profile: Profile,
    judge: Judge,
    prng: Prng,
    counts: Counts,
    records: Vec<u8>,
    out: Vec<u8>,
    now_us: u64,
    session: Session,
}

impl World {
    fn new(rules: &str) -> World {
        let behaviours = Behaviours::parse(rules).expect("good rules");
        let judge = Judge::new(&behaviours);
        let peer = "127.0.0.1:4000".parse().expect("an address");
        let local = "127.0.0.1:25".parse().expect("an address");
        World {
            profile: Profile::new("sink.example", Extensions::default(), 10_000, behaviours),
            judge,
            prng: Prng::new(1),
            counts: Counts::default(),
            records: Vec::new(),
            out: Vec::new(),
            now_us: 0,
            session: Session::new(peer, local),
        }
    }

    fn step(&mut self, input: &[u8]) -> Step {
        let mut around = Surroundings {
            now_us: self.now_us,
            wall_us: 0,
            profile: &self.profile,
            judge: &self.judge,
            prng: &mut self.prng,
            counts: &mut self.counts,
            capture: Some(&mut self.records),
            out: &mut self.out,
        };
        self.session.feed(input, &mut around)
    }

    /// Feeds `pieces` one after the other and serves every wait.
    fn run(&mut self, pieces: &[&[u8]]) -> Step {
        let mut step = self.step(b"");
        for piece in pieces {
            step = self.settle(step);
            if step != Step::Read {
                break;
            }
            step = self.step(piece);
        }
        self.settle(step)
    }

    fn settle(&mut self, mut step: Step) -> Step {
        while let Step::Wait(wait) = step {
            self.now_us += wait.as_micros() as u64;
            step = self.step(b"");
        }
        step
    }

    fn records(&self) -> Vec<Record> {
        let lines = self
            .records
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).expect("a record"))
            .collect()
    }
}

const SESSION: &[u8] =
    b"EHLO a\r\nMAIL FROM:<s@x.example> SIZE=20\r\nRCPT TO:<\"a>b\"@D.example>\r\n\
    RCPT TO:<c@e.example>\r\nDATA\r\n..x\r\n\r\n.\n.\r\r\ny\r\n.\r\nMAIL FROM:<>\r\n\
    RCPT TO:<d@d.example>\r\nBDAT 5\r\n.\r\n.\rBDAT 2 LAST\r\n\r\nQUIT\r\n";

#[test]
fn a_session_cut_anywhere_gives_the_same_replies_and_messages() {
    for rules in [
        "",
        "domain d.example delay=1s\ndomain e.example at=dot delay=1s",
    ] {
        let mut whole = World::new(rules);
        assert_eq!(whole.run(&[SESSION]), Step::Close);
        let messages: Vec<_> = whole.records();
        assert_eq!(messages[0].rcpts, ["\"a>b\"@D.example", "c@e.example"]);
        let bodies = messages
            .iter()
            .map(|record| base64::decode(record.body.as_bytes()));
        let bodies: Vec<_> = bodies.map(|body| body.expect("base64")).collect();
        assert_eq!(bodies, [&b".x\r\n\r\n\n.\r\r\ny\r\n"[..], b".\r\n.\r\r\n"]);
        for cut in 1..SESSION.len() {
            let mut world = World::new(rules);
            let step = world.run(&[&SESSION[..cut], &SESSION[cut..]]);
            assert_eq!(step, Step::Close, "cut at {cut}");
            assert_eq!(world.out, whole.out, "cut at {cut}");
            assert_eq!(world.records, whole.records, "cut at {cut}");
            assert_eq!(world.now_us, whole.now_us, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = SESSION.chunks(1).collect();
        let mut world = World::new(rules);
        world.run(&bytes);
        assert_eq!((&world.out, world.records()), (&whole.out, messages));
    }
}

#[test]
fn nothing_is_answered_before_its_wait_has_passed() {
    let mut world = World::new("domain d.example delay=2s reply=\"450 later\"");
    world.step(b"");
    world.out.clear();
    let step = world.step(b"MAIL FROM:<>\r\nRCPT TO:<a@d.example>\r\nNOOP\r\n");
    assert_eq!(step, Step::Wait(Duration::from_secs(2)));
    assert_eq!(world.out, b"250 2.1.0 sender ok\r\n");
    world.out.clear();
    assert_eq!(world.step(b""), Step::Read);
    assert_eq!(world.out, b"450 later\r\n250 2.0.0 nothing done\r\n");
    assert_eq!(world.counts.domain("d.example").deferred, 1);
}

#[test]
fn a_message_dropped_after_the_dot_is_recorded_without_a_reply() {
    let mut world = World::new("domain d.example at=dot close");
    let input = b"MAIL FROM:<>\r\nRCPT TO:<a@d.example>\r\nDATA\r\nx\r\n.\r\nNOOP\r\n";
    assert_eq!(world.run(&[input]), Step::Drop);
    assert!(world.out.ends_with(b"354 go ahead\r\n"));
    assert_eq!(
        world
            .records()
            .iter()
            .map(|record| record.final_reply)
            .collect::<Vec<_>>(),
        [false]
    );
    assert_eq!(
        (world.counts.messages, world.counts.dropped_after_dot),
        (0, 1)
    );
}

#[test]
fn a_connection_that_ends_inside_a_transaction_is_counted_and_leaves_its_limits() {
    let mut world = World::new("domain d.example connections=1");
    world.run(&[b"MAIL FROM:<>\r\nRCPT TO:<a@d.example>\r\nDATA\r\nx"]);
    world.session.end(&world.judge, &mut world.counts);
    assert_eq!(world.counts.lost_in_transaction, 1);
    let mut again = World {
        judge: world.judge,
        ..World::new("domain d.example connections=1")
    };
    again.run(&[b"MAIL FROM:<>\r\nRCPT TO:<a@d.example>\r\n"]);
    assert_eq!(again.counts.domain("d.example").recipients, 1);
}

#[test]
fn noise_never_panics_and_memory_stays_bounded() {
    let words: [&[u8]; 14] = [
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<\"",
        b">\r\n",
        b"RCPT TO:<c@d.example>\r\n",
        b"DATA\r\n",
        b"\r\n.\r\n",
        b".",
        b"BDAT 7\r\n",
        b"BDAT 0 LAST\r\n",
        b"RSET\r\n",
        b"\0\xff",
        b"EHLO\r\n",
        b"\n",
        b"MAIL FROM:<> SIZE=\xff\r\n",
    ];
    for seed in 0..300 {
        let mut prng = Prng::new(seed);
        let mut world = World::new("domain d.example at=dot reply=\"450 x\" chance=0.5 delay=1s");
        let mut step = world.step(b"");
        for _ in 0..300 {
            step = world.settle(step);
            if step != Step::Read {
                break;
            }
            step = world.step(prng.pick::<&[u8]>(&words));
        }
        assert!(world.counts.messages as usize >= world.records().len());
    }
}
