//! A syslog receiver by RELP, after its specification ("RELP - The Reliable Event Logging Protocol",
//! version 0.0.1, `doc/relp.md` of librelp).
//!
//! Every message is answered by the receiver, `200 OK` once it has it. A batch counts when every message
//! of it was answered. A session that breaks off leaves at most a window of messages of which nobody
//! knows whether they arrived: they are sent again, with the ids they had. Nothing is lost that the
//! receiver does not lose after its answer.
//!
//! A message that is answered with an error is refused for good and goes to the dead letters; but a
//! receiver that refuses everything is itself at fault, and gets no more of them ([`doubt`](super::doubt)).
//!
//! Memory: the frames of one send, and of each message under way its number.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::Instant;

use shared::bell::Bell;
use shared::record::Stream;

use super::answered::{Answered, Slot};
use super::config::SyslogConfig;
use super::doubt::{Doubt, refuses_all};
use super::marked::Marked;
use super::transport::Connection;
use super::{Confirmed, Item, Sink, SinkError, syslog_format};
use crate::ledger::Ledger;

/// The RELP sink.
pub(super) struct RelpSink {
    config: SyslogConfig,
    window: usize,
    bell: Bell,
    session: Option<Session>,
    answered: Answered,
    /// Messages handed over and not noted as answered, in their order.
    under_way: VecDeque<UnderWay>,
    /// How many of these wait for an answer of the receiver.
    awaited: usize,
    doubt: Doubt,
    /// Refusals that are in doubt: they are forgotten when the batch breaks off.
    suspects: Vec<(Slot, u64, String)>,
    /// The marked record is to be sent.
    inquire: bool,
    /// The marked record was taken, and no record of this batch, which breaks off therefore.
    vouching: bool,
    /// The try before this one broke off so: what is refused once more is believed.
    vouched: bool,
    /// The marked record is under way, by this number.
    marked: Option<u32>,
    message: Vec<u8>,
}

/// One message.
#[derive(Debug)]
struct UnderWay {
    slot: Slot,
    sequence: u64,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Awaited {
        txnr: u32,
    },
    Refused(String),
    Taken,
    /// Too long to be sent.
    Unsendable(String),
}

/// One session: a connection that was opened.
struct Session {
    connection: Connection,
    address: String,
    /// The number of the last command.
    txnr: u32,
    /// Frames that are not sent yet.
    waiting: Vec<u8>,
    /// What was received and is not looked at yet.
    received: Vec<u8>,
}

impl RelpSink {
    /// A sink that connects when it has something to say.
    pub(super) fn new(config: SyslogConfig, window: usize, bell: Bell) -> Self {
        Self {
            config,
            window,
            bell,
            session: None,
            answered: Answered::default(),
            under_way: VecDeque::new(),
            awaited: 0,
            doubt: Doubt::default(),
            suspects: Vec::new(),
            inquire: false,
            vouching: false,
            vouched: false,
            marked: None,
            message: Vec::new(),
        }
    }

    /// Sends what waits, and takes answers until no more than so many are awaited.
    fn settle(&mut self, awaited_max: usize) -> Result<(), SinkError> {
        if let Some(session) = &mut self.session {
            session.send()?;
        }
        while self.session.is_some() && self.awaited > awaited_max {
            self.receive()?;
            if std::mem::take(&mut self.inquire) {
                self.ask()?;
            }
        }
        Ok(())
    }

    /// Waits for answers, and takes them.
    fn receive(&mut self) -> Result<(), SinkError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.connection.receive(&mut session.received, ACKNOWLEDGE)?;
        let mut received = std::mem::take(&mut session.received);
        let mut at = 0;
        while let Some((response, length)) =
            response(&received[at..]).map_err(|problem| self.broken(ACKNOWLEDGE, problem))?
        {
            self.take(response.txnr, &received[at..][response.data])?;
            at += length;
        }
        received.drain(..at);
        if let Some(session) = &mut self.session {
            session.received = received;
        }
        self.note();
        Ok(())
    }

    /// Sends a marked record and waits for its answer, to see who is at fault.
    fn ask(&mut self) -> Result<(), SinkError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let (message, config) = (&mut self.message, &self.config);
        Marked::now(Stream::Other)?.with(|item| {
            syslog_format::message(message, config, item.chain, item.record);
            Ok(())
        })?;
        self.marked = Some(session.command("syslog", &self.message));
        session.send()?;
        while self.marked.is_some() {
            self.receive()?;
        }
        // What was refused meanwhile was asked about.
        self.inquire = false;
        if self.doubt.nothing_taken() {
            // It may have been mended just now. The messages are not kept: the batch comes once more.
            self.vouching = true;
            let why =
                "it refused records and took a marked one: they are sent once more".to_owned();
            let place = self.config.endpoint.address.clone();
            return Err(SinkError::Answer { place, status: 200, why, retry_after: None });
        }
        self.doubt.borne_out();
        self.believe();
        Ok(())
    }

    /// What was refused until now is at fault itself.
    fn believe(&mut self) {
        for (slot, sequence, reason) in self.suspects.drain(..) {
            self.answered.refused(slot, sequence, reason);
        }
    }

    /// Takes one answer.
    fn take(&mut self, txnr: u32, answer: &[u8]) -> Result<(), SinkError> {
        if txnr == 0 {
            // The only hint there is: it goes away. What it has taken by then it answers for, or not.
            return Ok(());
        }
        let (status, why) = status(answer);
        if self.marked == Some(txnr) {
            let place = self.config.endpoint.address.clone();
            return match status {
                Some(200) => {
                    self.marked = None;
                    Ok(())
                }
                Some(status) => {
                    Err(refuses_all(SinkError::Answer { place, status, why, retry_after: None }))
                }
                None => Err(self.broken(ACKNOWLEDGE, "an answer has no status")),
            };
        }
        let awaited = State::Awaited { txnr };
        let found = self.under_way.iter().position(|one| one.state == awaited);
        let at = found.ok_or_else(|| self.broken(ACKNOWLEDGE, "it answered what was not asked"))?;
        self.under_way[at].state = match status {
            Some(200) => State::Taken,
            Some(status) => State::Refused(format!("{status} {why}")),
            None => return Err(self.broken(ACKNOWLEDGE, "an answer has no status")),
        };
        self.awaited -= 1;
        Ok(())
    }

    fn broken(&self, doing: &'static str, problem: &'static str) -> SinkError {
        broken(&self.config.endpoint.address, doing, problem)
    }

    /// Notes the answers before which there is no unanswered message.
    fn note(&mut self) {
        while let Some(one) =
            self.under_way.pop_front_if(|one| !matches!(one.state, State::Awaited { .. }))
        {
            match one.state {
                State::Awaited { .. } => {}
                State::Refused(reason) => {
                    self.suspects.push((one.slot, one.sequence, reason));
                    self.inquire |= self.doubt.refused(1);
                }
                State::Taken => {
                    self.answered.taken(one.slot, one.sequence);
                    if !self.doubt.nothing_taken() {
                        self.believe();
                        self.doubt.taken();
                        self.inquire = false;
                    } else if self.suspects.is_empty() {
                        self.doubt.taken();
                    }
                }
                State::Unsendable(reason) => {
                    self.answered.refused(one.slot, one.sequence, reason);
                }
            }
        }
    }
}

impl Sink for RelpSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.doubt.begin();
        if self.vouched {
            self.doubt.borne_out();
        }
        (self.inquire, self.marked) = (false, None);
        // It stood idle: the receiver may have ended the session.
        self.idle()?;
        if self.session.is_none() {
            self.session = Some(Session::open(&self.config, &self.bell)?);
        }
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let sequence = item.record.sequence.0;
        let Some(slot) = self.answered.slot(item.chain, sequence, Instant::now()) else {
            return Ok(0);
        };
        let Some(session) = &mut self.session else {
            return Ok(0);
        };
        syslog_format::message(&mut self.message, &self.config, item.chain, item.record);
        if self.message.len() > self.config.message_bytes_max {
            let reason = syslog_format::too_long(self.message.len(), self.config.message_bytes_max);
            self.under_way.push_back(UnderWay { slot, sequence, state: State::Unsendable(reason) });
            self.note();
            return Ok(0);
        }
        let txnr = session.command("syslog", &self.message);
        self.under_way.push_back(UnderWay { slot, sequence, state: State::Awaited { txnr } });
        self.awaited += 1;
        if session.waiting.len() >= SEND_BYTES {
            session.send()?;
        }
        if self.awaited >= self.window {
            // Half of it at a time: frames and answers travel in company.
            self.settle(self.window / 2)?;
        }
        Ok(self.message.len() as u64)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.settle(0)?;
        self.believe();
        self.vouched = false;
        Ok(Confirmed { position: None, rejected: self.answered.rejected() })
    }

    fn committed(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.answered.committed();
        Ok(())
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if let Some(session) = &mut self.session {
            // Nothing is awaited: whatever it says now, it says before it goes.
            match session.connection.is_quiet() {
                Ok(true) => {}
                Ok(false) => self.session = None,
                Err(error) => {
                    tracing::info!(%error, "an idle receiver ended the session");
                    self.session = None;
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.session = None;
        self.under_way.clear();
        self.suspects.clear();
        self.vouched = std::mem::take(&mut self.vouching);
        self.awaited = 0;
        self.answered.broke(Instant::now());
    }
}

impl Session {
    /// Connects and agrees on what is spoken.
    fn open(config: &SyslogConfig, bell: &Bell) -> Result<Self, SinkError> {
        let mut session = Self {
            connection: Connection::open(&config.endpoint, bell)?,
            address: config.endpoint.address.clone(),
            txnr: 0,
            waiting: Vec::new(),
            received: Vec::new(),
        };
        let txnr = session.command("open", OFFERS.as_bytes());
        session.send()?;
        loop {
            session.connection.receive(&mut session.received, OPEN)?;
            let found = response(&session.received);
            let Some((response, length)) =
                found.map_err(|problem| broken(&session.address, OPEN, problem))?
            else {
                continue;
            };
            let data = &session.received[response.data];
            if response.txnr == txnr {
                let (status, why) = status(data);
                match status {
                    Some(200) if takes_syslog(data) => {}
                    Some(200) => {
                        return Err(broken(
                            &session.address,
                            OPEN,
                            "it does not offer the command syslog",
                        ));
                    }
                    status => return Err(session.refused(status.unwrap_or(0), why)),
                }
                session.received.drain(..length);
                return Ok(session);
            }
            if response.txnr != 0 {
                return Err(broken(&session.address, OPEN, "it answered what was not asked"));
            }
            session.received.drain(..length);
        }
    }

    /// Appends a command to what is sent next; gives its number.
    fn command(&mut self, name: &str, data: &[u8]) -> u32 {
        self.txnr = if self.txnr == TXNR_MAX { 1 } else { self.txnr + 1 };
        // Writing to memory can't fail.
        let _ = write!(self.waiting, "{} {name} {}", self.txnr, data.len());
        if !data.is_empty() {
            self.waiting.push(b' ');
            self.waiting.extend_from_slice(data);
        }
        self.waiting.push(b'\n');
        self.txnr
    }

    fn send(&mut self) -> Result<(), SinkError> {
        self.connection.send(&self.waiting)?;
        self.waiting.clear();
        self.connection.flush()
    }

    fn refused(&self, status: u16, why: String) -> SinkError {
        SinkError::Answer { place: self.address.clone(), status, why, retry_after: None }
    }
}

fn broken(address: &str, doing: &'static str, problem: &'static str) -> SinkError {
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    SinkError::Network { address: address.to_owned(), doing, source }
}

impl Drop for Session {
    /// Says good-bye where that costs no time; the answer would tell nothing that matters. Not where a
    /// frame was sent in part: what follows would be taken for the rest of it.
    fn drop(&mut self) {
        if self.waiting.is_empty() {
            self.command("close", b"");
            self.connection.say_at_once(&self.waiting);
        }
    }
}

/// A frame of the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Response {
    /// The number of the command it answers; 0 for a hint.
    txnr: u32,
    data: std::ops::Range<usize>,
}

/// The frame at the start of `data` and its length, once all of it is there.
///
/// ```text
/// TXNR SP COMMAND SP DATALEN [SP DATA] LF        TXNR and DATALEN: 1 to 9 digits
/// ```
fn response(data: &[u8]) -> Result<Option<(Response, usize)>, &'static str> {
    let head = &data[..data.len().min(HEADER_BYTES_MAX)];
    // The header ends at the second space behind the command, or at the end of a frame without data.
    let mut fields = head.splitn(3, |byte| *byte == b' ');
    let (txnr, command) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let rest = fields.next().unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == rest.len() {
        let cut = head.len() == HEADER_BYTES_MAX;
        return if cut { Err("an answer has a malformed header") } else { Ok(None) };
    }
    let malformed = "an answer has a malformed header";
    let txnr = number(txnr).ok_or(malformed)?;
    let length = number(&rest[..digits]).ok_or(malformed)? as usize;
    // Answers come to commands, and hints to nothing.
    if !(command == b"rsp" && txnr > 0 || command != b"rsp" && txnr == 0) {
        return Err("it sent what is neither answer nor hint");
    }
    if length > RESPONSE_BYTES_MAX {
        return Err("an answer is too long");
    }
    let at = head.len() - rest.len() + digits;
    let begin = match (length, rest[digits]) {
        (0, b'\n') => at,
        // librelp writes the space where no data follows, too.
        (_, b' ') => at + 1,
        _ => return Err(malformed),
    };
    let end = begin + length;
    match data.get(end) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((Response { txnr, data: begin..end }, end + 1))),
        Some(_) => Err("an answer does not end where its length says"),
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok()?;
    (1..=9).contains(&text.len()).then(|| text.parse().ok()).flatten()
}

/// The status of an answer, and what a person may read.
fn status(data: &[u8]) -> (Option<u16>, String) {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let (code, text) = line.split_at(line.len().min(3));
    let code = std::str::from_utf8(code).ok().filter(|code| code.len() == 3);
    let text = String::from_utf8_lossy(&text[..text.len().min(REASON_BYTES_MAX)]);
    let text = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (code.and_then(|code| code.parse().ok()), text)
}

/// Whether the offers in the answer to `open` hold the command that we need.
fn takes_syslog(data: &[u8]) -> bool {
    data.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"commands=")).any(
        |commands| {
            commands.split(|byte| *byte == b',').any(|command| command.trim_ascii() == b"syslog")
        },
    )
}

/// The version is the one that librelp says: it means the specification's 1, and some servers take no
/// other.
const OFFERS: &str = concat!(
    "relp_version=0\nrelp_software=penstock,",
    env!("CARGO_PKG_VERSION"),
    "\ncommands=syslog"
);
const OPEN: &str = "open a RELP session";
const ACKNOWLEDGE: &str = "acknowledge what was sent";
/// The last transaction number before 1 comes again.
const TXNR_MAX: u32 = 999_999_999;
/// Two numbers, a command of 32 letters, three spaces.
const HEADER_BYTES_MAX: usize = 2 * 9 + 32 + 3;
/// A status and a text of 80 characters; offers of a few lines of at most 32 and 255 bytes.
const RESPONSE_BYTES_MAX: usize = 4096;
/// What the specification allows.
const REASON_BYTES_MAX: usize = 80;
/// A few TLS records at a time.
const SEND_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

    use super::*;
    use crate::ledger::ChainName;
    use crate::sink::Rejected;
    use crate::sink::config::{Body, Endpoint, SyslogFormat, Wire};
    use crate::testing::{START, Site};

    const WINDOW: usize = 8;
    /// The number of a message that is too long.
    const LONG: u64 = 200;

    /// A strict server for one session: every frame in order and whole. Answers in groups, and gives the
    /// messages it has answered for when the session ends.
    struct Server {
        listener: TcpListener,
    }

    /// What it does in a session.
    #[derive(Clone, Copy)]
    struct Manners {
        /// Answers once so many wait for one, or nothing more comes.
        group: usize,
        /// The message that is answered with an error; `*` for all.
        refused: &'static str,
        /// Ends the session before it would answer for so many.
        answers_max: usize,
    }

    const GOOD: Manners = Manners { group: 1, refused: "", answers_max: usize::MAX };

    impl Server {
        fn session(&self, manners: Manners) -> Vec<String> {
            let (mut stream, _) = self.listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (mut data, mut waiting, mut taken) = (Vec::new(), Vec::new(), Vec::new());
            let (mut expected, mut answers, mut over) = (1, 0, false);
            loop {
                let mut buffer = [0; 1000];
                let quiet = match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        data.extend_from_slice(&buffer[..count]);
                        false
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                    Err(_) => break,
                };
                while let Some((frame, length)) = frame(&data) {
                    assert_eq!(frame.0, expected);
                    assert!(!over, "nothing follows close");
                    expected += 1;
                    over = frame.1 == "close";
                    data.drain(..length);
                    waiting.push(frame);
                }
                assert!(waiting.len() <= WINDOW, "{} under way", waiting.len());
                if waiting.len() < manners.group && !quiet {
                    continue;
                }
                for (txnr, command, message) in waiting.drain(..) {
                    let answer = match command.as_str() {
                        "open" => {
                            assert!(message.starts_with("relp_version=0\n"), "{message}");
                            "200 OK\nrelp_version=0\ncommands=syslog".to_owned()
                        }
                        "close" => String::new(),
                        "syslog" if answers == manners.answers_max => {
                            let _ = stream.write_all(b"0 serverclose 0\n");
                            return taken;
                        }
                        "syslog" => {
                            answers += 1;
                            let refused = manners.refused == "*"
                                || message.strip_prefix("<34>") == Some(manners.refused);
                            if !refused {
                                taken.push(message);
                            }
                            if refused { "500 no\n" } else { "200 OK" }.to_owned()
                        }
                        other => panic!("{other}"),
                    };
                    let gap = if answer.is_empty() { "" } else { " " };
                    let _ = writeln!(stream, "{txnr} rsp {}{gap}{answer}", answer.len());
                }
            }
            taken
        }
    }

    fn frame(data: &[u8]) -> Option<((u32, String, String), usize)> {
        let text = std::str::from_utf8(data).unwrap();
        let header = text.find('\n')?;
        let mut fields = text[..header].splitn(4, ' ');
        let (txnr, command) = (fields.next()?.parse().unwrap(), fields.next()?.to_owned());
        let length: usize = fields.next()?.parse().unwrap();
        let begin = if length == 0 { header } else { header - fields.next()?.len() };
        let end = begin + length;
        let message = text.get(begin..end)?.to_owned();
        assert_eq!(data.get(end).copied()?, b'\n');
        Some(((txnr, command, message), end + 1))
    }

    struct Client {
        sink: RelpSink,
        site: Site,
    }

    impl Client {
        fn new(server: &Server) -> Self {
            let endpoint = Endpoint {
                address: server.listener.local_addr().unwrap().to_string(),
                tls: None,
                connect_timeout: Duration::from_secs(5),
                timeout: Duration::from_secs(5),
            };
            let config = SyslogConfig {
                endpoint,
                format: SyslogFormat::Rfc5424,
                body: Body::Original,
                bom: false,
                message_bytes_max: 480,
                wire: Wire::Relp { window: WINDOW },
            };
            Self { sink: RelpSink::new(config, WINDOW, Bell::default()), site: Site::new() }
        }

        /// One batch of messages `<34>FIRST` and so on.
        fn deliver(&mut self, first: u64, last: u64) -> Result<Vec<Rejected>, SinkError> {
            self.deliver_poisoned(first, last, 0)
        }

        /// The same; those before `good` are `<34>poison`.
        fn deliver_poisoned(
            &mut self,
            first: u64,
            last: u64,
            good: u64,
        ) -> Result<Vec<Rejected>, SinkError> {
            let origin = "plant-7".parse().unwrap();
            let chain = ChainName { origin, epoch: Epoch(1), lane: Lane::Routine };
            let mut ledger = self.site.ledger();
            let mut run = || -> Result<Vec<Rejected>, SinkError> {
                self.sink.begin(&mut ledger)?;
                for sequence in first..=last {
                    let long = if sequence == LONG { "x".repeat(500) } else { String::new() };
                    let raw = if sequence < good {
                        "<34>poison".to_owned()
                    } else {
                        format!("<34>{sequence}{long}")
                    };
                    let source = SourceTag::new("udp", "p", None);
                    let mut bytes = Vec::new();
                    let number = Sequence(sequence);
                    encode(&mut bytes, number, START, Stream::Other, &source, None, raw.as_bytes());
                    let record = parse(&bytes, 1 << 20).unwrap().0;
                    self.sink.write(Item { chain: &chain, bundle: 1, record: &record })?;
                }
                let rejected = self.sink.confirm()?.rejected;
                self.sink.committed(&mut ledger)?;
                Ok(rejected)
            };
            let done = run();
            if let Err(error) = &done {
                self.sink.reset(error);
            }
            done
        }
    }

    fn pair() -> (Server, Client) {
        let server = Server { listener: TcpListener::bind("127.0.0.1:0").unwrap() };
        let client = Client::new(&server);
        (server, client)
    }

    fn messages(numbers: impl Iterator<Item = u64>) -> Vec<String> {
        numbers.map(|number| format!("<34>{number}")).collect()
    }

    #[test]
    fn a_batch_counts_when_every_message_is_answered_for() {
        for group in [1, 3, WINDOW] {
            let (server, mut client) = pair();
            let serving = thread::spawn(move || server.session(Manners { group, ..GOOD }));
            assert_eq!(client.deliver(1, 50).unwrap(), []);
            // The session goes on.
            assert_eq!(client.deliver(51, 60).unwrap(), []);
            drop(client);
            assert_eq!(serving.join().unwrap(), messages(1..=60));
        }
    }

    #[test]
    fn after_a_break_only_what_was_not_answered_for_goes_again() {
        let (server, mut client) = pair();
        let serving = thread::spawn(move || {
            let short = Manners { answers_max: 20, ..GOOD };
            [server.session(short), server.session(short), server.session(GOOD)]
        });
        client.deliver(1, 60).unwrap_err();
        client.deliver(1, 60).unwrap_err();
        assert_eq!(client.deliver(1, 60).unwrap(), []);
        drop(client);
        let found = serving.join().unwrap();
        assert_eq!(found, [messages(1..=20), messages(21..=40), messages(41..=60)]);
    }

    #[test]
    fn what_is_refused_or_too_long_is_rejected_alone() {
        let (server, mut client) = pair();
        let manners = Manners { refused: "207", ..GOOD };
        let serving = thread::spawn(move || server.session(manners));
        let rejected = client.deliver(LONG, 210).unwrap();
        drop(client);
        assert_eq!(serving.join().unwrap(), messages((201..=210).filter(|n| *n != 207)));
        let found: Vec<_> = rejected.iter().map(|one| (one.sequence, &one.reason[..])).collect();
        let long = "the message has 507 bytes, and max-message-bytes is 480";
        assert_eq!(found, [(LONG, long), (207, "500 no")]);
    }

    #[test]
    fn who_refuses_everything_gets_no_more_of_it() {
        let (server, mut client) = pair();
        let serving = thread::spawn(move || {
            let no = Manners { refused: "*", ..GOOD };
            [server.session(no), server.session(no), server.session(GOOD)]
        });
        for _ in 0..2 {
            let error = client.deliver(1, 60).unwrap_err();
            assert!(matches!(error, SinkError::Answer { status: 500, .. }), "{error}");
        }
        // It is itself again, and nothing was given up meanwhile.
        assert_eq!(client.deliver(1, 60).unwrap(), []);
        drop(client);
        let [_, _, taken] = serving.join().unwrap();
        assert_eq!(taken, messages(1..=60));
    }

    #[test]
    fn poison_in_a_row_stops_nothing_that_is_behind_it() {
        let (server, mut client) = pair();
        let manners = Manners { refused: "poison", ..GOOD };
        let serving = thread::spawn(move || {
            // Each batch begins with poison, and is sent once more over another session.
            (0..4).flat_map(|_| server.session(manners)).collect::<Vec<_>>()
        });
        // Poison alone, poison before what is taken, more of it than is believed at once.
        for (first, last, poison) in [(1, 3, 3), (4, 60, 20), (61, 190, 100)] {
            let error = client.deliver_poisoned(first, last, first + poison).unwrap_err();
            assert!(error.to_string().contains("sent once more"), "{error}");
            let rejected = client.deliver_poisoned(first, last, first + poison).unwrap();
            let mut found: Vec<u64> = rejected.iter().map(|one| one.sequence).collect();
            found.sort_unstable();
            assert_eq!(found, (first..first + poison).collect::<Vec<_>>());
        }
        drop(client);
        let (marked, mut taken): (Vec<String>, Vec<String>) =
            serving.join().unwrap().into_iter().partition(|text| text.contains("nothing happened"));
        let all = taken.len();
        taken.sort_by_key(|text| text[4..].parse::<u64>().unwrap());
        taken.dedup();
        assert_eq!(taken, messages((24..=60).chain(161..=190)));
        assert!(all - taken.len() <= 3 * WINDOW, "{all}");
        // One for each batch; for the third also at 32 in a row, and perhaps at 64 more.
        assert!((4..=5).contains(&marked.len()), "{}", marked.len());
    }

    #[test]
    fn who_speaks_something_else_is_named() {
        for (said, named) in [
            ("HTTP/1.1 400 Bad Request\r\n\r\n", "malformed header"),
            ("1 rsp 21 200 OK\nrelp_version=0\n", "the command syslog"),
            ("1 rsp 15 500 not for you\n", "answered 500: not for you"),
            ("2 rsp 6 200 OK\n", "not asked"),
            ("", "end of file"),
        ] {
            let (server, mut client) = pair();
            let serving = thread::spawn(move || {
                let (mut stream, _) = server.listener.accept().unwrap();
                let mut opened = [0; 10];
                stream.read_exact(&mut opened).unwrap();
                stream.write_all(said.as_bytes()).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let error = crate::replay::chain_text(&client.deliver(1, 1).unwrap_err());
            drop(client);
            serving.join().unwrap();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn answers_whole_and_in_pieces() {
        let cases: [(&[u8], u32, &[u8]); 5] = [
            (b"1 rsp 6 200 OK\n", 1, b"200 OK"),
            (b"999999999 rsp 9 500 a\nb c\n", 999_999_999, b"500 a\nb c"),
            (b"0 serverclose 0\n", 0, b""),
            (b"0 serverclose 0 \n", 0, b""),
            (b"7 rsp 0\n", 7, b""),
        ];
        for (bytes, txnr, data) in cases {
            let (found, length) = response(bytes).unwrap().unwrap();
            assert_eq!((found.txnr, &bytes[found.data], length), (txnr, data, bytes.len()));
            for short in 0..bytes.len() {
                assert_eq!(response(&bytes[..short]), Ok(None), "{short} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_answer() {
        for bytes in [
            &b"x rsp 6 200 OK\n"[..],
            b" rsp 6 200 OK\n",
            b"1 rsp x 200 OK\n",
            b"1 rsp 6\n200 OK\n",
            b"1 rsp 5 200 OK\n",
            b"1 rsp 9999 ",
            b"1234567890 rsp 6 200 OK\n",
            b"1 syslog 1 a\n",
            b"0 rsp 6 200 OK\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            &[b'x'; 100],
        ] {
            assert!(response(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_an_answer_says() {
        assert_eq!(status(b"200 OK\nrelp_version=0"), (Some(200), "OK".to_owned()));
        assert_eq!(status(b"500 no\x07way"), (Some(500), "no way".to_owned()));
        assert_eq!(status(b"500"), (Some(500), String::new()));
        assert_eq!(status(b"20"), (None, String::new()));
        assert_eq!(status(b""), (None, String::new()));
        assert!(takes_syslog(b"200 OK\nrelp_version=0\ncommands=eventlog,syslog"));
        assert!(!takes_syslog(b"200 OK\nrelp_version=0\ncommands=eventlog"));
        assert!(!takes_syslog(b"200 OK"));
    }
}
