//! What `_bulk` answered, item by item.
//!
//! A bulk is answered with 200 whatever became of its items: each has a status of its own
//! (<https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>,
//! <https://docs.opensearch.org/latest/api-reference/document-apis/bulk/>).
//!
//! | status of an item | what it means |
//! |---|---|
//! | 200, 201 | it is there |
//! | 409 `version_conflict_engine_exception` | it was there already, under the same id |
//! | 400 | the document is refused for good, but for what says something of the index or the cluster |
//! | 413 | the document is too large for good |
//! | 403 `cluster_block_exception` of one index that is closed to writers, 400 `index_closed_exception` | this index takes nothing more; others may |
//! | 408, 429, 5xx | not now |
//! | 401, other 403, 404, all others | the configuration, here or there, is wrong: nothing of it is the document's fault |
//!
//! A block is named by a number: `index [x] blocked by: [FORBIDDEN/8/index write (api)];` (`IndexMetadata`
//! of both servers). What somebody, or the lifecycle policy, has closed to writers is 4 (closed),
//! 5 (read-only) or 8 (write). 12 is a full disk, which the cluster lifts by itself, with the status 429
//! today and 403 in earlier releases: it is waited for. 6 and 13 block the whole cluster.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

/// What became of an item that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its index takes nothing more, whatever it is.
    Closed(u16, String),
    /// It is refused for good.
    Rejected(String),
    /// It may be taken at another time.
    Later(u16, String),
    /// Something else than the item is wrong.
    Wrong(u16, String),
}

/// The items that are not there, by their position, out of exactly `sent`.
///
/// Read without building a tree: what is kept is a fault for each bad item, its reason cut at
/// [`REASON_CHARS_MAX`].
pub(super) fn faults(body: &[u8], sent: usize) -> Result<Vec<(usize, Fault)>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|err| err.to_string())?;
    let Items { count, faults } = answer.items;
    if count == sent { Ok(faults) } else { Err(format!("it answers {count} items of {sent}")) }
}

#[derive(Deserialize)]
struct Answer {
    items: Items,
}

struct Items {
    count: usize,
    faults: Vec<(usize, Fault)>,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the items of a bulk")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let (mut count, mut faults) = (0, Vec::new());
                while let Some(Item(outcome)) = seq.next_element::<Item<'de>>()? {
                    if let Some(fault) = outcome.fault() {
                        faults.push((count, fault));
                    }
                    count += 1;
                }
                Ok(Items { count, faults })
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

/// `{"create": {...}}`, whatever the action is called.
struct Item<'a>(Outcome<'a>);

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item of a bulk")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
                let Some((_, outcome)) = map.next_entry::<IgnoredAny, Outcome<'de>>()? else {
                    return Err(de::Error::custom("an item without an action"));
                };
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(Item(outcome)),
                    Some(_) => Err(de::Error::custom("an item with two actions")),
                }
            }
        }
        deserializer.deserialize_map(One)
    }
}

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow, default)]
    error: Option<Cause<'a>>,
}

#[derive(Default, Deserialize)]
struct Cause<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

impl Outcome<'_> {
    fn fault(self) -> Option<Fault> {
        let Cause { r#type: kind, reason } = self.error.unwrap_or_default();
        let reason = reason.unwrap_or_default();
        let why = || {
            let text: String = reason.chars().take(REASON_CHARS_MAX).collect();
            format!("{}: {kind}: {text}", self.status)
        };
        match self.status {
            200 | 201 => None,
            409 if kind == "version_conflict_engine_exception" => None,
            400 if kind == "index_closed_exception" => Some(Fault::Closed(400, why())),
            403 if kind == "cluster_block_exception" && is_closed(&reason) => {
                Some(Fault::Closed(403, why()))
            }
            400 if !is_about_the_index(&kind, &reason) => Some(Fault::Rejected(why())),
            413 => Some(Fault::Rejected(why())),
            408 | 409 | 429 | 500.. => Some(Fault::Later(self.status, why())),
            _ => Some(Fault::Wrong(self.status, why())),
        }
    }
}

/// Whether the blocks that are named close one index to writers, and a full disk is none of them.
fn is_closed(reason: &str) -> bool {
    let Some((_, blocks)) = reason.split_once("blocked by: ") else { return false };
    let numbers = || blocks.split('[').filter_map(|block| block.split('/').nth(1));
    numbers().any(|number| CLOSED_BLOCKS.contains(&number))
        && !numbers().any(|number| number == DISK_BLOCK)
}

/// Whether a 400 says something that would be said of every document: a name that is none, a cluster that has no room for another shard (an `illegal_argument_exception` before
/// Elasticsearch 8, a `validation_exception` since).
fn is_about_the_index(kind: &str, reason: &str) -> bool {
    match kind {
        "invalid_index_name_exception" | "validation_exception" => true,
        "illegal_argument_exception" => {
            (reason.contains("shards open") || reason.contains("pipeline with id"))
                && !reason.contains("field")
        }
        _ => false,
    }
}

/// Blocks by which an index is closed to writers.
const CLOSED_BLOCKS: [&str; 3] = ["4", "5", "8"];
/// The block of every index of a node whose disk is full.
const DISK_BLOCK: &str = "12";
/// A longer reason is cut.
const REASON_CHARS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn one(status: u16, kind: &str, reason: &str) -> Option<Fault> {
        let body = format!(
            r#"{{"errors":true,"took":1,"items":[{{"create":{{"_index":"i","status":{status},"error":{{"type":"{kind}","reason":"{reason}","caused_by":{{"x":[1]}}}}}}}}]}}"#
        );
        faults(body.as_bytes(), 1).unwrap().pop().map(|(_, fault)| fault)
    }

    #[test]
    fn what_an_item_means() {
        let conflict = "version_conflict_engine_exception";
        assert_eq!(one(201, "", ""), None);
        assert_eq!(one(409, conflict, "document already exists"), None);
        for (status, kind, reason) in [
            (400, "document_parsing_exception", "[1:6] failed to parse field [x]"),
            (400, "mapper_parsing_exception", "failed to parse"),
            (400, "strict_dynamic_mapping_exception", "dynamic introduction of [x] is not allowed"),
            (400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded"),
            (400, "illegal_argument_exception", "field [maximum shards open] is no date"),
            (413, "", ""),
        ] {
            let fault = one(status, kind, reason);
            let expected = format!("{status}: {kind}: {reason}");
            assert_eq!(fault, Some(Fault::Rejected(expected)));
        }
        for (status, kind) in [
            (429, "es_rejected_execution_exception"),
            (503, "unavailable_shards_exception"),
            (429, "cluster_block_exception"),
            (500, "x"),
            (409, "some_other_exception"),
        ] {
            assert!(matches!(one(status, kind, ""), Some(Fault::Later(..))), "{status} {kind}");
        }
        let full = "this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;";
        for (status, kind, reason) in [
            (400, "validation_exception", full),
            (400, "illegal_argument_exception", full),
            (403, "cluster_block_exception", "index is read-only"),
            (403, "cluster_block_exception", "blocked by: [FORBIDDEN/6/cluster read-only (api)];"),
            (403, "cluster_block_exception", "blocked by: FORBIDDEN 8"),
            (
                403,
                "cluster_block_exception",
                "index [x-2026.10] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];",
            ),
            (
                403,
                "cluster_block_exception",
                "index [x] blocked by: [FORBIDDEN/8/index write (api)];[FORBIDDEN/12/index read-only / allow delete (api)];",
            ),
            (403, "security_exception", "index [x] blocked by: [FORBIDDEN/8/index write (api)];"),
            (404, "index_not_found_exception", "no such index"),
            (401, "security_exception", "no"),
            (302, "", ""),
        ] {
            let fault = one(status, kind, reason);
            assert!(matches!(fault, Some(Fault::Wrong(..))), "{status} {kind}: {fault:?}");
        }
    }

    #[test]
    fn an_index_that_is_closed_to_writers_is_told_from_a_full_disk() {
        for (status, kind, reason) in [
            (400, "index_closed_exception", "closed"),
            (403, "cluster_block_exception", "index [x] blocked by: [FORBIDDEN/4/index closed];"),
            (
                403,
                "cluster_block_exception",
                "index [x] blocked by: [FORBIDDEN/5/index read-only (api)];",
            ),
            (
                403,
                "cluster_block_exception",
                "index [x-2026.10] blocked by: [FORBIDDEN/8/index write (api)];",
            ),
        ] {
            let fault = one(status, kind, reason);
            assert!(matches!(fault, Some(Fault::Closed(..))), "{kind} {reason}: {fault:?}");
        }
        let flood = "index [x] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];";
        let fault = one(429, "cluster_block_exception", flood);
        assert!(matches!(fault, Some(Fault::Later(..))), "{fault:?}");
    }

    #[test]
    fn every_item_has_to_be_answered() {
        let body = br#"{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":503,"error":{"type":"x","reason":null}}}]}"#;
        assert_eq!(faults(body, 2).unwrap().len(), 1);
        assert!(faults(body, 3).unwrap_err().contains("2 items of 3"));
        assert!(faults(body, 1).is_err());
        for torn in [&body[..60], b"{}", b"", b"<html>", br#"{"items":[{}]}"#, br#"{"items":7}"#] {
            assert!(faults(torn, 1).is_err(), "{}", String::from_utf8_lossy(torn));
        }
        let two = br#"{"items":[{"create":{"status":201},"index":{"status":400}}]}"#;
        assert!(faults(two, 1).is_err());
    }

    #[test]
    fn escapes_in_a_reason_are_read_and_long_ones_cut() {
        let long = "\\u00e9".repeat(5_000);
        let Some(Fault::Rejected(reason)) = one(400, "mapper_parsing_exception", &long) else {
            panic!("a rejection")
        };
        assert_eq!(reason.chars().filter(|char| *char == 'é').count(), REASON_CHARS_MAX);
    }
}
