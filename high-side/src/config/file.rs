//! The sections `[[file]]`: files that others write.

use serde::Deserialize;
use shared::bundle::RECORD_BYTES_MAX;
use shared::config::{ByteSize, Problems, Span};
use shared::record::{Lane, Stream};

use crate::ingest::{Limits, ListenerSettings};
use crate::reconcile::PortainerApi;
use crate::tail::{BeginAt, FileSettings, Pattern, Rotated, Timing};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawFile {
    name: String,
    paths: Vec<String>,
    rotated: Option<Vec<String>>,
    lane: Option<String>,
    stream: Option<String>,
    message_bytes_max: Option<ByteSize>,
    #[serde(default)]
    from: RawFrom,
    poll_interval: Option<Span>,
    rotated_idle: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawFrom {
    #[default]
    Beginning,
    End,
}

/// Checks every section. Names are those of records' listeners, so they share one space with them.
pub(super) fn check_all(
    all: &[RawFile],
    listeners: &[ListenerSettings],
    apis: &[PortainerApi],
    problems: &mut Problems,
) -> Vec<FileSettings> {
    let mut sets: Vec<FileSettings> = Vec::new();
    for (at, raw) in all.iter().enumerate() {
        if let Some(set) = check_file(raw, at, problems) {
            let is_taken = sets.iter().any(|other| other.name == set.name)
                || listeners.iter().any(|other| other.name == set.name)
                || apis.iter().any(|other| other.name == set.name);
            problems.check(
                !is_taken,
                &format!("file.{}", set.name),
                "the name is taken by another source",
            );
            // Each would take every line in.
            let twice = all[..at]
                .iter()
                .any(|other| raw.paths.iter().any(|path| other.paths.contains(path)));
            problems.check(
                !twice,
                &format!("file.{}.paths", set.name),
                "names files that another section reads, too",
            );
            sets.push(set);
        }
    }
    sets
}

fn check_file(raw: &RawFile, at: usize, problems: &mut Problems) -> Option<FileSettings> {
    let key = |field: &str| {
        let name = if raw.name.is_empty() { format!("#{}", at + 1) } else { raw.name.clone() };
        format!("file.{name}.{field}")
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    problems.check(
        (1..=32).contains(&raw.name.len()) && raw.name.bytes().all(plain),
        &key("name"),
        "is 1 to 32 letters, digits, '-', '_' or '.'",
    );
    problems.check(!raw.paths.is_empty(), &key("paths"), "names no file");
    let paths = patterns(&raw.paths, &key("paths"), problems);
    let rotated = match &raw.rotated {
        None => Rotated::Automatic,
        Some(globs) => Rotated::Patterns(patterns(globs, &key("rotated"), problems)),
    };
    let lane = raw.lane.as_deref().unwrap_or("routine").parse::<Lane>().map_err(|_| {
        problems.add(&key("lane"), "is routine or flash");
    });
    let stream = match raw.stream.as_deref().unwrap_or("auto") {
        "auto" => Ok(None),
        name => name.parse::<Stream>().map(Some).map_err(|_| {
            problems.add(
                &key("stream"),
                "is auto, portainer-auth, portainer-activity, kube-audit, falco or other",
            );
        }),
    };
    let mut message_bytes_max = Limits::default().message_bytes_max;
    if let Some(ByteSize(bytes)) = raw.message_bytes_max {
        message_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
        problems.check(
            (480..=RECORD_BYTES_MAX).contains(&bytes),
            &key("message-bytes-max"),
            "is from 480B to 16MiB",
        );
    }
    let mut timing = Timing::default();
    if let Some(poll) = raw.poll_interval {
        timing.poll = poll.0;
        problems.check(
            (Span::millis(100)..=Span::secs(60)).contains(&poll),
            &key("poll-interval"),
            "is from 100ms to 60s: a file that is renamed, compressed and deleted between two looks is missed",
        );
    }
    if let Some(idle) = raw.rotated_idle {
        timing.rotated_idle = idle.0;
        problems.check(idle >= Span::secs(1), &key("rotated-idle"), "is at least 1s");
    }
    let from = match raw.from {
        RawFrom::Beginning => BeginAt::Beginning,
        RawFrom::End => BeginAt::End,
    };
    Some(FileSettings {
        name: raw.name.clone(),
        paths,
        rotated,
        lane: lane.ok()?,
        stream: stream.ok()?,
        message_bytes_max,
        from,
        timing,
        notifications: true,
    })
}

fn patterns(texts: &[String], key: &str, problems: &mut Problems) -> Vec<Pattern> {
    let parsed = texts.iter().map(|text| text.parse::<Pattern>());
    parsed.filter_map(|pattern| pattern.map_err(|err| problems.add(key, err)).ok()).collect()
}
