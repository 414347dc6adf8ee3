//! What an outsider sees of a run, for who wants to judge it: mail that is taken in, connections,
//! and recipients as they are named on them.

use core::net::IpAddr;
use core::net::SocketAddr;

use crate::base::slab::Key;
use crate::practice::load;
use crate::sim::practice::world::World;

#[derive(Clone, Copy, Debug)]
pub enum Seen {
    /// An engine has said `250` to a message.
    Accepted { number: u64 },
    Dialed {
        conn: Key,
        source: IpAddr,
        remote: SocketAddr,
    },
    /// An engine names the recipient of a message to a receiver.
    Named { conn: Key, number: u64 },
    /// The engine has been told that a connection is over.
    Gone { conn: Key },
}

impl World {
    /// Nothing unless somebody wants to know.
    pub fn see(&mut self, what: Seen) {
        if let Some(seen) = &mut self.seen {
            seen.push((self.now_us, what));
        }
    }

    pub fn see_sent(&mut self, conn: Key, bytes: &[u8]) {
        if self.seen.is_none() {
            return;
        }
        for at in memchr::memmem::find_iter(bytes, b"RCPT TO:<") {
            if let Some(number) = load::number_of(&bytes[at..]) {
                self.see(Seen::Named { conn, number });
            }
        }
    }
}
