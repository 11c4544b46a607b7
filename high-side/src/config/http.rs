//! The keys of `[[listener]]` that only HTTP sources have.

use std::time::Duration;

use shared::config::{ByteSize, Problems, Span};

use crate::ingest::{HttpSender, HttpSettings};

/// As written in the file.
#[derive(Debug, Default)]
pub(super) struct RawHttp {
    pub(super) path: Option<String>,
    pub(super) body_bytes_max: Option<ByteSize>,
    pub(super) answer_timeout: Option<Span>,
    pub(super) unwrap: Option<String>,
}

impl RawHttp {
    /// The settings for a sender, without certificates. With no sender, these keys have no place.
    pub(super) fn check(
        &self,
        sender: Option<HttpSender>,
        key: &impl Fn(&str) -> String,
        problems: &mut Problems,
    ) -> Option<HttpSettings> {
        let waits = matches!(sender, Some(HttpSender::Fluent | HttpSender::KubeApiserver));
        let relayed = sender == Some(HttpSender::Fluent);
        let given = [
            ("path", self.path.is_some(), waits),
            ("body-bytes-max", self.body_bytes_max.is_some(), waits),
            ("answer-timeout", self.answer_timeout.is_some(), waits),
            ("unwrap", self.unwrap.is_some(), relayed),
        ];
        for (field, is_given, fits) in given {
            let what = match sender {
                // Falco never looks at an answer: to refuse anything is to lose it.
                Some(HttpSender::Falco) => "has no use with protocol \"falco-http\"",
                _ if field == "unwrap" => "only protocol \"fluent-http\" uses it",
                _ => "only protocols \"kube-webhook\" and \"fluent-http\" use it",
            };
            problems.check(!is_given || fits, &key(field), what);
        }
        let mut settings = HttpSettings::new(sender?);
        settings.path.clone_from(&self.path);
        settings.unwrap.clone_from(&self.unwrap);
        problems.check(
            self.path.as_ref().is_none_or(|path| path.starts_with('/')),
            &key("path"),
            "begins with \"/\"",
        );
        problems.check(
            self.unwrap.as_ref().is_none_or(|member| !member.is_empty()),
            &key("unwrap"),
            "is the name of a member, as \"log\"",
        );
        if let Some(ByteSize(bytes)) = self.body_bytes_max {
            settings.body_bytes_max = bytes as usize;
            problems.check(
                (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&bytes),
                &key("body-bytes-max"),
                "is from 64KiB to 256MiB; twice as much memory is set aside",
            );
        }
        if let Some(Span(time)) = self.answer_timeout {
            settings.answer_timeout = time;
            problems.check(
                time >= Duration::from_secs(1) && time < SENDER_TIMEOUT,
                &key("answer-timeout"),
                "is at least 1s and below 30s, after which an API server gives up",
            );
        }
        Some(settings)
    }
}

const BODY_BYTES_MIN: u64 = 64 << 10;
const BODY_BYTES_MAX: u64 = 256 << 20;
/// After this an API server gives up a request.
const SENDER_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, DEFAULT_PATH};
    use super::*;
    use crate::ingest::Protocol;

    fn listener(protocol: &str, keys: &str) -> Result<HttpSettings, String> {
        let text = format!(
            "origin = \"a\"\n[[listener]]\nname = \"h\"\nprotocol = \"{protocol}\"\nbind = \"127.0.0.1:1\"\n{keys}"
        );
        let raw = toml::from_str(&text).map_err(|err| err.to_string())?;
        let config = Config::check(raw, Path::new(DEFAULT_PATH)).map_err(|err| err.to_string())?;
        match &config.listeners[0].protocol {
            Protocol::Http(settings) => Ok(settings.clone()),
            other => Err(other.to_string()),
        }
    }

    #[test]
    fn each_protocol_has_its_keys() {
        for sender in HttpSender::ALL {
            let settings = listener(sender.protocol(), "").unwrap();
            assert_eq!((settings.sender, settings.tls.is_none()), (sender, true));
        }
        let keys = "path = \"/audit\"\nbody-bytes-max = \"1MiB\"\nanswer-timeout = \"5s\"\n";
        let settings = listener("kube-webhook", keys).unwrap();
        assert_eq!(settings.path.as_deref(), Some("/audit"));
        assert_eq!((settings.body_bytes_max, settings.answer_timeout.as_secs()), (1 << 20, 5));
        let settings = listener("fluent-http", &format!("{keys}unwrap = \"log\"\n")).unwrap();
        assert_eq!(settings.unwrap.as_deref(), Some("log"));
    }

    #[test]
    fn keys_out_of_place_and_out_of_range_are_named() {
        for (protocol, keys, wanted) in [
            ("falco-http", "path = \"/x\"", "listener.h.path"),
            ("tcp", "answer-timeout = \"5s\"", "listener.h.answer-timeout"),
            ("kube-webhook", "unwrap = \"log\"", "listener.h.unwrap"),
            ("kube-webhook", "path = \"x\"", "begins with"),
            ("kube-webhook", "answer-timeout = \"30s\"", "below 30s"),
            ("fluent-http", "body-bytes-max = \"1GiB\"", "256MiB"),
            ("falco-http", "key = \"/none\"", "listener.h.certificate"),
            ("fluent-http", "receive-bufer = \"1MiB\"", "receive-bufer"),
        ] {
            let message = listener(protocol, keys).unwrap_err();
            assert!(message.contains(wanted), "{protocol} {keys}: {message}");
        }
    }
}
