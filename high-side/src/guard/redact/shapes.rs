//! Secrets that their own form gives away.

use super::anchor::Hit;
use super::text::{USERINFO_BYTES_MAX, is_base64};
use super::{Detector, Pass, mark};

impl Pass<'_> {
    /// Looks at an anchor of a form; says where to go on.
    pub(super) fn shape(&mut self, text: &[u8], hit: Hit, depth: u8) -> usize {
        let rest = &text[hit.start..];
        if rest.starts_with(b"--BEGIN") {
            return self.private_key(text, hit);
        }
        // In the middle of a word nothing begins.
        let before = hit.start.checked_sub(1).map(|at| text[at]);
        if [&b"eyJ"[..], b"ewo", b"ew0", b"W3s", b"LS0t"].iter().any(|head| rest.starts_with(head))
        {
            if before.is_some_and(|byte| byte.is_ascii_alphanumeric()) {
                return hit.end;
            }
            let dotted = rest.iter().take_while(|byte| is_base64(**byte) || **byte == b'.').count();
            if memchr::memchr(b'.', &rest[..dotted]).is_some()
                && rest.starts_with(b"eyJ")
                && dotted >= JWT_BYTES_MIN
            {
                if let Some(rule) = self.detector(Detector::Jwt) {
                    self.replace_text(text, hit.start, hit.start + dotted, rule);
                }
                return hit.start + dotted;
            }
            return self.base64_run(text, hit.start, depth);
        }
        let Some(rule) = self.detector(Detector::KnownToken) else { return hit.end };
        let url = [&b"hooks.slack"[..], b"api/webhooks/"].iter().any(|head| rest.starts_with(head));
        let mut start = hit.start;
        if rest.starts_with(b"pat_") || rest.starts_with(b"_live_") {
            // `github_pat_`, `dckr_pat_`, `sk_live_`: the mark takes the whole.
            while start > 0
                && (text[start - 1].is_ascii_alphanumeric() || text[start - 1] == b'_')
                && hit.start - start < 16
            {
                start -= 1;
            }
        } else if !url
            && !rest.starts_with(b"$")
            && before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return hit.end;
        }
        let hash = rest.starts_with(b"$");
        let plus = hash || rest.starts_with(b"whsec_");
        let length = text[hit.end..]
            .iter()
            .take_while(|byte| {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'_' | b'-' | b'.' | b'/')
                    || (hash && matches!(byte, b'$' | b'=' | b','))
                    || (plus && **byte == b'+')
            })
            .count();
        let end = hit.end + length;
        let padding = text[end..].iter().take(2).take_while(|byte| **byte == b'=').count();
        let (end, tail) = (end + padding, &text[hit.end..end]);
        let enough = if url {
            tail.contains(&b'/') && length >= TOKEN_BYTES_MIN
        } else {
            // Words with a dash or underscore are names; tokens mix letters and digits.
            length >= TOKEN_BYTES_MIN
                && tail.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
        };
        if enough {
            self.replace_text(text, start, end, rule);
        }
        end
    }

    /// `-----BEGIN ... PRIVATE KEY-----`, up to its end, or to the end of the text where it was cut.
    fn private_key(&mut self, text: &[u8], hit: Hit) -> usize {
        let head = &text[hit.end..text.len().min(hit.end + PEM_LABEL_BYTES_MAX)];
        let Some(label) = memchr::memmem::find(head, b"--").map(|end| &head[..end]) else {
            return hit.end;
        };
        if memchr::memmem::find(label, b"PRIVATE KEY").is_none() {
            return hit.end;
        }
        let Some(rule) = self.detector(Detector::PrivateKey) else { return hit.end };
        let start = text[..hit.start].iter().rposition(|byte| *byte != b'-').map_or(0, |at| at + 1);
        let end = match memchr::memmem::find(&text[hit.end..], b"--END") {
            None => text.len(),
            Some(found) => {
                let foot = hit.end + found + b"--END".len();
                let label =
                    text[foot..].iter().take(PEM_LABEL_BYTES_MAX).position(|byte| *byte == b'-');
                let dashes = foot + label.unwrap_or(0);
                dashes + text[dashes..].iter().take_while(|byte| **byte == b'-').count()
            }
        };
        self.replace_text(text, start, end, rule);
        end
    }

    /// `scheme://user:password@host`, or `scheme://token@host`.
    pub(super) fn url(&mut self, text: &[u8], hit: Hit) -> usize {
        let Some(rule) = self.detector(Detector::UrlCredentials) else { return hit.end };
        if text[hit.start] == b'@' {
            self.data_source(text, hit, rule);
            return hit.end;
        }
        let window = &text[hit.end..text.len().min(hit.end + USERINFO_BYTES_MAX)];
        let stop = window
            .iter()
            .position(|byte| {
                byte.is_ascii_whitespace()
                    || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`' | b'?' | b'#')
            })
            .unwrap_or(window.len());
        // The last `@` before the path: passwords hold one, too, and some hold a `/`.
        let slash = memchr::memchr(b'/', &window[..stop]).unwrap_or(stop);
        let near = memchr::memrchr(b'@', &window[..slash]);
        let far = || {
            let at = memchr::memrchr(b'@', &window[..stop])?;
            let colon = memchr::memchr(b':', &window[..at])?;
            // `host:port/path@version` is no password: a port has digits only.
            let port =
                window[colon + 1..at].iter().take_while(|byte| byte.is_ascii_digit()).count();
            (colon < slash && window.get(colon + 1 + port) != Some(&b'/')).then_some(at)
        };
        let Some(at) = near.or_else(far) else { return hit.end };
        let userinfo = &window[..at];
        let start = memchr::memchr(b':', userinfo).map_or(0, |colon| colon + 1);
        if start < at
            && mark::mark_length(&userinfo[start..]) < at - start
            && !mark::is_variable(&userinfo[start..])
        {
            // Without a colon it is a name, unless it is long: a token then.
            if start > 0 || at >= BARE_TOKEN_BYTES_MIN {
                self.replace_text(text, hit.end + start, hit.end + at, rule);
            }
        }
        hit.end + at
    }
}

impl Pass<'_> {
    /// `user:password@tcp(host:3306)/name`: without a scheme, the password stands before the anchor.
    fn data_source(&mut self, text: &[u8], hit: Hit, rule: u8) {
        let from = hit.start.saturating_sub(USERINFO_BYTES_MAX);
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'`<>=,;".contains(byte);
        let begin = text[from..hit.start].iter().rposition(ends).map_or(from, |at| from + at + 1);
        let userinfo = &text[begin..hit.start];
        let Some(colon) = memchr::memchr(b':', userinfo) else { return };
        let password = &userinfo[colon + 1..];
        if mark::mark_length(password) < password.len() && !mark::is_variable(password) {
            self.replace_text(text, begin + colon + 1, hit.start, rule);
        }
    }
}

/// The shortest JSON Web Token with an algorithm is longer.
const JWT_BYTES_MIN: usize = 16;

/// What follows a prefix in real tokens has at least 16 characters; cut records leave fewer.
const TOKEN_BYTES_MIN: usize = 10;

/// `OPENSSH PRIVATE KEY` and the like.
const PEM_LABEL_BYTES_MAX: usize = 48;

/// A user name alone in a URL is shorter than any token.
const BARE_TOKEN_BYTES_MIN: usize = 16;
