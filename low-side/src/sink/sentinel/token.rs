//! A token by client credentials.
//!
//! Source: Microsoft, "Microsoft identity platform and the OAuth 2.0 client credentials flow", first
//! case: access token request with a shared secret.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use shared::bell::Bell;
use zeroize::Zeroizing;

use super::config::SentinelConfig;
use crate::http::{Call, Http, HttpError, credential, sensitive};
use crate::sink::SinkError;

/// A token that is good for a while.
pub(super) struct Token {
    pub(super) authorization: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Token {
    /// Asks for one. The secret is read from its file each time: a new one needs no restart.
    pub(super) fn ask(
        config: &SentinelConfig,
        scope: &str,
        bell: &Bell,
    ) -> Result<Self, SinkError> {
        let mut http = Http::new(&config.authority, bell);
        let secret = credential(&config.client_secret_file)?;
        let form = Zeroizing::new(format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&scope={}",
            *encoded(&config.client_id),
            *encoded(&secret),
            *encoded(scope)
        ));
        let path = format!("/{}/oauth2/v2.0/token", config.tenant);
        let call = Call::new(Method::POST, path, form.as_bytes().to_vec())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let asked = Instant::now();
        let answer = http.send(&call)?;
        let given: Option<Given> = serde_json::from_slice(&answer.body).ok();
        let Some(given) = given.filter(|_| answer.is_success()) else {
            let mut error = SinkError::answer(&http.place(), &answer);
            if let (SinkError::Answer { why, .. }, Ok(refused)) =
                (&mut error, serde_json::from_slice::<Refused>(&answer.body))
            {
                let first = refused.error_description.lines().next().unwrap_or_default();
                let first: String = first.chars().take(WHY_CHARS_MAX).collect();
                *why = format!("no token: {}: {first}", refused.error);
            }
            return Err(error);
        };
        let token = Zeroizing::new(given.access_token);
        let authorization = sensitive(&Zeroizing::new(format!("Bearer {}", *token)))
            .map_err(|_| HttpError::Broken { url: http.place(), why: NO_TOKEN.to_owned() })?;
        // Renewed before it ends, so that no body is refused for it.
        let good = Duration::from_secs(given.expires_in.min(LIFE_SECS_MAX));
        let until = asked + good.saturating_sub(EARLIER).max(good / 2);
        Ok(Self { authorization, until })
    }

    /// Whether it is good for another request.
    pub(super) fn is_good(&self) -> bool {
        Instant::now() < self.until
    }
}

/// A value of a form: everything but the unreserved characters of RFC 3986 as `%XX`.
fn encoded(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Into a string: nothing that could fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

const NO_TOKEN: &str = "what it gave is no token";
/// So long before its end a token is renewed.
const EARLIER: Duration = Duration::from_mins(5);
/// No token is kept for longer.
const LIFE_SECS_MAX: u64 = 24 * 3600;
/// So much of a refusal is kept.
const WHY_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_as_a_form_has_it() {
        assert_eq!(encoded("a~B8.-_").as_str(), "a~B8.-_");
        assert_eq!(encoded("s+/=& %ä").as_str(), "s%2B%2F%3D%26%20%25%C3%A4");
    }
}
