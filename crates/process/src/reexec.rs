//! Inherited descriptors. They come from systemd, which listens for us (`LISTEN_FDS`,
//! sd_listen_fds(3)), or from ourselves: in an in-place upgrade, the same process goes
//! on with another program and keeps its ports and its memory. The call is a re-exec. The
//! former program calls it, the next program runs after it.
//!
//! # The hand-over
//! Listeners are always passed as systemd passes them: from descriptor 3 up, with
//! `LISTEN_PID` and `LISTEN_FDS`. So every program that knows systemd's protocol gets
//! at least the ports. One environment variable names everything else:
//!
//! | Version | Variable | |
//! |---|---|---|
//! | 1 | `pid:listener:state:connections` | `connections` is a file with the connections' descriptors as text. We read this version, but do not write it |
//! | 2 | `2:pid:descriptor` | `descriptor` is a file with one JSON object, a `Manifest` |
//!
//! A later version must begin with `version:pid:` too, and must not have four fields.
//! A reader ignores unknown fields of the object.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::fs::{File, read_dir};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process;

use nix::unistd::execve;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, MemfdFlags, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{DupFlags, FdFlags, dup3, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The hand-over versions that [`Start::take`] reads.
pub const VERSIONS: [u32; 2] = [1, 2];
/// The hand-over version that [`replace`] writes.
pub const WRITTEN: u32 = 2;

/// The beginning of the line that lists [`VERSIONS`].
const VERSIONS_LINE: &str = "# hand-over versions:";
/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;

/// The line in which a program says which hand-over versions it takes.
pub fn versions_line() -> String {
    let versions = VERSIONS.map(|version| version.to_string());
    format!("{VERSIONS_LINE} {}", versions.join(" "))
}

/// Whether a program that prints `text` takes the hand-over that [`replace`] writes.
pub fn takes_ours(text: &str) -> bool {
    let mut versions = text.lines().filter_map(|line| line.strip_prefix(VERSIONS_LINE));
    versions.any(|versions| versions.split_whitespace().any(|version| version.parse() == Ok(WRITTEN)))
}

/// What a process has when it starts.
#[derive(Debug)]
pub struct Start<A> {
    /// What the process inherited.
    pub inherited: Inherited<A>,
    /// Where the listeners go in a re-exec.
    pub seats: Seats,
    /// What was not inherited, and why. Each is a sentence for the log.
    pub remarks: Vec<String>,
}

/// What a process inherited.
#[derive(Debug)]
pub enum Inherited<A> {
    /// Nothing.
    Nothing,
    /// Listeners from systemd: one or more.
    Listeners(Vec<OwnedFd>),
    /// The hand-over of the former program of this process.
    Image(Image<A>),
}

/// What one program hands over to the next.
#[derive(Debug)]
pub struct Image<A> {
    /// The listeners. The list is empty only if the hand-over is unusable and no
    /// listener was found.
    pub listeners: Vec<OwnedFd>,
    /// The Unix socket that the former program listened on, if it was handed over.
    pub local: Option<OwnedFd>,
    /// The former program's state, if it was handed over.
    pub state: Option<File>,
    /// The connections that were handed over.
    pub connections: Vec<Connection<A>>,
}

/// A connection that one program hands over to the next.
#[derive(Debug)]
pub struct Connection<A> {
    /// The connection's socket.
    pub socket: OwnedFd,
    /// What the program hands over about the connection.
    pub about: A,
}

/// The file of hand-over version 2.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest<A> {
    version: u32,
    #[serde(default)]
    listeners: Vec<Passed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<Passed>,
    #[serde(default)]
    state: Option<Passed>,
    #[serde(default = "Vec::new")]
    connections: Vec<PassedConnection<A>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Passed {
    fd: RawFd,
}

#[derive(Debug, Serialize, Deserialize)]
struct PassedConnection<A> {
    fd: RawFd,
    #[serde(flatten)]
    about: A,
}

/// What the environment variable says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticket {
    Version1 { listener: RawFd, state: RawFd, connections: RawFd },
    Version2 { manifest: RawFd },
    Unknown { version: u32 },
}

impl Ticket {
    /// `None` if the text is not for the process `pid`, or is not valid.
    fn parse(text: &str, pid: u32) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        let number = |field: &str| field.parse::<RawFd>().ok();
        let is_ours = |field: &str| field.parse() == Ok(pid);
        match *fields {
            [first, listener, state, connections] if is_ours(first) => Some(Self::Version1 {
                listener: number(listener)?,
                state: number(state)?,
                connections: number(connections)?,
            }),
            [version, of, ref rest @ ..] if is_ours(of) => {
                let version = version.parse().ok()?;
                match *rest {
                    [manifest] if version == 2 => Some(Self::Version2 { manifest: number(manifest)? }),
                    _ => Some(Self::Unknown { version }),
                }
            }
            _ => None,
        }
    }
}

impl<A: DeserializeOwned + Default> Start<A> {
    /// Takes what this process inherited. `variable` is the environment variable of the
    /// hand-over. `most` is the most listeners that this process will hand over itself.
    /// Call it once, before anything else opens a descriptor.
    ///
    /// # Errors
    /// The process has no descriptors left for the [`Seats`].
    pub fn take(variable: &str, most: usize) -> io::Result<Self> {
        let mut remarks = Vec::new();
        let above = RawFd::try_from(most).ok().and_then(|most| FIRST.checked_add(most));
        let mut claims = Claims::new(above.ok_or(io::ErrorKind::InvalidInput)?);
        let ticket = env::var(variable).ok().and_then(|text| Ticket::parse(&text, process::id()));
        let inherited = match ticket {
            None => match claims.listeners(&mut remarks) {
                listeners if listeners.is_empty() => Inherited::Nothing,
                listeners => Inherited::Listeners(listeners),
            },
            Some(ticket) => {
                let mut image = claims.image(ticket).unwrap_or_else(|why| {
                    remarks.push(format!(
                        "the hand-over of the former image is not used, so its memory and its connections \
                         are lost: {why}"
                    ));
                    Image {
                        listeners: claims.listeners(&mut remarks),
                        local: None,
                        state: None,
                        connections: Vec::new(),
                    }
                });
                claims.sweep(&mut image.listeners, &mut remarks);
                Inherited::Image(image)
            }
        };
        Ok(Self { inherited, seats: Seats::reserve(&claims)?, remarks })
    }
}

/// The numbers of the descriptors that have been taken. Each is taken once.
struct Claims {
    taken: BTreeSet<RawFd>,
    /// Numbers below this one are for the [`Seats`].
    above: RawFd,
}

impl Claims {
    const fn new(above: RawFd) -> Self {
        Self { taken: BTreeSet::new(), above }
    }

    /// Takes an inherited descriptor, and marks it so that the next program does not
    /// inherit it. `None` if it is not open, or was taken before.
    fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        if number < FIRST || !self.taken.insert(number) {
            return None;
        }
        let descriptor = own(number);
        if fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_err() {
            // The descriptor is not open, so it must not be closed either.
            let _ = descriptor.into_raw_fd();
            return None;
        }
        if number >= self.above {
            return Some(descriptor);
        }
        let moved = fcntl_dupfd_cloexec(&descriptor, self.above).ok()?;
        self.taken.insert(moved.as_raw_fd());
        Some(moved)
    }

    /// The listeners that `LISTEN_PID` and `LISTEN_FDS` announce.
    fn listeners(&mut self, remarks: &mut Vec<String>) -> Vec<OwnedFd> {
        let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(process::id()));
        let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<RawFd>().ok());
        let count = count.filter(|_| is_ours).unwrap_or(0);
        // The numbers have no gaps: the first descriptor that is missing is the end.
        let listeners: Vec<_> =
            (FIRST..).take(count.try_into().unwrap_or(0)).map_while(|it| self.take(it)).collect();
        if i32::try_from(listeners.len()) != Ok(count.max(0)) {
            remarks.push(format!("LISTEN_FDS is {count}, but only {} descriptors are open", listeners.len()));
        }
        listeners
    }

    /// What a hand-over names, or the reason why it cannot be used.
    fn image<A: DeserializeOwned + Default>(&mut self, ticket: Ticket) -> Result<Image<A>, String> {
        match ticket {
            Ticket::Unknown { version } => Err(format!(
                "it has version {version}, and this program takes {}",
                VERSIONS.map(|version| version.to_string()).join(" and ")
            )),
            Ticket::Version1 { listener, state, connections } => {
                let mut list = String::new();
                // Without the list, only the connections are lost.
                let _ = self.take(connections).map(|it| File::from(it).read_to_string(&mut list));
                let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
                let sockets = numbers.filter_map(|number| self.take(number));
                let connections = sockets.map(|socket| Connection { socket, about: A::default() }).collect();
                Ok(Image {
                    listeners: self.take(listener).into_iter().collect(),
                    local: None,
                    state: self.take(state).map(File::from),
                    connections,
                })
            }
            Ticket::Version2 { manifest } => {
                let file = self.take(manifest).ok_or("its list is not open")?;
                let manifest: Manifest<A> = serde_json::from_reader(BufReader::new(File::from(file)))
                    .map_err(|error| format!("its list cannot be read: {error}"))?;
                if manifest.version != 2 {
                    return Err(format!("its list has version {}", manifest.version));
                }
                let listeners = manifest.listeners.iter().filter_map(|it| self.take(it.fd)).collect();
                let local = manifest.local.and_then(|it| self.take(it.fd));
                let state = manifest.state.and_then(|it| self.take(it.fd)).map(File::from);
                let connections =
                    manifest.connections.into_iter().filter_map(|PassedConnection { fd, about }| {
                        Some(Connection { socket: self.take(fd)?, about })
                    });
                Ok(Image { connections: connections.collect(), listeners, local, state })
            }
        }
    }

    /// Closes sockets and memory that the former program left open and the hand-over
    /// does not name. On such a connection a client would wait for ever, and no process could
    /// bind the port of such a listener. If `listeners` is empty, the listeners that are
    /// found here go into it instead. Other descriptors stay open: the process may have
    /// been started with them, for instance with a lock.
    fn sweep(&mut self, listeners: &mut Vec<OwnedFd>, remarks: &mut Vec<String>) {
        let names = read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let numbers: Vec<RawFd> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        let (mut closed, finds) = (0, listeners.is_empty());
        for number in numbers {
            if number < FIRST || self.taken.contains(&number) || !is_left_open(number) {
                continue;
            }
            let Some(descriptor) = self.take(number) else { continue };
            if finds && is_port(&descriptor) {
                listeners.push(descriptor);
            } else {
                closed += 1;
            }
        }
        if closed > 0 {
            remarks.push(format!(
                "the former image passed on {closed} descriptors that no hand-over names; they are closed"
            ));
        }
    }
}

/// Whether this number is an inherited socket or inherited memory.
fn is_left_open(number: RawFd) -> bool {
    let descriptor = ManuallyDrop::new(own(number));
    let is_inherited = fcntl_getfd(&*descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC));
    let is_socket =
        || fstat(&*descriptor).is_ok_and(|about| FileType::from_raw_mode(about.st_mode).is_socket());
    is_inherited && (is_socket() || fcntl_get_seals(&*descriptor).is_ok())
}

/// Whether the descriptor is a socket that listens on an IPv4 or IPv6 port.
fn is_port(descriptor: &OwnedFd) -> bool {
    let is_inet = socket_domain(descriptor)
        .is_ok_and(|family| family == AddressFamily::INET || family == AddressFamily::INET6);
    is_inet && socket_acceptconn(descriptor).unwrap_or(false)
}

/// Descriptors from 3 up. The process keeps these numbers from the start, so that
/// nothing else gets them. In a re-exec the listeners go here.
#[derive(Debug)]
pub struct Seats {
    seats: Vec<OwnedFd>,
    placeholder: OwnedFd,
}

impl Seats {
    fn reserve(claims: &Claims) -> io::Result<Self> {
        let placeholder = fcntl_dupfd_cloexec(eventfd(0, EventfdFlags::CLOEXEC)?, claims.above)?;
        let mut seats = Vec::new();
        for number in FIRST..claims.above {
            let mut seat = fcntl_dupfd_cloexec(&placeholder, number)?;
            if seat.as_raw_fd() != number {
                // The process was started with this descriptor open. It stays open
                // under another number.
                seat = own(number);
                let moved = fcntl_dupfd_cloexec(&seat, claims.above)?;
                fcntl_setfd(&moved, FdFlags::empty())?;
                let _ = moved.into_raw_fd();
                dup3(&placeholder, &mut seat, DupFlags::CLOEXEC)?;
            }
            seats.push(seat);
        }
        Ok(Self { seats, placeholder })
    }

    /// Puts the listeners where the next program expects them.
    fn fill(&mut self, listeners: &[BorrowedFd<'_>]) -> io::Result<()> {
        if listeners.len() > self.seats.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are more listeners than seats"));
        }
        for (seat, listener) in self.seats.iter_mut().zip(listeners) {
            dup3(listener, seat, DupFlags::empty())?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        for seat in &mut self.seats {
            // This fails only for a number that is not open.
            let _ = dup3(&self.placeholder, seat, DupFlags::CLOEXEC);
        }
    }
}

/// Memory that looks like a file and outlives a re-exec.
///
/// # Errors
/// The system has no memory or no descriptor left.
pub fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// What is handed over besides the listeners.
#[derive(Debug)]
pub struct Memory<'a, A> {
    /// The Unix socket that this program listens on.
    pub local: Option<BorrowedFd<'a>>,
    /// The state, ready to be read.
    pub state: &'a File,
    /// The connections: descriptors that an exec does not close, and what the program
    /// hands over about each.
    pub connections: &'a [(RawFd, A)],
}

/// Replaces this program with the one at `program`, in the same process and with the
/// same arguments: a re-exec. The listeners are handed over. If there is `memory`, it is
/// handed over too, in the environment variable `variable`. The kernel closes all other
/// descriptors that this process opened. The call returns only if the re-exec failed, and
/// then all is as before.
pub fn replace<A: Serialize>(
    program: &Path,
    variable: &str,
    seats: &mut Seats,
    listeners: &[BorrowedFd<'_>],
    memory: Option<&Memory<'_, A>>,
) -> io::Error {
    let mut along = Vec::new();
    if let Some(memory) = memory {
        along.push(memory.state.as_fd());
        along.extend(memory.local);
    }
    let keep = |how: FdFlags| along.iter().try_for_each(|descriptor| fcntl_setfd(descriptor, how));
    let mut run = || -> io::Result<Infallible> {
        let manifest = memory.map(|memory| manifest(listeners.len(), memory)).transpose()?;
        keep(FdFlags::empty())?;
        seats.fill(listeners)?;
        let id = process::id();
        let mut variables = vec![("LISTEN_PID", id.to_string()), ("LISTEN_FDS", listeners.len().to_string())];
        if let Some(manifest) = &manifest {
            fcntl_setfd(manifest, FdFlags::empty())?;
            variables.push((variable, format!("{WRITTEN}:{id}:{}", manifest.as_raw_fd())));
        }
        exec(program, variable, variables)
    };
    let result = run();
    // The re-exec failed. Commands that we start later must not inherit these.
    let _ = keep(FdFlags::CLOEXEC);
    seats.clear();
    match result {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The manifest of the hand-over, as a file that is ready to be read.
fn manifest<A: Serialize>(listeners: usize, memory: &Memory<'_, A>) -> io::Result<File> {
    let passed = |(_, fd)| Passed { fd };
    let manifest = Manifest {
        version: WRITTEN,
        listeners: (0..listeners).zip(FIRST..).map(passed).collect(),
        local: memory.local.map(|local| Passed { fd: local.as_raw_fd() }),
        state: Some(Passed { fd: memory.state.as_raw_fd() }),
        connections: memory
            .connections
            .iter()
            .map(|(fd, about)| PassedConnection { fd: *fd, about })
            .collect(),
    };
    let mut out = BufWriter::new(self::memory("hand-over")?);
    serde_json::to_writer(&mut out, &manifest)?;
    let mut file = out.into_inner()?;
    file.rewind()?;
    Ok(file)
}

/// Calls `execve(2)` itself: the standard library would unblock all signals, and a
/// signal that waits would end the next program before it can read the signal.
fn exec(program: &Path, handover: &str, variables: Vec<(&str, String)>) -> io::Result<Infallible> {
    let text = |text: OsString| CString::new(text.into_vec());
    let program = text(program.into())?;
    let arguments = env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let former = [handover, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    let others = env::vars_os().filter(|(name, _)| former.iter().all(|former| name != former));
    let ours = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
    let variables = others.chain(ours).map(|(mut variable, value): (OsString, OsString)| {
        variable.push("=");
        variable.push(value);
        text(variable)
    });
    Ok(execve(&program, &arguments, &variables.collect::<Result<Vec<_>, _>>()?)?)
}

#[expect(unsafe_code, reason = "an inherited descriptor is only a number")]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: at the start of the process nothing else in it owns a descriptor.
    // Every caller gives a number that was not taken before, and gives up the
    // ownership again if the descriptor is not open or stays somebody else's.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_is_told_by_its_version_and_is_for_one_process() {
        let version_1 = Ticket::Version1 { listener: 5, state: 6, connections: 7 };
        let version_2 = Ticket::Version2 { manifest: 9 };
        for (text, ticket) in [
            ("42:5:6:7", Some(version_1)),
            ("2:42:9", Some(version_2)),
            ("3:42:9", Some(Ticket::Unknown { version: 3 })),
            ("3:42", Some(Ticket::Unknown { version: 3 })),
            ("2:42:9:10:11", Some(Ticket::Unknown { version: 2 })),
            ("43:5:6:7", None),
            ("2:43:9", None),
            ("42:5:6:x", None),
            ("", None),
        ] {
            assert_eq!(Ticket::parse(text, 42), ticket, "{text}");
        }
        // The id of a process may equal the number of a version.
        assert_eq!(Ticket::parse("2:5:6:7", 2), Some(version_1));
        assert_eq!(Ticket::parse("2:2:9", 2), Some(version_2));
    }

    #[test]
    fn a_program_takes_our_hand_over_if_it_says_so() {
        assert!(takes_ours(&versions_line()));
        assert!(takes_ours("A=1\n# hand-over versions: 2 3\nB=2"));
        assert!(!takes_ours("# hand-over versions: 1 20\n"));
        assert!(!takes_ours("A=2\n"));
    }

    /// Every later program must read this text.
    #[test]
    fn the_list_of_version_2_is_read_and_may_grow() {
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        struct About {
            read: u32,
        }
        let text =
            r#"{"version":2,"listeners":[{"fd":3}],"state":{"fd":7},"connections":[{"fd":8},{"fd":9}]}"#;
        let manifest: Manifest<About> = serde_json::from_str(text).unwrap();
        assert_eq!((manifest.listeners[0].fd, manifest.state.unwrap().fd), (3, 7));
        assert_eq!(manifest.connections[1].about, About { read: 0 });
        let later = r#"{"version":2,"clock":1,"listeners":[{"fd":3,"kind":"tcp"}],"connections":[{"fd":8,"read":5}]}"#;
        let manifest: Manifest<About> = serde_json::from_str(later).unwrap();
        assert_eq!((manifest.connections[0].about.read, manifest.state.is_none()), (5, true));
        assert_eq!(
            serde_json::to_string(&Manifest { state: None, ..manifest }).unwrap(),
            r#"{"version":2,"listeners":[{"fd":3}],"state":null,"connections":[{"fd":8,"read":5}]}"#
        );
    }
}
