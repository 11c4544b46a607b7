//! The messages: RFC 5424 with a JSON audit payload, each a pure function of its id.
//!
//! Bodies are built once, so that a message costs a copy and a few patched bytes. The pool is larger
//! than the windows of zstd's usual levels, and each message carries 32 digits of its own: repeated
//! bodies must not make a compressing receiver look better than it is.

use std::fmt::Write as _;

use crate::oracle::{ID_DIGITS, id_text};

/// How messages are kept apart on a stream (RFC 6587).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each message ends with a line feed.
    Lf,
    /// One message is one datagram.
    None,
    /// Each message begins with its length.
    Octet,
}

/// Messages ready to be sent.
#[derive(Debug)]
pub struct Pool {
    templates: Vec<Template>,
}

#[derive(Debug)]
struct Template {
    /// Frame and message, with zeros where the id and the request stand.
    bytes: Vec<u8>,
    id_at: usize,
    request_at: usize,
}

impl Pool {
    /// A pool of messages of 600 to 900 bytes, 750 on average, or all of one size.
    ///
    /// # Panics
    /// When `size` is below [`SIZE_MIN`].
    pub fn new(framing: Framing, size: Option<usize>) -> Self {
        assert!(size.is_none_or(|size| size >= SIZE_MIN), "a message has {SIZE_MIN} bytes or more");
        let template = |slot: u64| {
            let spread = (mix(slot) % SIZE_SPREAD) as usize;
            Template::new(slot, size.unwrap_or(SIZE_LEAST + spread), framing)
        };
        Self { templates: (0..POOL_SLOTS).map(template).collect() }
    }

    /// Appends the framed message of this id.
    pub fn append(&self, id: u64, out: &mut Vec<u8>) {
        let template = &self.templates[(id % POOL_SLOTS) as usize];
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let message = &mut out[start..];
        let mut rest = id;
        for digit in message[template.id_at..template.id_at + ID_DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let words = [mix(id), mix(!id)];
        for (digit, nibble) in message[template.request_at..].iter_mut().zip(0..REQUEST_DIGITS) {
            let value = words[nibble / 16] >> (4 * (nibble % 16)) & 15;
            *digit = HEX[value as usize];
        }
    }

    /// The message of this id without its frame: what a receiver must store.
    pub fn message(id: u64, size: Option<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        Self::new(Framing::None, size).append(id, &mut out);
        out
    }
}

impl Template {
    fn new(slot: u64, size: usize, framing: Framing) -> Self {
        let mut message = format!(
            "<110>1 2026-11-23T21:10:19.{:06}Z portainer-{} portainer 812 useractivity - \
             {{\"id\":\"{}\",\"timestamp\":1795468219,\"username\":\"{}\",\"context\":\"edge-{}\",\
             \"action\":\"{} /api/endpoints/{}/docker/{}\",\"request\":\"",
            mix(slot) % 1_000_000,
            slot % 5,
            id_text(0),
            pick(USERS, slot),
            mix(slot + 1) % 50,
            pick(METHODS, mix(slot + 2)),
            mix(slot + 3) % 50,
            pick(RESOURCES, mix(slot + 4)),
        );
        let id_at = message.find(&id_text(0)).map_or(0, |at| at + id_text(0).len() - ID_DIGITS);
        let request_at = message.len();
        message.push_str(&"0".repeat(REQUEST_DIGITS));
        message.push_str("\",\"payload\":\"");
        let mut state = mix(slot ^ PAYLOAD_SALT);
        while message.len() + PAYLOAD_END.len() < size {
            state = mix(state);
            if state.is_multiple_of(4) {
                let _ = write!(message, "{state:016x} ");
            } else {
                message.push_str(pick(WORDS, state >> 8));
                message.push(' ');
            }
        }
        message.truncate(size - PAYLOAD_END.len());
        message.push_str(PAYLOAD_END);
        let prefix = match framing {
            Framing::Octet => format!("{} ", message.len()),
            Framing::Lf | Framing::None => String::new(),
        };
        if framing == Framing::Lf {
            message.push('\n');
        }
        Self {
            id_at: prefix.len() + id_at,
            request_at: prefix.len() + request_at,
            bytes: (prefix + &message).into_bytes(),
        }
    }
}

fn pick(words: &'static [&'static str], number: u64) -> &'static str {
    words[(number % words.len() as u64) as usize]
}

/// The finalizer of splitmix64: spreads consecutive numbers.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The smallest size of a message, in bytes: its fixed part fits.
pub const SIZE_MIN: usize = 400;

const SIZE_LEAST: usize = 600;
const SIZE_SPREAD: u64 = 301;
/// About 6 MB of messages.
const POOL_SLOTS: u64 = 8192;
/// Keeps the words of a payload apart from the other choices of its slot.
const PAYLOAD_SALT: u64 = 1 << 40;
const PAYLOAD_END: &str = "\"}";
const REQUEST_DIGITS: usize = 32;
const HEX: &[u8; 16] = b"0123456789abcdef";
const METHODS: &[&str] = &["POST", "PUT", "DELETE", "PATCH"];
const RESOURCES: &[&str] = &[
    "containers/create",
    "containers/json",
    "images/create",
    "networks/prune",
    "volumes/create",
    "secrets/create",
    "exec/start",
    "services/update",
    "configs/create",
    "nodes/update",
];
const USERS: &[&str] = &["alice", "bao", "chidi", "dagny", "emeka", "farida", "goran", "hana"];
const WORDS: &[&str] = &[
    "restart",
    "policy",
    "always",
    "image",
    "registry.example",
    "nginx",
    "postgres",
    "label",
    "owner",
    "team",
    "payments",
    "volume",
    "mount",
    "read-only",
    "network",
    "bridge",
    "overlay",
    "port",
    "expose",
    "limit",
    "memory",
    "cpu",
    "secret",
    "config",
    "environment",
    "replica",
    "namespace",
    "cluster",
    "role",
    "binding",
    "admission",
    "node",
    "drain",
    "cordon",
    "stack",
    "webhook",
    "token",
    "session",
    "login",
    "logout",
    "denied",
    "granted",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::find_id;

    #[test]
    fn a_message_is_a_pure_function_of_its_id() {
        let pool = Pool::new(Framing::Octet, None);
        let sizes: Vec<usize> = (1..=POOL_SLOTS)
            .map(|id| {
                let mut framed = Vec::new();
                pool.append(id, &mut framed);
                let message = &framed[4..];
                assert_eq!(framed[..4], *format!("{} ", message.len()).as_bytes());
                let (found, end) = find_id(message).unwrap();
                assert_eq!((found, find_id(&message[end..])), (id, None), "one id a message");
                let json = message.iter().position(|byte| *byte == b'{').unwrap();
                let event: serde_json::Value = serde_json::from_slice(&message[json..]).unwrap();
                assert_eq!(event["id"], id_text(id));
                message.len()
            })
            .collect();
        assert!(sizes.iter().all(|size| (600..=900).contains(size)));
        let average = sizes.iter().sum::<usize>() / sizes.len();
        assert!((740..=760).contains(&average), "{average}");
        assert_ne!(Pool::message(7, None), Pool::message(7 + POOL_SLOTS, None));
    }

    #[test]
    fn sizes_can_be_fixed_and_lines_end() {
        let mut out = Vec::new();
        Pool::new(Framing::Lf, Some(800)).append(3, &mut out);
        assert_eq!((out.len(), out.last()), (801, Some(&b'\n')));
        assert_eq!(Pool::message(3, Some(SIZE_MIN)).len(), SIZE_MIN);
    }
}
