//! A sink that plays the receivers of a scenario: the sessions and the limits are those of
//! [`crate::practice`], in real time from the start of the sink. Who is being talked to is known by
//! the address that was connected to, or else by the domain of the first recipient.

use core::net::IpAddr;
use core::net::SocketAddr;
use std::rc::Rc;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use glommio::net::TcpStream;

use super::connection::Executor;
use crate::practice::internet::Internet;
use crate::practice::session::Said;
use crate::practice::session::Session;
use crate::rig::runtime;
use crate::rig::runtime::Ended;
use crate::rig::runtime::Interrupt;

impl Executor {
    pub(super) async fn practise(
        self: Rc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        interrupt: Rc<Interrupt>,
    ) {
        {
            let mut counts = self.shared.counts(self.index);
            counts.connections += 1;
            counts.connections_open += 1;
        }
        if let Some((session, said)) = self.open(peer.ip(), local.ip()) {
            let session = &mut Some(session);
            // However it ends, it has ended: what there is to know is in the accounts.
            let _ = self.play(&mut stream, session, said, &interrupt).await;
            if let (Some(session), Some(mut internet)) = (session.take(), self.internet()) {
                session.close(&mut internet);
            }
        }
        self.shared.counts(self.index).connections_open -= 1;
    }

    /// The receivers, if the sink plays a scenario.
    fn internet(&self) -> Option<MutexGuard<'_, Internet>> {
        let internet = self.shared.internet.as_ref()?;
        Some(internet.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now_us(&self) -> u64 {
        self.shared.began.elapsed().as_micros() as u64
    }

    /// Begins a session, unless nobody is there: then the connection ends without a word.
    fn open(&self, peer: IpAddr, local: IpAddr) -> Option<(Session, Vec<Said>)> {
        let mut internet = self.internet()?;
        let now_us = self.now_us();
        let provider = internet
            .scenario()
            .host_of(local)
            .map(|(provider, _)| provider);
        if provider.is_some_and(|it| !internet.answers(it, now_us)) {
            return None;
        }
        let mut said = Vec::new();
        let session = Session::open(&mut internet, provider, peer, now_us, &mut said);
        Some((session, said))
    }

    /// Takes its time and says what there is to say, then listens, until it is over.
    async fn play(
        &self,
        stream: &mut TcpStream,
        session: &mut Option<Session>,
        mut said: Vec<Said>,
        interrupt: &Interrupt,
    ) -> Result<(), Ended> {
        loop {
            for part in said.drain(..) {
                let thinks = core::time::Duration::from_micros(part.thinks_us);
                if !thinks.is_zero() && !interrupt.sleep(thinks).await {
                    return Err(Ended::Interrupted);
                }
                runtime::write_all(stream, interrupt, &part.bytes).await?;
                self.count(&part);
            }
            if session.as_ref().is_none_or(Session::is_over) {
                // Its place is free before the connection has gone.
                if let (Some(session), Some(mut internet)) = (session.take(), self.internet()) {
                    session.close(&mut internet);
                }
                return self.linger(stream, interrupt).await;
            }
            let take = |bytes: &[u8]| {
                let now_us = self.now_us();
                if let (Some(session), Some(mut internet)) = (session.as_mut(), self.internet()) {
                    session.receive(&mut internet, bytes, now_us, &mut said);
                }
            };
            let bytes_max = runtime::READ_BYTES_MAX;
            runtime::read_with(stream, interrupt, &self.scratch, bytes_max, take).await?;
        }
    }

    fn count(&self, said: &Said) {
        {
            let mut counts = self.shared.counts(self.index);
            for line in said.bytes.split_inclusive(|byte| *byte == b'\n') {
                if line.get(3) == Some(&b' ') {
                    counts.reply(line);
                }
            }
            counts.messages += u64::from(said.messages);
            counts.recipients += u64::from(said.recipients);
            counts.bytes += said.content_bytes;
            counts.bdat_messages += u64::from(said.by_chunks);
        }
        self.shared.received(u64::from(said.messages));
    }
}
