//! Proofs that both sides share a key, and that the client knows a password, without telling either.
//!
//! ```text
//! server  ["HELO", {nonce, auth, keepalive}]
//! client  ["PING", host, salt, sha512(salt host nonce key), user, sha512(auth user password)]
//! server  ["PONG", ok, reason, host, sha512(salt host nonce key)]
//! ```
//!
//! The nonce is new for each connection, so that a proof overheard on one is worth nothing on another.

use std::fmt::Write as _;

use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::access::Access;
use shared::msgpack::{Head, Malformed, Skipper, head, push_text};

/// The server's side of one handshake.
#[derive(Debug)]
pub(super) struct Handshake<'a> {
    access: &'a Access,
    key: &'a [u8],
    /// Ours; clients want it to differ from theirs.
    host: String,
    nonce: String,
    /// Empty if no password is asked for.
    auth: String,
}

/// How a handshake ended; the answer is to be sent in any case.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) pong: Vec<u8>,
    pub(super) refused: Option<&'static str>,
}

/// What a client said that is no PING.
#[derive(Debug, thiserror::Error)]
pub(super) enum PingError {
    #[error("the answer to HELO is no PING")]
    Form,
    #[error("the answer to HELO is no MessagePack: {0}")]
    Malformed(#[from] Malformed),
}

impl<'a> Handshake<'a> {
    /// For one connection. `random` must be used for no other.
    pub(super) fn new(access: &'a Access, key: &'a [u8], host: String, random: &[u8; 32]) -> Self {
        // As hexadecimal text: not every client can take other bytes.
        let (nonce, auth) = random.split_at(16);
        let auth = if access.users.is_empty() { String::new() } else { hex(auth) };
        Self { access, key, host, nonce: hex(nonce), auth }
    }

    pub(super) fn helo(&self) -> Vec<u8> {
        let mut out = vec![0x92];
        push_text(&mut out, "HELO");
        out.push(0x83);
        push_text(&mut out, "nonce");
        push_text(&mut out, &self.nonce);
        push_text(&mut out, "auth");
        push_text(&mut out, &self.auth);
        push_text(&mut out, "keepalive");
        out.push(0xc3);
        out
    }

    /// Judges the client's answer once it is whole; gives how many bytes it has.
    pub(super) fn judge(&self, data: &[u8]) -> Result<Option<(Verdict, usize)>, PingError> {
        let mut skipper = Skipper::new(1);
        let end = skipper.skip(data)?;
        if !skipper.is_done() {
            return if data.len() > PING_BYTES_MAX { Err(PingError::Form) } else { Ok(None) };
        }
        let ping = Ping::parse(&data[..end])?;
        let proof = self.digest(ping.salt, ping.host);
        let refused = if !same(proof.as_bytes(), ping.proof) {
            Some("shared key mismatch")
        } else if self.access.users.is_empty() || self.knows(&ping) {
            None
        } else {
            Some("username/password mismatch")
        };
        let ours = refused.is_none().then(|| self.digest(ping.salt, self.host.as_bytes()));
        let mut answer = vec![0x95];
        push_text(&mut answer, "PONG");
        answer.push(if refused.is_none() { 0xc3 } else { 0xc2 });
        push_text(&mut answer, refused.unwrap_or_default());
        push_text(&mut answer, &self.host);
        push_text(&mut answer, &ours.unwrap_or_default());
        Ok(Some((Verdict { pong: answer, refused }, end)))
    }

    fn digest(&self, salt: &[u8], host: &[u8]) -> String {
        sha512(&[salt, host, self.nonce.as_bytes(), self.key])
    }

    fn knows(&self, ping: &Ping) -> bool {
        let password = self.access.users.get(ping.user);
        // An unknown name costs as much as a known one.
        let tried = password.map_or(&b""[..], |password| password.as_slice());
        let proof = sha512(&[self.auth.as_bytes(), ping.user, tried]);
        same(proof.as_bytes(), ping.password) & password.is_some()
    }
}

struct Ping<'a> {
    host: &'a [u8],
    salt: &'a [u8],
    proof: &'a [u8],
    user: &'a [u8],
    password: &'a [u8],
}

impl<'a> Ping<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, PingError> {
        let Some((Head::Array(6), mut at)) = head(data)? else {
            return Err(PingError::Form);
        };
        let mut next = || -> Result<&'a [u8], PingError> {
            let rest = &data[at..];
            let (Head::Str(length) | Head::Bin(length), begin) =
                head(rest)?.ok_or(PingError::Form)?
            else {
                return Err(PingError::Form);
            };
            let end = begin + length as usize;
            at += end;
            rest.get(begin..end).ok_or(PingError::Form)
        };
        if next()? != b"PING" {
            return Err(PingError::Form);
        }
        let [host, salt, proof] = [next()?, next()?, next()?];
        Ok(Self { host, salt, proof, user: next()?, password: next()? })
    }
}

fn same(ours: &[u8], theirs: &[u8]) -> bool {
    ours.ct_eq(theirs).into()
}

fn sha512(parts: &[&[u8]]) -> String {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to memory can't fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Two digests, a salt, and names of a host and a user.
const PING_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn access() -> Access {
        let secret = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        Access {
            shared_key: Some(secret(b"key")),
            users: [(b"alice".to_vec(), secret(b"secret"))].into(),
        }
    }

    fn ping(helo: &Handshake, key: &[u8], user: &str, password: &[u8]) -> Vec<u8> {
        let mut out = vec![0x96];
        push_text(&mut out, "PING");
        push_text(&mut out, "client");
        push_text(&mut out, "salt");
        push_text(&mut out, &sha512(&[b"salt", b"client", helo.nonce.as_bytes(), key]));
        push_text(&mut out, user);
        push_text(&mut out, &sha512(&[helo.auth.as_bytes(), user.as_bytes(), password]));
        out
    }

    #[test]
    fn the_right_key_and_password_open_and_nothing_else_does() {
        let access = access();
        let handshake = Handshake::new(&access, b"key", "us".to_owned(), &[1; 32]);
        let refused = |ping: &[u8], at: &Handshake| {
            let (verdict, end) = at.judge(ping).unwrap().unwrap();
            assert_eq!(end, ping.len());
            verdict.refused
        };
        let good = ping(&handshake, b"key", "alice", b"secret");
        assert_eq!(refused(&good, &handshake), None);
        let (verdict, _) = handshake.judge(&good).unwrap().unwrap();
        let proof = sha512(&[b"salt", b"us", handshake.nonce.as_bytes(), b"key"]);
        assert!(verdict.pong.ends_with(proof.as_bytes()));

        let key = Some("shared key mismatch");
        assert_eq!(refused(&ping(&handshake, b"kez", "alice", b"secret"), &handshake), key);
        assert_eq!(refused(&ping(&handshake, b"", "alice", b"secret"), &handshake), key);
        let password = Some("username/password mismatch");
        for (user, word) in
            [("alice", &b"secre"[..]), ("alice", b""), ("bob", b"secret"), ("bob", b""), ("", b"")]
        {
            assert_eq!(refused(&ping(&handshake, b"key", user, word), &handshake), password);
        }
        let (verdict, _) =
            handshake.judge(&ping(&handshake, b"kez", "alice", b"secret")).unwrap().unwrap();
        assert!(verdict.pong.ends_with(&[0xa0]), "no proof for who has none");

        // What was right on one connection is wrong on the next.
        let next = Handshake::new(&access, b"key", "us".to_owned(), &[2; 32]);
        assert_eq!(refused(&good, &next), key);
    }

    #[test]
    fn what_is_no_ping_is_named() {
        let access = access();
        let handshake = Handshake::new(&access, b"key", "us".to_owned(), &[1; 32]);
        let good = ping(&handshake, b"key", "alice", b"secret");
        for short in 0..good.len() {
            assert!(handshake.judge(&good[..short]).unwrap().is_none());
        }
        for bad in [
            &b"\x01"[..],
            b"\x90",
            b"\xc0",
            b"\x96\xa4PONG\xa0\xa0\xa0\xa0\xa0",
            b"\x96\xa4PING\x01\xa0\xa0\xa0\xa0",
            b"\xc1",
        ] {
            assert!(handshake.judge(bad).is_err(), "{bad:x?}");
        }
        let endless = [&b"\x96\xa4PING\xdb\xff\xff\xff\xff"[..], &[0; PING_BYTES_MAX]].concat();
        assert!(handshake.judge(&endless).is_err());
    }
}
