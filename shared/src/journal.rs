//! Logs to systemd's journal by its native protocol, so that each field of a line is a field there.
//!
//! Source of the format: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. A field is `NAME=value` and a
//! newline or, where the value holds a newline, the name, a newline, the value's length as a
//! little-endian u64, the value, a newline: nothing that comes from outside can add a field or a line.
//!
//! The crate `tracing-journald` was looked at. It throws a line away that it can't send; here such a line
//! goes to standard error, which the service manager keeps, too.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// What stands before the name of each of our fields.
const PREFIX: &str = "PENSTOCK_";
/// A longer value is cut: more is no line for a log. In bytes.
const VALUE_BYTES_MAX: usize = 32 << 10;
/// The journal takes no longer name. In bytes.
const NAME_BYTES_MAX: usize = 64;
/// A journal that takes nothing holds us no longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The journal, as a layer of `tracing`.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: String,
}

impl Journal {
    /// The journal, if standard error goes there: the service manager says so in `JOURNAL_STREAM`.
    pub(crate) fn of_stderr() -> Option<Self> {
        let said = std::env::var("JOURNAL_STREAM").ok()?;
        let found = fstat(io::stderr()).ok()?;
        if !names(&said, found.st_dev, found.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let program = std::env::args_os().next().map(PathBuf::from);
        let identifier = program.as_deref().and_then(Path::file_name);
        let identifier =
            identifier.map_or_else(|| "penstock".into(), |name| name.to_string_lossy());
        Ok(Self { socket, path: path.to_owned(), identifier: identifier.into_owned() })
    }

    /// Sends an entry: as a datagram or, where it is too long for one, as a sealed file in memory.
    fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, &self.path) {
            Err(err) if err.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32) => {
                self.send_file(entry)
            }
            sent => sent.map(|_| ()),
        }
    }

    fn send_file(&self, entry: &[u8]) -> io::Result<()> {
        let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
        let mut file = File::from(memfd_create("journal-entry", flags)?);
        file.write_all(entry)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        let descriptors = [file.as_raw_fd()];
        let with = [ControlMessage::ScmRights(&descriptors)];
        let to = UnixAddr::new(&self.path)?;
        sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(&[])],
            &with,
            MsgFlags::empty(),
            Some(&to),
        )?;
        Ok(())
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let priority = priority(*event.metadata().level());
        if self.send(&line.entry(priority, &self.identifier)).is_err() {
            // Nothing is left to tell of a failure of this.
            let _ = writeln!(io::stderr(), "<{priority}>{}", line.text());
        }
    }
}

/// Whether this is the file that `JOURNAL_STREAM` names, as `DEVICE:INODE`.
fn names(said: &str, device: u64, inode: u64) -> bool {
    let Some((dev, ino)) = said.split_once(':') else { return false };
    dev.parse() == Ok(device) && ino.parse() == Ok(inode)
}

/// As in syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What was said: a sentence, and fields.
#[derive(Default)]
struct Line {
    sentence: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn add(&mut self, field: &Field, mut value: String) {
        if value.len() > VALUE_BYTES_MAX {
            value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
            value.push_str(" ...");
        }
        match field.name() {
            "message" => self.sentence = value,
            name => self.fields.push((name, value)),
        }
    }

    /// For who reads messages alone: the sentence and what belongs to it, on one line.
    fn text(&self) -> String {
        let mut text = self.sentence.clone();
        for (name, value) in &self.fields {
            let _ = write!(text, " {name}={value}");
        }
        one_line(&text)
    }

    fn entry(&self, priority: u8, identifier: &str) -> Vec<u8> {
        let mut entry = Vec::new();
        put(&mut entry, "PRIORITY", &priority.to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", identifier);
        put(&mut entry, "MESSAGE", &self.text());
        for (name, value) in &self.fields {
            put(&mut entry, &field_name(name), value);
        }
        entry
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

fn field_name(name: &str) -> String {
    let of = |byte: u8| {
        if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() as char } else { '_' }
    };
    PREFIX.chars().chain(name.bytes().map(of)).take(NAME_BYTES_MAX).collect()
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// Text without line breaks and without what steers a terminal: such characters are written as in source code.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() && char != '\t' {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{IoSliceMut, Read, Seek};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The journal's own way of reading an entry.
    fn parsed(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            if let Some(at) = line.iter().position(|byte| *byte == b'=') {
                fields.insert(text(&line[..at]), text(&line[at + 1..]));
                entry = rest;
            } else {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                fields.insert(text(line), text(&rest[8..8 + length]));
                assert_eq!(rest[8 + length], b'\n');
                entry = &rest[8 + length + 1..];
            }
        }
        fields
    }

    fn listening() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        (dir, listener, journal)
    }

    #[test]
    fn fields_are_fields_and_nothing_from_outside_becomes_one() {
        let (_dir, listener, journal) = listening();
        let evil = "x\nPRIORITY=0\nMESSAGE=forged \u{1b}[2J";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            tracing::warn!(stream = "falco", bundle = 7_u64, error = %evil, "it failed");
        });
        let mut bytes = [0; 4096];
        let length = listener.recv(&mut bytes).unwrap();
        let fields = parsed(&bytes[..length]);
        assert_eq!(fields["PRIORITY"], "4");
        assert_eq!(fields["PENSTOCK_STREAM"], "falco");
        assert_eq!(fields["PENSTOCK_BUNDLE"], "7");
        assert_eq!(fields["PENSTOCK_ERROR"], evil);
        assert_eq!(
            fields["MESSAGE"],
            "it failed stream=falco bundle=7 error=x\\nPRIORITY=0\\nMESSAGE=forged \\u{1b}[2J"
        );
        assert!(fields["SYSLOG_IDENTIFIER"].starts_with("shared-"), "{fields:?}");
        assert_eq!(fields.len(), 6, "{fields:?}");
    }

    #[test]
    fn what_is_too_long_for_a_datagram_goes_as_a_sealed_file() {
        let (_dir, listener, journal) = listening();
        let long = "y".repeat(VALUE_BYTES_MAX * 2);
        let fields = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut line = Line { sentence: "long".to_owned(), ..Line::default() };
        line.fields = fields.map(|name| (name, long.clone())).to_vec();
        let entry = line.entry(6, "x");
        journal.send(&entry).unwrap();
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut bytes = [0; 16];
        let mut into = [IoSliceMut::new(&mut bytes)];
        let message = nix::sys::socket::recvmsg::<UnixAddr>(
            listener.as_raw_fd(),
            &mut into,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .unwrap();
        let descriptor = message.cmsgs().unwrap().find_map(|with| match with {
            nix::sys::socket::ControlMessageOwned::ScmRights(found) => Some(found[0]),
            _ => None,
        });
        // What was received can be opened by its number without taking it over.
        let path = format!("/proc/self/fd/{}", descriptor.unwrap());
        let mut file = File::open(path).unwrap();
        let mut received = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut received).unwrap();
        assert_eq!(received, entry);
        nix::unistd::close(descriptor.unwrap()).unwrap();
    }

    #[test]
    fn a_long_value_is_cut_and_a_journal_that_is_gone_is_an_error() {
        let (dir, listener, journal) = listening();
        drop(listener);
        std::fs::remove_file(dir.path().join("socket")).unwrap();
        assert!(journal.send(b"MESSAGE=x\n").is_err());
        // The line goes to standard error; nothing panics.
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            tracing::error!("nobody listens");
        });
        assert_eq!(field_name("open-bundle.id"), "PENSTOCK_OPEN_BUNDLE_ID");
        assert_eq!(field_name(&"n".repeat(99)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn only_the_stream_that_the_service_manager_made_is_the_journal() {
        assert!(names("8:42", 8, 42));
        for said in ["8:41", "9:42", "8", "", "8:42:1", "x:y"] {
            assert!(!names(said, 8, 42), "{said}");
        }
    }
}
