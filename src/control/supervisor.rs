//! Tells a supervisor such as systemd how the process stands, if one asks to be told by setting
//! `NOTIFY_SOCKET`: `sd_notify(3)`, a datagram with lines of `NAME=value`. Nobody waits for it, and
//! what it does not take is not told again.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;

/// The variable that names the socket.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The supervisor, or that there is none.
#[derive(Debug, Default)]
pub struct Supervisor(Option<UnixDatagram>);

impl Supervisor {
    /// The one that listens on this socket: a path, or with `@` in front an abstract name.
    pub fn on(name: &OsStr) -> io::Result<Supervisor> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A supervisor that does not read must not hold up mail.
        socket.set_nonblocking(true)?;
        Ok(Supervisor(Some(socket)))
    }

    /// Mail is taken; or the reload is over.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins, at this microsecond of the monotonic clock of the system.
    pub fn reloading(&self, monotonic_us: u64) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
    }

    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    fn tell(&self, lines: &str) {
        if let Some(socket) = &self.0 {
            // A supervisor that has gone has nobody to start again either.
            let _ = socket.send(lines.as_bytes());
        }
    }
}

/// The monotonic clock of the system in microseconds, as supervisors compare it.
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call takes a pointer to a live struct of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_supervisor_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("pelton-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, name) in [
            (by_path, path.into_os_string()),
            (by_name, format!("@{name}").into()),
        ] {
            let supervisor = Supervisor::on(&name).unwrap();
            supervisor.ready("takes mail");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=takes mail");
            supervisor.reloading(17);
            assert_eq!(heard(&socket), "RELOADING=1\nMONOTONIC_USEC=17");
            drop(socket);
            supervisor.stopping("nobody hears it, and nothing happens");
        }
        assert!(Supervisor::on(OsStr::new("/nowhere/notify")).is_err());
        Supervisor::default().ready("to nobody");
        let before = monotonic_us();
        assert!(before > 0 && monotonic_us() >= before);
    }
}
