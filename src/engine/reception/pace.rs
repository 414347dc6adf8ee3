//! Throttles of mail that comes in. Under `inbound_throttle_messages` a session waits with the
//! answer to its DATA or first BDAT until its turn has come, so that mail is taken slower and not
//! refused. What one client may do in a time is refused beyond it, at the connection, the message
//! or the recipient.
//!
//! Nothing of this exists for sessions without such a throttle. Invariant: who waits has a booking,
//! and gives it back if it ends before.

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use crate::base::throttle::keep::Keep;
use crate::base::throttle::{Booking, Throttle};
use crate::base::time::Mono;
use crate::config::{ListenerSettings, SharedRate};
use crate::engine::Turn;
use crate::types::replies::{self, Canned};

/// The longest wait of a session. Clients give up on DATA after two minutes (RFC 5321 4.5.3.2.5).
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// What holds for one session.
pub(super) struct Pace {
    /// Of all that share it.
    messages: Option<Arc<Throttle>>,
    of_peer: [Option<Arc<Throttle>>; 2],
    booking: Option<Booking>,
    /// When the turn comes that the session waits for.
    pub until: Option<Mono>,
}

/// A message may not be taken yet.
pub(super) enum Paced {
    Later,
    Refused(&'static Canned),
}

fn of_peer(turn: &Turn<'_>, rate: &SharedRate, peer: IpAddr) -> Arc<Throttle> {
    let name = format!("{}, {}", rate.of, peer.to_canonical());
    turn.throttle(&name, rate.rate, Keep::Never)
}

/// Counts a connection of a client; false if it is one too many.
pub(super) fn may_connect(turn: &Turn<'_>, settings: &ListenerSettings, peer: IpAddr) -> bool {
    let rate = settings.connection_rate_per_peer.as_ref();
    rate.is_none_or(|rate| of_peer(turn, rate, peer).try_start(turn.now.mono))
}

impl Pace {
    /// Nothing if no throttle is set.
    pub fn of(turn: &Turn<'_>, settings: &ListenerSettings, peer: IpAddr) -> Option<Box<Pace>> {
        let per_peer = [
            &settings.message_rate_per_peer,
            &settings.recipient_rate_per_peer,
        ];
        let shared = settings.throttle_messages.as_ref();
        if shared.is_none() && per_peer.iter().all(|it| it.is_none()) {
            return None;
        }
        Some(Box::new(Pace {
            messages: shared.map(|it| turn.throttle(&it.of, it.rate, Keep::Lately)),
            of_peer: per_peer.map(|it| it.as_ref().map(|it| of_peer(turn, it, peer))),
            booking: None,
            until: None,
        }))
    }

    /// One more message of the client, at MAIL.
    pub fn message(&self, now: Mono) -> Result<(), &'static Canned> {
        match &self.of_peer[0] {
            Some(throttle) if !throttle.try_start(now) => Err(&replies::MESSAGE_RATE),
            _ => Ok(()),
        }
    }

    /// One more recipient of the client.
    pub fn recipient(&self, now: Mono) -> Result<(), &'static Canned> {
        match &self.of_peer[1] {
            Some(throttle) if !throttle.try_start(now) => Err(&replies::RECIPIENT_RATE),
            _ => Ok(()),
        }
    }

    /// Whether the message that is about to be sent may be taken now.
    pub fn begin(&mut self, now: Mono) -> Result<(), Paced> {
        let Some(throttle) = &self.messages else {
            return Ok(());
        };
        self.until = None;
        let booking = self.booking.take().unwrap_or_else(|| throttle.book(now));
        let booking = match throttle.start(now, booking) {
            Ok(()) => return Ok(()),
            Err(later) => later,
        };
        if booking.at > now + WAIT_MAX {
            throttle.give_back(booking);
            return Err(Paced::Refused(&replies::SLOWED));
        }
        self.booking = Some(booking);
        self.until = Some(booking.at);
        Err(Paced::Later)
    }

    /// The throttle that sessions share, if what has started is to be written down.
    pub fn asking(&self) -> Option<Arc<Throttle>> {
        self.messages.as_ref().filter(|it| it.asks()).cloned()
    }

    /// The session takes no message any more.
    pub fn leave(&mut self) {
        self.until = None;
        if let (Some(throttle), Some(booking)) = (&self.messages, self.booking.take()) {
            throttle.give_back(booking);
        }
    }
}
