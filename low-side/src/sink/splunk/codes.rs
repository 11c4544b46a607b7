//! What an HTTP Event Collector says, and what follows from it.
//!
//! Source of the codes: Splunk, "Get data into Splunk Enterprise", "Troubleshoot HTTP Event
//! Collector", possible error codes. Code 28 is Splunk Cloud's own.

use serde::Deserialize;

use crate::http::Answer;

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong with the records: token, channel or collector have to be mended. The batch
    /// waits.
    Configuration,
    /// The body is too long, or its first record is wrong: both are said with one code.
    Data,
    /// Nothing was taken; later it may be.
    Later,
    /// The record before the one that is named goes to an index that can't be written.
    RecordBefore,
    /// The record that is named is wrong.
    RecordNamed,
    /// It was taken.
    Taken,
    /// It may have been taken, or not.
    Unclear,
}

/// The answer to a body.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reply {
    pub(super) code: Option<u16>,
    #[serde(default)]
    pub(super) text: String,
    #[serde(rename = "ackId")]
    pub(super) ack_id: Option<u64>,
    /// The object in the body, from 0, at which reading it ended.
    #[serde(rename = "invalid-event-number")]
    pub(super) invalid: Option<usize>,
}

impl Reply {
    /// The body of an answer; an empty reply where it is not the collector's.
    pub(super) fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// What it says, for an error or a dead letter.
    pub(super) fn say(&self, answer: &Answer) -> String {
        let Some(code) = self.code else { return answer.excerpt() };
        let hint = hint(code).map(|hint| format!("; {hint}")).unwrap_or_default();
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
        format!("code {code}: {text}{hint}")
    }

    /// What follows from it.
    pub(super) fn verdict(&self, status: u16) -> Verdict {
        let success = (200..300).contains(&status);
        let row = CODES.iter().find(|(code, ..)| self.code == Some(*code));
        match row.map(|(_, _, verdict)| *verdict) {
            // What a proxy or a later version makes of it is not believed.
            Some(Verdict::Taken) if !success => Verdict::Unclear,
            Some(verdict) if success && verdict != Verdict::Taken => Verdict::Unclear,
            Some(verdict) => verdict,
            None => match status {
                413 => Verdict::Data,
                429 | 503 => Verdict::Later,
                // A proxy that has no way to the collector, one that waited in vain, and whatever
                // answers 200 without being a collector.
                200..=299 | 408 | 500..=599 => Verdict::Unclear,
                // Anything else is said about the request, not about the records in it.
                _ => Verdict::Configuration,
            },
        }
    }
}

/// What an operator can do about a code.
fn hint(code: u16) -> Option<&'static str> {
    Some(match code {
        1 => "enable the token in Splunk",
        2..=4 => "token-file does not hold the token that Splunk has",
        7 => "the token may not write the index, or there is no such index",
        10 | 11 | 28 => "the token wants a channel: set ack = true",
        14 => "the token has no indexer acknowledgement: enable it, or set ack = false",
        16 => "the collector is not one, or there is a proxy in between",
        _ => return None,
    })
}

/// Code, the status it comes with, and what follows.
pub(super) const CODES: [(u16, u16, Verdict); 29] = [
    (0, 200, Verdict::Taken),          // Success
    (1, 403, Verdict::Configuration),  // Token disabled
    (2, 401, Verdict::Configuration),  // Token is required
    (3, 401, Verdict::Configuration),  // Invalid authorization
    (4, 403, Verdict::Configuration),  // Invalid token
    (5, 400, Verdict::Configuration),  // No data: we send none that is empty
    (6, 400, Verdict::Data),           // Invalid data format
    (7, 400, Verdict::RecordBefore),   // Incorrect index
    (8, 500, Verdict::Unclear),        // Internal server error
    (9, 503, Verdict::Later),          // Server is busy
    (10, 400, Verdict::Configuration), // Data channel is missing
    (11, 400, Verdict::Configuration), // Invalid data channel
    (12, 400, Verdict::RecordNamed),   // Event field is required
    (13, 400, Verdict::RecordNamed),   // Event field cannot be blank
    (14, 400, Verdict::Configuration), // ACK is disabled
    (15, 400, Verdict::RecordNamed),   // Error in handling indexed fields
    (16, 400, Verdict::Configuration), // Query string authorization is not enabled
    (17, 200, Verdict::Unclear),       // HEC is healthy: said about health, not about a body
    (18, 503, Verdict::Later),         // HEC is unhealthy, queues are full
    (19, 503, Verdict::Later),         // HEC is unhealthy, ack service unavailable
    (20, 503, Verdict::Later),         // HEC is unhealthy, both
    (21, 400, Verdict::Configuration), // Invalid token (health)
    (22, 400, Verdict::Configuration), // Token disabled (health)
    (23, 503, Verdict::Later),         // Server is shutting down
    (24, 200, Verdict::Taken),         // Queue is approaching capacity
    (25, 200, Verdict::Taken),         // Ack channel is approaching capacity
    (26, 429, Verdict::Later),         // Queue at capacity
    (27, 429, Verdict::Later),         // Ack channel at capacity
    (28, 400, Verdict::Configuration), // Data channel is missing (Cloud)
];

/// So much of the collector's words is kept.
const TEXT_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, code: Option<u16>) -> Verdict {
        Reply { code, ..Reply::default() }.verdict(status)
    }

    #[test]
    fn every_code_has_a_row_and_comes_with_its_status() {
        for (at, (code, status, expected)) in CODES.into_iter().enumerate() {
            assert_eq!(usize::from(code), at);
            assert_eq!(verdict(status, Some(code)), expected, "{code}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_not_believed() {
        assert_eq!(verdict(503, Some(0)), Verdict::Unclear);
        assert_eq!(verdict(200, Some(6)), Verdict::Unclear);
        assert_eq!(verdict(200, None), Verdict::Unclear);
        assert_eq!(verdict(400, Some(99)), Verdict::Configuration);
    }

    #[test]
    fn what_stands_between_us_and_the_collector_says_nothing_about_records() {
        for (status, expected) in [
            (302, Verdict::Configuration),
            (400, Verdict::Configuration),
            (403, Verdict::Configuration),
            (404, Verdict::Configuration),
            (408, Verdict::Unclear),
            (413, Verdict::Data),
            (415, Verdict::Configuration),
            (429, Verdict::Later),
            (500, Verdict::Unclear),
            (502, Verdict::Unclear),
            (503, Verdict::Later),
            (504, Verdict::Unclear),
        ] {
            assert_eq!(verdict(status, None), expected, "{status}");
        }
    }
}
