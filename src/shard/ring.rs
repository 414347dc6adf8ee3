//! The ring of a shard: readiness of its sockets, writes, syncs and reads of its files, calls from
//! other threads, and the one place where a shard sleeps. A sleep costs one system call: sockets
//! are watched for as long as they live, not once per read.
//!
//! Safety rests on one rule: what the kernel may read or write belongs to `works` until its
//! completion is here, and is leaked, not freed, if the ring goes first.

use core::mem::ManuallyDrop;
use core::time::Duration;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Wake, Waker};

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::base::slab::{Key, Slab};
use crate::engine::io::{ConnId, Side};
use crate::log::SyncScope;

/// Entries of the submission queue; a full one is submitted early.
const SUBMISSIONS: u32 = 256;

/// Entries of the completion queue: sockets that may become ready in one round. The kernel keeps
/// what does not fit, at a price.
const COMPLETIONS: u32 = 4_096;

/// `IORING_ENTER_GETEVENTS`: let the kernel do the work that it has put off until asked.
const ENTER_GETEVENTS: u32 = 1;

const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const READABLE_OR_WRITABLE: u32 = READABLE | libc::POLLOUT as u32;
const HANGUP: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// Where blocks of a file must lie, in the file and in memory, to be written past the page cache.
pub const DIRECT_ALIGN: usize = 512;

/// A copy that grew beyond this for one large message is given back.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// What a completion is about: four bits of kind, 28 of generation, 32 of index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(u64);

const KIND_SHIFT: u32 = 60;
const KIND_NONE: u64 = 0;
const KIND_WAKE: u64 = 1;
const KIND_LISTENER: u64 = 2;
const KIND_INCOMING: u64 = 3;
const KIND_OUTGOING: u64 = 4;
const KIND_TRANSFER: u64 = 5;
const KIND_SYNC: u64 = 6;
const ID_MASK: u64 = (1 << KIND_SHIFT) - 1;

impl Token {
    fn new(kind: u64, id: u64) -> Token {
        Token(kind << KIND_SHIFT | id & ID_MASK)
    }

    pub fn listener(index: usize) -> Token {
        Token::new(KIND_LISTENER, index as u64)
    }

    pub fn conn(id: ConnId) -> Token {
        let kind = match id.side {
            Side::In => KIND_INCOMING,
            Side::Out => KIND_OUTGOING,
        };
        Token::new(kind, id.key.to_bits())
    }

    fn kind(self) -> u64 {
        self.0 >> KIND_SHIFT
    }

    /// The slot of a connection or listener.
    pub fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// Which connections it is one of; nothing for a listener.
    pub fn side(self) -> Option<Side> {
        match self.kind() {
            KIND_INCOMING => Some(Side::In),
            KIND_OUTGOING => Some(Side::Out),
            _ => None,
        }
    }
}

/// What the ring has to tell.
pub enum Done<T> {
    /// A listener has connections; a connection can be read from or written to.
    Ready {
        token: Token,
        /// There is something to read, be it the end.
        readable: bool,
        /// The peer has ended its side, or the connection is broken: a short read is not the end.
        hangup: bool,
        /// The watch is over; it has to be set again.
        unwatched: bool,
    },
    File(Finished<T>),
}

/// A file operation that has ended.
pub struct Finished<T> {
    pub tag: T,
    /// What was written, unchanged, or what was read.
    pub bytes: Vec<u8>,
    pub result: io::Result<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Write(SyncScope),
    Sync,
    Read,
}

struct Work<T> {
    file: Arc<File>,
    bytes: Vec<u8>,
    /// What is written in place of `bytes`, which do not lie where the device wants them.
    aligned: Option<Pages>,
    offset: u64,
    /// Bytes of it that are through.
    done: usize,
    act: Act,
    tag: T,
}

impl<T> Work<T> {
    fn new(file: Arc<File>, offset: u64, bytes: Vec<u8>, act: Act, tag: T) -> Work<T> {
        Work {
            file,
            bytes,
            aligned: None,
            offset,
            done: 0,
            act,
            tag,
        }
    }
}

pub struct Ring<T> {
    uring: IoUring,
    /// What found the submission queue full.
    parked: VecDeque<squeue::Entry>,
    works: ManuallyDrop<Slab<Work<T>>>,
    /// Of the last write that needed some.
    spare: Option<Pages>,
    call: Arc<Call>,
    /// The kernel can keep quiet about a write whose sync follows: one completion, one wake-up.
    links: bool,
}

impl<T> Ring<T> {
    pub fn new() -> io::Result<Ring<T>> {
        let uring = open()?;
        // Came two releases after the quiet links, and there is no other sign of them.
        let links = uring.params().is_feature_linked_file();
        let mut ring = Ring {
            uring,
            parked: VecDeque::new(),
            works: ManuallyDrop::new(Slab::new()),
            spare: None,
            call: Arc::new(Call::new()?),
            links,
        };
        ring.watch_calls();
        Ok(ring)
    }

    /// Wakes this ring from any thread.
    pub fn waker(&self) -> Waker {
        Waker::from(self.call.clone())
    }

    fn watch_calls(&mut self) {
        let fd = self.call.0.as_raw_fd();
        self.watch(fd, Token::new(KIND_WAKE, 0), READABLE);
    }

    pub fn watch_listener(&mut self, fd: RawFd, token: Token) {
        self.watch(fd, token, READABLE);
    }

    /// Tells from now on whenever there is something to read, or room to write after there was
    /// none. The caller unwatches before it closes the descriptor.
    pub fn watch_conn(&mut self, fd: RawFd, token: Token) {
        self.watch(fd, token, READABLE_OR_WRITABLE);
    }

    fn watch(&mut self, fd: RawFd, token: Token, events: u32) {
        let entry = opcode::PollAdd::new(Fd(fd), events).multi(true).build();
        self.push(entry.user_data(token.0));
    }

    /// The kernel holds on to a watched socket until this.
    pub fn unwatch(&mut self, token: Token) {
        let none = Token::new(KIND_NONE, 0);
        let entry = opcode::PollRemove::new(token.0).build();
        self.push(entry.user_data(none.0));
    }

    /// Writes all of `bytes`, and makes durable what it is asked to. A failed sync is never
    /// repeated.
    pub fn write(&mut self, file: Arc<File>, offset: u64, bytes: Vec<u8>, sync: SyncScope, tag: T) {
        self.begin(Work::new(file, offset, bytes, Act::Write(sync), tag));
    }

    /// The same past the page cache, to a file opened so, whole blocks of [`DIRECT_ALIGN`].
    pub fn write_direct(
        &mut self,
        file: Arc<File>,
        offset: u64,
        bytes: Vec<u8>,
        sync: SyncScope,
        tag: T,
    ) {
        let act = Act::Write(sync);
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(DIRECT_ALIGN);
        let mut work = Work::new(file, offset, bytes, act, tag);
        if !aligned {
            let mut pages = self.spare.take().unwrap_or_default();
            pages.copy_from(&work.bytes);
            work.aligned = Some(pages);
        }
        self.begin(work);
    }

    pub fn sync(&mut self, file: Arc<File>, tag: T) {
        self.begin(Work::new(file, 0, Vec::new(), Act::Sync, tag));
    }

    /// Reads exactly so many bytes.
    pub fn read(&mut self, file: Arc<File>, offset: u64, bytes: usize, tag: T) {
        self.begin(Work::new(file, offset, vec![0; bytes], Act::Read, tag));
    }

    fn begin(&mut self, work: Work<T>) {
        let key = self.works.insert(work);
        self.submit(key);
    }

    /// Submits what is left of a work.
    fn submit(&mut self, key: Key) {
        let Some(work) = self.works.get_mut(key) else {
            return;
        };
        let fd = Fd(work.file.as_raw_fd());
        let bytes = match &mut work.aligned {
            Some(pages) => pages.bytes_mut(),
            None => &mut work.bytes,
        };
        let rest = &mut bytes[work.done..];
        let offset = work.offset + work.done as u64;
        let bytes = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let transfer = Token::new(KIND_TRANSFER, key.to_bits()).0;
        match work.act {
            Act::Sync => self.push_sync(key, fd),
            Act::Read => {
                let entry = opcode::Read::new(fd, rest.as_mut_ptr(), bytes).offset(offset);
                self.push(entry.build().user_data(transfer));
            }
            Act::Write(sync) => {
                let linked = self.links && sync == SyncScope::File;
                // Without a flush where the device can do without, and by the kernel's own threads
                // where it cannot.
                let through = if sync == SyncScope::Written {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                let entry = opcode::Write::new(fd, rest.as_ptr(), bytes).offset(offset);
                let entry = entry.rw_flags(through).build().user_data(transfer);
                if linked {
                    self.make_room(2);
                    let quiet = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                    self.push(entry.flags(quiet));
                    self.push_sync(key, fd);
                } else {
                    self.push(entry);
                }
            }
        }
    }

    fn push_sync(&mut self, key: Key, fd: Fd) {
        let token = Token::new(KIND_SYNC, key.to_bits());
        let entry = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC);
        self.push(entry.build().user_data(token.0));
    }

    /// A transfer of a work has ended. Its end, if that is it.
    fn transferred(&mut self, key: Key, result: i32) -> Option<Finished<T>> {
        let work = self.works.get_mut(key)?;
        let moved = match usize::try_from(result) {
            Ok(moved) => moved,
            Err(_) if -result == libc::EINTR => {
                self.submit(key);
                return None;
            }
            Err(_) => return self.finish(key, Err(io::Error::from_raw_os_error(-result))),
        };
        work.done += moved;
        if work.done < work.bytes.len() {
            if moved == 0 {
                let kind = match work.act {
                    Act::Read => io::ErrorKind::UnexpectedEof,
                    _ => io::ErrorKind::WriteZero,
                };
                return self.finish(key, Err(kind.into()));
            }
            self.submit(key);
            return None;
        }
        if work.act == Act::Write(SyncScope::File) {
            // The kernel does not link quietly, or the last write came in pieces.
            let fd = Fd(work.file.as_raw_fd());
            self.push_sync(key, fd);
            return None;
        }
        self.finish(key, Ok(()))
    }

    fn synced(&mut self, key: Key, result: i32) -> Option<Finished<T>> {
        let result = match result {
            0.. => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        self.finish(key, result)
    }

    fn finish(&mut self, key: Key, result: io::Result<()>) -> Option<Finished<T>> {
        let Work {
            tag,
            bytes,
            aligned,
            ..
        } = self.works.remove(key)?;
        self.spare = aligned
            .filter(|pages| pages.room() <= SPARE_BYTES_MAX)
            .or(self.spare.take());
        Some(Finished { tag, bytes, result })
    }

    /// The next thing that has happened.
    pub fn next(&mut self) -> Option<Done<T>> {
        loop {
            let entry = self.uring.completion().next()?;
            let token = Token(entry.user_data());
            let unwatched = !cqueue::more(entry.flags());
            let result = entry.result();
            let key = key_of(token, &self.works);
            let finished = match token.kind() {
                KIND_WAKE => {
                    if unwatched {
                        self.watch_calls();
                    }
                    continue;
                }
                KIND_LISTENER | KIND_INCOMING | KIND_OUTGOING => {
                    if -result == libc::ECANCELED {
                        continue;
                    }
                    let events = u32::try_from(result).unwrap_or(HANGUP);
                    return Some(Done::Ready {
                        token,
                        readable: events & (READABLE | HANGUP) != 0,
                        hangup: events & HANGUP != 0,
                        unwatched,
                    });
                }
                KIND_TRANSFER => key.and_then(|key| self.transferred(key, result)),
                KIND_SYNC => key.and_then(|key| self.synced(key, result)),
                _ => None,
            };
            if let Some(finished) = finished {
                return Some(Done::File(finished));
            }
        }
    }

    fn make_room(&mut self, entries: usize) {
        let queue = self.uring.submission();
        let free = queue.capacity() - queue.len();
        drop(queue);
        if free < entries {
            // What cannot be submitted now is parked by `push`.
            let _ = self.uring.submit();
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.make_room(1);
        if !self.parked.is_empty() || !self.try_push(&entry) {
            self.parked.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: descriptors are open when they are submitted, and buffers belong to `works`
        // until their completion.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    fn unpark(&mut self) {
        while let Some(entry) = self.parked.pop_front() {
            if !self.try_push(&entry) {
                self.parked.push_front(entry);
                return;
            }
        }
    }

    /// Submits what has been asked for and collects what has happened, without waiting.
    pub fn poll(&mut self) -> io::Result<()> {
        self.unpark();
        let submissions = self.uring.submission().len() as u32;
        // SAFETY: no signal mask is passed.
        let entered = unsafe {
            let submitter = self.uring.submitter();
            submitter.enter::<libc::sigset_t>(submissions, 0, ENTER_GETEVENTS, None)
        };
        passing(entered)
    }

    /// Lets others on this core run, then tells whether that has brought anything.
    pub fn look(&mut self) -> bool {
        std::thread::yield_now();
        // A ring that has failed is found out when the shard sleeps.
        let _ = self.poll();
        !self.uring.completion().is_empty()
    }

    /// The same as [`Self::poll`], but sleeps until something happens or the time is up.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.unpark();
        if !self.parked.is_empty() {
            return self.poll();
        }
        let entered = match limit {
            None => self.uring.submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::from(limit);
                let args = SubmitArgs::new().timespec(&limit);
                self.uring.submitter().submit_with_args(1, &args)
            }
        };
        passing(entered)
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.works.is_empty() {
            // SAFETY: dropped once, here; nothing of it is in the kernel's hands.
            unsafe { ManuallyDrop::drop(&mut self.works) };
        }
    }
}

/// The key of a work, whose generation is complete only in the slab.
fn key_of<T>(token: Token, works: &Slab<Work<T>>) -> Option<Key> {
    let key = works.key_at(token.index())?;
    (key.to_bits() & ID_MASK == token.0 & ID_MASK).then_some(key)
}

/// Bytes that lie where a device can fetch them itself.
#[derive(Default)]
struct Pages {
    blocks: Vec<Block>,
    used: usize,
}

const BLOCK_BYTES: usize = 4_096;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

impl Pages {
    fn copy_from(&mut self, bytes: &[u8]) {
        let blocks = bytes.len().div_ceil(BLOCK_BYTES);
        if self.blocks.len() < blocks {
            self.blocks.resize(blocks, Block([0; BLOCK_BYTES]));
        }
        self.used = bytes.len();
        self.bytes_mut().copy_from_slice(bytes);
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.blocks.as_mut_ptr().cast::<u8>();
        // SAFETY: blocks are plain bytes, one behind the other, and `used` of them are in use.
        unsafe { core::slice::from_raw_parts_mut(start, self.used) }
    }

    fn room(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }
}

/// The ring with all that makes it cheap, and on an older kernel with less.
fn open() -> io::Result<IoUring> {
    let mut modern = IoUring::builder();
    modern.setup_cqsize(COMPLETIONS).setup_clamp();
    modern.setup_single_issuer().setup_defer_taskrun();
    match modern.build(SUBMISSIONS) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let mut plain = IoUring::builder();
            plain.setup_cqsize(COMPLETIONS).setup_clamp();
            plain.build(SUBMISSIONS)
        }
        opened => opened,
    }
}

/// Reasons to come back and try again are none to give up.
fn passing(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

/// How other threads call: a counter that is never read, because every change is an event.
struct Call(OwnedFd);

impl Call {
    fn new() -> io::Result<Call> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Call(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Wake for Call {
    fn wake(self: Arc<Call>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Call>) {
        let one = 1_u64;
        // SAFETY: eight bytes of a live value. It cannot fail: the counter takes 2^64 calls.
        unsafe {
            libc::write(
                self.0.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn wait_for<T>(ring: &mut Ring<T>) -> Done<T> {
        loop {
            if let Some(done) = ring.next() {
                return done;
            }
            ring.wait(Some(Duration::from_secs(5))).unwrap();
        }
    }

    fn finished(ring: &mut Ring<u32>) -> Finished<u32> {
        match wait_for(ring) {
            Done::File(finished) => finished,
            Done::Ready { .. } => panic!("no socket is watched"),
        }
    }

    fn rings() -> [Ring<u32>; 2] {
        let mut alone = Ring::new().unwrap();
        alone.links = false;
        [Ring::new().unwrap(), alone]
    }

    #[test]
    fn what_is_written_and_synced_can_be_read() {
        for mut ring in rings() {
            let file = Arc::new(tempfile::tempfile().unwrap());
            ring.write(file.clone(), 3, b"hello".to_vec(), SyncScope::File, 1);
            let done = finished(&mut ring);
            assert_eq!((done.tag, &done.bytes[..]), (1, &b"hello"[..]));
            done.result.unwrap();
            ring.sync(file.clone(), 2);
            finished(&mut ring).result.unwrap();
            ring.read(file.clone(), 4, 4, 3);
            let done = finished(&mut ring);
            assert_eq!((done.tag, &done.bytes[..]), (3, &b"ello"[..]));
            ring.read(file, 4, 5, 4);
            let kind = finished(&mut ring).result.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn direct_writes_take_bytes_from_anywhere() {
        use std::os::unix::fs::OpenOptionsExt;
        let named = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).custom_flags(libc::O_DIRECT);
        let Ok(file) = options.open(named.path()) else {
            eprintln!("skipped: the file system has no direct writes");
            return;
        };
        let (file, mut ring) = (Arc::new(file), Ring::<u32>::new().unwrap());
        let kinds = [
            SyncScope::Written,
            SyncScope::File,
            SyncScope::Written,
            SyncScope::Written,
        ];
        for (n, (blocks, sync)) in [1, 3, 40, 2].into_iter().zip(kinds).enumerate() {
            let bytes = vec![n as u8; blocks * DIRECT_ALIGN];
            ring.write_direct(file.clone(), 0, bytes.clone(), sync, n as u32);
            let done = finished(&mut ring);
            done.result.unwrap();
            assert_eq!(done.bytes, bytes);
            assert_eq!(std::fs::read(named.path()).unwrap()[..bytes.len()], bytes);
        }
    }

    #[test]
    fn a_failed_write_is_told_once_and_nothing_is_synced() {
        for mut ring in rings() {
            let file = Arc::new(File::open("/dev/null").unwrap());
            ring.write(file.clone(), 0, b"hello".to_vec(), SyncScope::File, 1);
            let done = finished(&mut ring);
            assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert_eq!(done.bytes, b"hello");
            ring.write(file, 0, b"again".to_vec(), SyncScope::Nothing, 2);
            assert_eq!(finished(&mut ring).tag, 2);
            assert!(ring.works.is_empty());
        }
    }

    #[test]
    fn more_than_fits_into_the_queue_is_parked_not_lost() {
        for mut ring in rings() {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let count = SUBMISSIONS * 3;
            for n in 0..count {
                let sync =
                    [SyncScope::File, SyncScope::Written, SyncScope::Nothing][n as usize % 3];
                ring.write(file.clone(), u64::from(n), vec![n as u8], sync, n);
            }
            let mut seen: Vec<u32> = (0..count)
                .map(|_| {
                    let done = finished(&mut ring);
                    done.result.unwrap();
                    done.tag
                })
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_socket_is_watched_until_it_is_not() {
        let mut ring: Ring<u32> = Ring::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let id = ConnId {
            side: Side::In,
            key: Slab::new().insert(()),
        };
        let token = Token::conn(id);
        assert_eq!((token.side(), token.index()), (Some(Side::In), 0));
        ring.watch_conn(server.as_raw_fd(), token);
        let ready = |ring: &mut Ring<u32>| match wait_for(ring) {
            Done::Ready {
                token: found,
                hangup,
                ..
            } => {
                assert_eq!(found, token);
                hangup
            }
            Done::File(_) => panic!("no file is in use"),
        };
        assert!(!ready(&mut ring), "it can be written to");
        for _ in 0..3 {
            client.write_all(b"x").unwrap();
            assert!(!ready(&mut ring));
            server.read_exact(&mut [0]).unwrap();
        }
        drop(client);
        assert!(ready(&mut ring));
        ring.unwatch(token);
        ring.wait(Some(Duration::from_millis(10))).unwrap();
        assert!(ring.next().is_none());
    }

    #[test]
    fn a_call_from_another_thread_ends_the_sleep() {
        let mut ring: Ring<u32> = Ring::new().unwrap();
        for _ in 0..100 {
            let waker = ring.waker();
            let caller = std::thread::spawn(move || waker.wake());
            ring.wait(None).unwrap();
            caller.join().unwrap();
            while ring.next().is_some() {}
        }
    }
}
