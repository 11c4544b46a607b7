//! The client's side of the proofs that both sides share a key.
//!
//! ```text
//! server  ["HELO", {nonce, auth, keepalive}]
//! client  ["PING", host, salt, sha512(salt host nonce key), user, sha512(auth user password)]
//! server  ["PONG", ok, reason, host, sha512(salt host nonce key)]
//! ```

use std::fmt::Write as _;

use sha2::{Digest, Sha512};
use shared::msgpack::{self, Head, head, push_text};
use zeroize::Zeroizing;

use super::super::SinkError;
use super::super::config::ForwardConfig;
use super::super::transport::Connection;
use super::{ANSWER_BYTES_MAX, odd, text};
use crate::http::credential;

/// Proves who we are, and has the receiver prove who it is.
pub(super) fn shake(
    connection: &mut Connection,
    received: &mut Vec<u8>,
    config: &ForwardConfig,
) -> Result<(), SinkError> {
    let address = config.endpoint.address.as_str();
    let secrets = Secrets::load(config)?;
    let mut salt = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut salt).map_err(|_| odd(address, HELO, &"the system gives no random bytes"))?;
    let salt = hex(&salt);
    let helo = next(connection, received, HELO, address)?;
    let helo = Helo::parse(&helo).ok_or_else(|| {
        odd(address, HELO, &"it sent no HELO: it asks for no shared key, or speaks something else")
    })?;
    connection.send(&helo.ping(&secrets, &salt, config))?;
    connection.flush()?;
    let pong = next(connection, received, PONG, address)?;
    match Pong::parse(&pong) {
        None => Err(odd(address, PONG, &"it sent no PONG")),
        Some(pong) if !pong.ok => Err(SinkError::Answer {
            place: address.to_owned(),
            status: 401,
            why: pong.reason.chars().filter(|c| !c.is_control()).take(200).collect(),
            retry_after: None,
        }),
        Some(pong) => {
            let key = secrets.key.as_bytes();
            let proof = sha512(&[salt.as_bytes(), pong.host.as_bytes(), helo.nonce, key]);
            if proof == pong.proof {
                Ok(())
            } else {
                Err(odd(address, PONG, &"it does not know the shared key"))
            }
        }
    }
}

/// The next whole value that the receiver sends.
fn next(
    connection: &mut Connection,
    received: &mut Vec<u8>,
    doing: &'static str,
    address: &str,
) -> Result<Vec<u8>, SinkError> {
    loop {
        if let Some(length) =
            msgpack::end_of(received).map_err(|problem| odd(address, doing, &problem))?
        {
            return Ok(received.drain(..length).collect());
        }
        if received.len() > ANSWER_BYTES_MAX {
            return Err(odd(address, doing, &"it said too much"));
        }
        connection.receive(received, doing)?;
    }
}

struct Secrets {
    key: Zeroizing<String>,
    user: String,
    password: Zeroizing<String>,
}

impl Secrets {
    /// Read for each connection: a new key is used without a restart.
    fn load(config: &ForwardConfig) -> Result<Self, SinkError> {
        let read = |path: Option<&std::path::Path>| -> Result<_, SinkError> {
            Ok(path.map(credential).transpose()?.unwrap_or_default())
        };
        let (user, password) = config.user.clone().unzip();
        Ok(Self {
            key: read(config.shared_key_file.as_deref())?,
            user: user.unwrap_or_default(),
            password: read(password.as_deref())?,
        })
    }
}

struct Helo<'a> {
    nonce: &'a [u8],
    auth: &'a [u8],
}

impl<'a> Helo<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (Head::Array(2), mut at) = head(data).ok()?? else {
            return None;
        };
        if text(data, &mut at)? != "HELO" {
            return None;
        }
        let (Head::Map(pairs), length) = head(data.get(at..)?).ok()?? else {
            return None;
        };
        at += length;
        let mut helo = Self { nonce: b"", auth: b"" };
        for _ in 0..pairs {
            let key = text(data, &mut at)?;
            let begin = at;
            at += msgpack::end_of(data.get(at..)?).ok()??;
            match key {
                "nonce" => helo.nonce = bytes(&data[begin..at])?,
                "auth" => helo.auth = bytes(&data[begin..at])?,
                _ => {}
            }
        }
        Some(helo)
    }

    fn ping(&self, secrets: &Secrets, salt: &str, config: &ForwardConfig) -> Vec<u8> {
        let host = config.hostname.as_str();
        let key = secrets.key.as_bytes();
        let proof = sha512(&[salt.as_bytes(), host.as_bytes(), self.nonce, key]);
        let password = if self.auth.is_empty() {
            String::new()
        } else {
            sha512(&[self.auth, secrets.user.as_bytes(), secrets.password.as_bytes()])
        };
        let user = if self.auth.is_empty() { "" } else { &secrets.user };
        let mut out = Vec::new();
        msgpack::push_array_head(&mut out, 6);
        for part in ["PING", host, salt, &proof, user, &password] {
            push_text(&mut out, part);
        }
        out
    }
}

struct Pong<'a> {
    ok: bool,
    reason: &'a str,
    host: &'a str,
    proof: &'a str,
}

impl<'a> Pong<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (Head::Array(5), mut at) = head(data).ok()?? else {
            return None;
        };
        if text(data, &mut at)? != "PONG" {
            return None;
        }
        let (Head::Bool(ok), length) = head(data.get(at..)?).ok()?? else {
            return None;
        };
        at += length;
        Some(Self {
            ok,
            reason: text(data, &mut at)?,
            host: text(data, &mut at)?,
            proof: text(data, &mut at)?,
        })
    }
}

/// A nonce may be any bytes: Fluentd sends them as they are.
fn bytes(value: &[u8]) -> Option<&[u8]> {
    match head(value).ok()?? {
        (Head::Str(length) | Head::Bin(length), at) => value.get(at..at + length as usize),
        _ => None,
    }
}

fn sha512(parts: &[&[u8]]) -> String {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    hex(&hash.finalize())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to memory can't fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

const HELO: &str = "say HELO";
const PONG: &str = "answer PING with PONG";
