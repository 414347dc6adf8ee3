//! What engines want done is done: the whole surface between an engine and its surroundings, once
//! more, in a world that can be trusted with nothing.

use core::net::IpAddr;
use core::net::SocketAddr;
use std::sync::Arc;

use crate::engine::io::Action;
use crate::engine::io::Adapted;
use crate::engine::io::ConnId;
use crate::engine::io::DialError;
use crate::engine::io::Input;
use crate::engine::io::MeshMessage;
use crate::engine::io::Settled;
use crate::engine::io::Side;
use crate::engine::io::ToControl;
use crate::hose::HoseOp;
use crate::log::DiskOp;
use crate::log::OpId;
use crate::sim::counts::Act;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::net::Conn;
use crate::sim::net::Stage;
use crate::sim::peers::Peer;
use crate::sim::planted::Planted;
use crate::sim::scenario::ADAPTIVE_RATE_MIN;
use crate::sim::scenario::SECOND;
use crate::sim::trace::digest;
use crate::sim::world::End;
use crate::sim::world::Event;
use crate::sim::world::World;
use crate::types::message::Arrival;
use crate::types::message::Content;
use crate::types::outcome::OutcomeKind;

impl World {
    /// Gives an engine an input and does what it wants done.
    pub fn handle(&mut self, shard: usize, input: Input<'_>) {
        let now = self.now();
        let Some(process) = &mut self.process else {
            return;
        };
        if !process.runs(shard) {
            return;
        }
        process.engines[shard].handle(now, input, &mut process.outbox);
        self.check_throttles();
        self.perform(shard);
        self.check_waits();
    }

    pub fn perform(&mut self, shard: usize) {
        let Some(process) = &mut self.process else {
            return;
        };
        let mut actions = process.outbox.take();
        for action in actions.drain(..) {
            self.perform_one(shard, action);
        }
        if let Some(process) = &mut self.process {
            process.outbox.reuse(actions);
        }
        self.plan_tick(shard);
    }

    fn plan_tick(&mut self, shard: usize) {
        let life = self.life();
        let now_us = self.now_us;
        let Some(process) = &mut self.process else {
            return;
        };
        if !process.runs(shard) {
            return;
        }
        let Some(next) = process.engines[shard].next_wakeup() else {
            return;
        };
        let at_us = next.0.saturating_sub(process.mono_ahead_us).max(now_us + 1);
        if process.ticks[shard].is_none_or(|planned| at_us < planned) {
            process.ticks[shard] = Some(at_us);
            self.schedule
                .plan(at_us, Event::Tick { life, shard, at_us });
        }
    }

    fn perform_one(&mut self, shard: usize, action: Action) {
        match action {
            Action::Send { conn, bytes } => {
                self.act(Act::Send, shard, digest(&bytes));
                self.send(shard, conn, bytes);
            }
            Action::SendShared { conn, bytes } => {
                self.act(Act::SendShared, shard, digest(&bytes));
                self.send(shard, conn, bytes.to_vec());
                if let Some(number) = self.conn_of(shard, conn)
                    && let Some(end) = &mut self.ends[number]
                {
                    end.shared = true;
                }
            }
            Action::Resume { conn } => {
                self.act(Act::Resume, shard, conn.key.to_bits());
                if let Some(conn) = self.conn_of(shard, conn) {
                    self.plan_to_engine(conn);
                }
            }
            Action::Close { conn } => {
                self.act(Act::Close, shard, conn.key.to_bits());
                self.close(shard, conn);
            }
            Action::Abort { conn } => {
                self.act(Act::Abort, shard, conn.key.to_bits());
                if let Some(conn) = self.conn_of(shard, conn) {
                    self.abort(conn);
                }
            }
            Action::Dial {
                conn,
                remote,
                source,
            } => {
                self.act(Act::Dial, shard, conn.key.to_bits());
                self.dial(shard, conn, remote, source);
            }
            Action::Spool(op) => self.begin_spool(shard, op),
            Action::Hose(op) => self.begin_hose(shard, op),
            Action::Read { read, at } => {
                self.act(Act::ReadBody, shard, at.offset);
                let done_us = self.disk.begin_read(self.now_us, shard, read, at);
                let life = self.life();
                let event = Event::ReadDone { life, shard, read };
                self.schedule.plan(done_us, event);
            }
            Action::Mesh { to, message } => self.mesh_sends(shard, to.index(), message),
            Action::Control(message) => self.at_control(shard, message),
            Action::StopListening => {
                self.act(Act::StopListening, shard, 0);
                if let Some(process) = &mut self.process {
                    process.listening[shard] = false;
                }
            }
        }
    }

    fn act(&mut self, act: Act, shard: usize, value: u64) {
        self.ledger.counts.act(act);
        let code = 100 + act as u64;
        self.note(code, value ^ ((shard as u64) << 60), || {
            format!("{shard} {act:?} {value:x}")
        });
    }

    pub fn conn_of(&self, shard: usize, id: ConnId) -> Option<usize> {
        self.process
            .as_ref()
            .and_then(|process| process.conns.get(&(shard, id)).copied())
    }

    /// Makes a connection known under the name that the engine gave it.
    pub fn connect(&mut self, shard: usize, id: ConnId, stage: Stage, peer: Peer) -> usize {
        let conn = Conn::new(shard, id, stage, &mut self.streams.net);
        if conn.cut == crate::sim::net::Cut::Tiny {
            self.ledger.counts.fault(Fault::TinySegments);
        }
        let number = self.ends.len();
        self.ends.push(Some(Box::new(End {
            conn,
            peer,
            admitted: false,
            stalled: false,
            shared: false,
            told_ended: false,
        })));
        if let Some(process) = &mut self.process {
            let before = process.conns.insert((shard, id), number);
            assert!(before.is_none(), "a connection's name is its own");
        }
        number
    }

    fn send(&mut self, shard: usize, id: ConnId, mut bytes: Vec<u8>) {
        let Some(number) = self.conn_of(shard, id) else {
            return;
        };
        if id.side == Side::Out && self.is_planted(Planted::ChangedByte, 20) {
            change_a_byte(&mut bytes);
        }
        self.note(3, number as u64, || {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned();
            format!("conn {number} <- engine {shown:?}")
        });
        if bytes.starts_with(b"220 ") && id.side == Side::In {
            self.admitted(number);
        }
        self.check_counted(number, &bytes);
        self.check_orders(shard, number, &bytes);
        let now_us = self.now_us;
        let extra_us = self.unseeded();
        let Some(end) = &mut self.ends[number] else {
            return;
        };
        if end.conn.stage == Stage::Open {
            let ready_us = now_us + end.conn.latency_us + extra_us;
            end.conn.to_peer.push(ready_us, bytes, None);
            self.plan_to_peer(number);
        }
    }

    /// Nothing, unless the planted bug wants an order that no seed decides.
    fn unseeded(&mut self) -> u64 {
        match self.planted {
            Some(Planted::HashOrder) => ahash::RandomState::new().hash_one(self.now_us) % 50,
            _ => 0,
        }
    }

    fn close(&mut self, shard: usize, id: ConnId) {
        let Some(number) = self.conn_of(shard, id) else {
            return;
        };
        let Some(end) = &mut self.ends[number] else {
            return;
        };
        if end.conn.stage == Stage::Open {
            end.conn.stage = Stage::Closing;
            end.conn.to_peer.ended = true;
            self.plan_to_peer(number);
            self.plan_to_engine(number);
        }
    }

    fn dial(&mut self, shard: usize, id: ConnId, remote: SocketAddr, source: Option<IpAddr>) {
        let bound = self
            .scenario
            .bindings
            .iter()
            .any(|it| Some(it.address) == source);
        self.ledger.check(Check::SourceAddress, bound, || {
            format!("a connection from {source:?}, which is no binding's")
        });
        let hosts = &self.scenario.hosts;
        let host = hosts.iter().position(|it| it.address == remote.ip());
        self.ledger.check(
            Check::SourceAddress,
            host.is_some() && remote.port() == 25,
            || format!("a connection to {remote}, which is no host's"),
        );
        let (Some(host), Some(source)) = (host, source) else {
            return;
        };
        let number = self.connect(
            shard,
            id,
            Stage::Dialing,
            Peer::dialed(host, source, self.now_us),
        );
        self.check_outgoing(number, host);
        let trouble = [
            (1_500, Fault::DialRefused),
            (600, Fault::DialTimedOut),
            (600, Fault::DialUnreachable),
            (200, Fault::DialExhausted),
        ];
        let failed = trouble
            .into_iter()
            .find(|(parts, fault)| self.trouble(*parts, *fault));
        let error = match failed {
            // Nobody ever answers; the engine's patience ends it.
            Some((_, Fault::DialTimedOut)) => return,
            Some((_, Fault::DialRefused)) => Some(DialError::Refused),
            Some((_, Fault::DialUnreachable)) => Some(DialError::Unreachable),
            Some(_) => Some(DialError::Exhausted),
            None => None,
        };
        if let Some(end) = &mut self.ends[number] {
            end.peer.fails_with(error);
        }
        let after_us = self.streams.net.between(100, 20_000);
        self.plan(after_us, Event::Dialed(number));
    }

    fn begin_spool(&mut self, shard: usize, op: DiskOp) {
        let act = match &op {
            DiskOp::Commit { .. } => Act::SpoolCommit,
            DiskOp::Sync { .. } => Act::SpoolSync,
            DiskOp::Prepare { recycle, .. } if recycle.is_some() => Act::SpoolRecycle,
            DiskOp::Prepare { .. } => Act::SpoolPrepare,
            DiskOp::Seal { .. } => Act::SpoolSeal,
            DiskOp::Rename { .. } => Act::SpoolRename,
            DiskOp::Remove { .. } => Act::SpoolRemove,
            DiskOp::Read { .. } => Act::SpoolRead,
        };
        let value = match &op {
            DiskOp::Commit { bytes, .. } => digest(bytes),
            other => other.op().0,
        };
        self.act(act, shard, value);
        self.note(12, 0, || format!("{shard} {}", told(&op)));
        let number = op.op();
        if let Some(process) = &mut self.process {
            match act {
                Act::SpoolCommit => process.commits.insert((shard, number)),
                Act::SpoolPrepare | Act::SpoolRecycle => {
                    process.preparations.insert((shard, number))
                }
                Act::SpoolSync => process.syncs.insert((shard, number)),
                _ => false,
            };
        }
        let done_us = self.disk.begin(self.now_us, shard, op);
        let life = self.life();
        let crashes = match &mut self.process {
            Some(process) if act == Act::SpoolCommit => process.crashes_next.take(),
            _ => None,
        };
        if let Some(power) = crashes {
            let at_us = self.streams.life.between(self.now_us, done_us);
            self.schedule.plan(at_us, Event::Crash { life, power });
        }
        let event = Event::DiskDone {
            life,
            shard,
            op: number,
        };
        self.schedule.plan(done_us, event);
    }

    pub fn disk_done(&mut self, shard: usize, op: OpId) {
        let completion = self
            .disk
            .end(self.now_us, shard, op, &mut self.ledger.counts);
        let well = completion.result.is_ok();
        let is_commit = match &mut self.process {
            Some(process) => {
                let is_commit = process.commits.remove(&(shard, op));
                process.has_committed |= is_commit && well;
                is_commit
            }
            None => false,
        };
        // Whatever fails may hold back what waits to be written; only a commit shows that it no
        // longer does.
        let preparations = self.process.as_mut().map(|it| &mut it.preparations);
        if preparations.is_some_and(|it| it.remove(&(shard, op))) {
            let lives = &mut self.ledger.lives;
            lives.prepare_ended(self.now_us, shard, well);
        }
        let syncs = self.process.as_mut().map(|it| &mut it.syncs);
        if syncs.is_some_and(|it| it.remove(&(shard, op))) && !well {
            self.ledger.lives.sync_failed();
        }
        if is_commit || !well {
            self.ledger.lives.commit_ended(self.now_us, shard, well);
        }
        self.note(4, u64::from(well), || {
            format!("{shard} {op:?} {:?}", completion.result)
        });
        self.handle(shard, Input::Spool(completion));
    }

    pub fn read_done(&mut self, shard: usize, read: u64) {
        let counts = &mut self.ledger.counts;
        let result = self.disk.end_read(self.now_us, shard, read, counts);
        self.note(5, u64::from(result.is_ok()), || {
            format!("{shard} read {read} {}", result.is_ok())
        });
        self.handle(shard, Input::Read { read, result });
    }

    fn begin_hose(&mut self, shard: usize, op: HoseOp) {
        let act = match &op {
            HoseOp::Write { .. } => Act::HoseWrite,
            HoseOp::Sync { .. } => Act::HoseSync,
            HoseOp::Cut { .. } => Act::HoseCut,
            HoseOp::Remove { .. } => Act::HoseRemove,
        };
        self.act(act, shard, op.op());
        if let HoseOp::Write { bytes, .. } = &op {
            self.note(11, bytes.len() as u64, || {
                format!("{shard} events {}", event_ids(bytes).join(" "))
            });
        }
        let done_us = self.events.begin(self.now_us, shard, op);
        let life = self.life();
        self.schedule.plan(done_us, Event::HoseDone { life, shard });
    }

    pub fn hose_done(&mut self, shard: usize) {
        let wall = self.wall();
        let (op, result) = self.events.end(wall, shard, &mut self.ledger.counts);
        self.read_events();
        self.note(6, u64::from(result.is_ok()), || {
            format!("{shard} hose {op} {result:?}")
        });
        self.handle(shard, Input::Hose { op, result });
    }

    /// The reader of the event log takes what has become durable.
    pub fn read_events(&mut self) {
        for line in self.events.take_lines() {
            self.ledger.event_line(&line);
        }
    }

    fn mesh_sends(&mut self, from: usize, to: usize, mut message: MeshMessage) {
        let act = match &message {
            MeshMessage::Arrivals { .. } => Act::MeshArrivals,
            MeshMessage::Settled(_) => Act::MeshSettled,
            MeshMessage::Barrier { .. } => Act::MeshBarrier,
            MeshMessage::Fetch { .. } => Act::MeshFetch,
            MeshMessage::Body { .. } => Act::MeshBody,
            MeshMessage::PlaceFree { .. } => Act::MeshPlaceFree,
            MeshMessage::GiveUp { .. } => Act::MeshGiveUp,
        };
        self.act(act, from, to as u64);
        let lost = match act {
            Act::MeshArrivals => self.is_planted(Planted::LostArrival, 20),
            Act::MeshSettled => self.is_planted(Planted::LostOutcome, 20),
            Act::MeshPlaceFree => self.is_planted(Planted::LostWakeup, 20),
            Act::MeshGiveUp => self.is_planted(Planted::UnaskedHolder, 20),
            _ => false,
        };
        if lost {
            return;
        }
        if let MeshMessage::Arrivals { content, arrivals } = &mut message
            && self.is_planted(Planted::LostFlow, 200)
        {
            lose_flow(content, arrivals);
        }
        if let MeshMessage::Settled(settled) = &mut message
            && self.is_planted(Planted::SecondEnd, 20)
        {
            settled.extend(second_end(settled));
        }
        let slow = self.switches.slow_mesh;
        let took_us = match slow {
            true => self.streams.net.between(1_000, SECOND),
            false => self.streams.net.between(2, 200),
        };
        let life = self.life();
        let Some(process) = &mut self.process else {
            return;
        };
        let pair = from * process.shards() + to;
        let at_us = (self.now_us + took_us).max(process.mesh_last_us[pair] + 1);
        process.mesh_last_us[pair] = at_us;
        process.arrivals_under_way += entries_of(&message);
        process.mesh[pair].push_back(message);
        self.ledger.lives.mesh_took(at_us - self.now_us);
        self.schedule.plan(at_us, Event::Mesh { life, from, to });
    }

    pub fn mesh_arrives(&mut self, life: u32, from: usize, to: usize) {
        if life != self.life() {
            return;
        }
        let Some(process) = &mut self.process else {
            return;
        };
        let pair = from * process.shards() + to;
        let Some(message) = process.mesh[pair].pop_front() else {
            return;
        };
        if !process.runs(to) {
            return;
        }
        process.arrivals_under_way -= entries_of(&message);
        let from = crate::types::id::ShardId(from as u8);
        self.handle(to, Input::Mesh { from, message });
    }

    fn keep_learnt(&mut self, adapted: Adapted) {
        let pair = (adapted.binding.to_string(), adapted.domain.to_string());
        let rates = adapted.saved.iter().filter_map(|it| it.rate);
        for rate in rates {
            let kept = rate.rate >= ADAPTIVE_RATE_MIN * 0.999 && rate.rate.is_finite();
            self.ledger.check(Check::AdaptiveRange, kept, || {
                format!("{pair:?} may send {} a second", rate.rate)
            });
        }
        match adapted.saved {
            Some(saved) => drop(self.learnt.insert(pair, saved)),
            None => drop(self.learnt.remove(&pair)),
        }
    }

    fn at_control(&mut self, shard: usize, message: ToControl) {
        match message {
            ToControl::Resolve { question, .. } => {
                self.act(Act::Resolve, shard, digest(question.name.as_bytes()));
                self.asks_dns(shard, question);
            }
            ToControl::Answer { answer, .. } => {
                self.act(Act::Answer, shard, 0);
                self.check_answer(shard, &answer);
            }
            ToControl::Notice { text, .. } => {
                self.act(Act::Notice, shard, 0);
                self.note(7, 0, || format!("{shard} notice: {text}"));
            }
            ToControl::Adapted(adapted) => {
                self.act(Act::Notice, shard, 1);
                self.keep_learnt(*adapted);
            }
            ToControl::Reserve { throttle } => {
                self.act(Act::Notice, shard, 2);
                let now = self.now().mono;
                if let Some(process) = &mut self.process {
                    process.keeping.keeper.asked(now, throttle);
                }
                self.plan_keeping();
            }
            ToControl::Adopted { .. } => {
                self.act(Act::Adopted, shard, 0);
            }
            ToControl::HandedOut { .. } => {
                self.act(Act::Ordered, shard, 0);
                self.shard_handed_out(shard);
            }
            ToControl::Worked { worked, .. } => {
                self.act(Act::Ordered, shard, worked.changed);
                self.shard_worked(shard, &worked);
            }
            ToControl::Settled { owner, order, .. } => {
                self.act(Act::Ordered, shard, order);
                self.shard_settled(order, (owner.index(), shard));
            }
            ToControl::Quiet { .. } => {
                self.act(Act::Quiet, shard, 0);
                self.shard_quiet(shard);
            }
            ToControl::Drained { .. } => {
                self.act(Act::Drained, shard, 0);
                self.shard_drained(shard);
            }
        }
    }
}

/// Entries that are in no queue as long as a message of the mesh is on its way.
fn entries_of(message: &MeshMessage) -> u64 {
    let count = match message {
        MeshMessage::Arrivals { arrivals, .. } => arrivals.len(),
        MeshMessage::Settled(settled) => settled.iter().filter(|it| it.onward.is_some()).count(),
        _ => 0,
    };
    count as u64
}

/// The message as if it had said nothing.
fn lose_flow(content: &mut Option<Arc<Content>>, arrivals: &mut [Arrival]) {
    if let Some(content) = content {
        let mut silent = (**content).clone();
        silent.flow = None;
        *content = Arc::new(silent);
    }
    for arrival in arrivals {
        arrival.flow = None;
    }
}

/// Another end for a recipient that was delivered.
fn second_end(settled: &[Settled]) -> Option<Settled> {
    let is_delivered = |it: &&Settled| it.outcome.kind == OutcomeKind::Delivered;
    let mut again = settled.iter().find(is_delivered)?.clone();
    again.outcome.kind = OutcomeKind::Expired;
    Some(again)
}

/// A letter behind the header becomes another one.
fn change_a_byte(bytes: &mut [u8]) {
    let Some(at) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return;
    };
    let body = &mut bytes[at..];
    if let Some(letter) = body.iter_mut().find(|byte| byte.is_ascii_lowercase()) {
        *letter = if *letter == b'z' { b'a' } else { *letter + 1 };
    }
}

/// An operation without its bytes, for the trace.
fn told(op: &DiskOp) -> String {
    match op {
        DiskOp::Commit {
            file,
            offset,
            bytes,
            sync,
            ..
        } => format!("{file} +{offset} {} bytes, sync {sync:?}", bytes.len()),
        DiskOp::Seal {
            file,
            offset,
            bytes,
            ..
        } => format!("{file} +{offset} {} bytes", bytes.len()),
        DiskOp::Prepare { file, recycle, .. } => match recycle {
            Some(old) => format!("{file} from {old}"),
            None => file.to_string(),
        },
        DiskOp::Rename { from, to, .. } => format!("{from} to {to}"),
        DiskOp::Sync { file, .. } | DiskOp::Remove { file, .. } => file.to_string(),
        DiskOp::Read {
            file,
            offset,
            bytes,
            ..
        } => format!("{file} +{offset} {bytes} bytes"),
    }
}

/// The ids of the events in lines of the event log, for the trace.
fn event_ids(lines: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(lines);
    let ids = text.split("\"event_id\":\"").skip(1);
    ids.map(|rest| rest.split('"').next().unwrap_or("").to_string())
        .collect()
}
