//! An answer of the REST interface, and the records in it. Nothing is built: each record is a range of
//! the answer's bytes, so that what is inserted is exactly what Portainer wrote.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use shared::json::{Kind, Tape};

use crate::buffer::Sighting;

use super::sighting::sighting_of_item;

/// One page of records.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The answer as it came.
    pub(super) body: Vec<u8>,
    /// Every record in it, in its order.
    pub(super) items: Vec<Item>,
    /// How many there are in all, if it says so.
    pub(super) total: Option<u64>,
}

/// One record of a page.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it stands in the body.
    pub(super) range: Range<usize>,
    /// Equal for equal bytes. An id would not do: it begins anew when Portainer's database is made anew.
    pub(super) print: u64,
    /// Its sighting, or what it lacks to have one.
    pub(super) sighting: Result<Sighting, &'static str>,
}

impl Page {
    /// Reads an answer: a bare array of records, or an object whose `logs` is one. Documents and code of
    /// Portainer disagree about which it is.
    pub(super) fn read(
        body: Vec<u8>,
        tape: &mut Tape,
        prints: &RandomState,
    ) -> Result<Self, Unread> {
        let root = match tape.scan(&body) {
            Ok(root) => root,
            Err(shared::json::JsonError::TooComplex) => return Err(Unread::TooComplex),
            Err(err) => return Err(Unread::Malformed(err.to_string())),
        };
        let (list, total) = match root.kind() {
            Kind::Array => (Some(root), None),
            // Go writes an empty list that was never made as null.
            Kind::Null => (None, None),
            Kind::Object => {
                let Some(logs) = root.get("logs") else {
                    return Err(Unread::Malformed("it has no \"logs\"".to_owned()));
                };
                let total = root.get("totalCount").and_then(|total| total.as_i64());
                match logs.kind() {
                    Kind::Array => (Some(logs), total),
                    Kind::Null => (None, total),
                    _ => return Err(Unread::Malformed("\"logs\" is no list".to_owned())),
                }
            }
            _ => return Err(Unread::Malformed("it is neither a list nor an object".to_owned())),
        };
        let items = list.map(|list| list.children()).into_iter().flatten().map(|value| {
            let node = value.node();
            Item {
                range: node.start as usize..node.end as usize,
                print: prints.hash_one(value.raw()),
                sighting: sighting_of_item(value),
            }
        });
        let items = items.collect();
        let total = total.and_then(|total| u64::try_from(total).ok());
        Ok(Self { body, items, total })
    }
}

/// Why an answer can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is no list of records.
    Malformed(String),
    /// It holds more values than are followed: ask for less.
    TooComplex,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Page, Unread> {
        Page::read(text.as_bytes().to_vec(), &mut Tape::default(), &RandomState::new())
    }

    const ITEM: &str = r#"{"id":1, "timestamp":1700000000,"username":"\u003ca","type":1,"origin":"::1","context":1}"#;

    #[test]
    fn both_shapes_are_read_and_records_keep_their_bytes() {
        for (text, total) in [
            (format!("[{ITEM},{ITEM}]"), None),
            (format!("{{\"logs\":[ {ITEM} , {ITEM}],\"totalCount\":7}}\n"), Some(7)),
        ] {
            let page = read(&text).unwrap();
            assert_eq!((page.items.len(), page.total), (2, total));
            for item in &page.items {
                assert_eq!(&page.body[item.range.clone()], ITEM.as_bytes());
                assert!(item.sighting.is_ok());
            }
            assert_eq!(page.items[0].print, page.items[1].print);
        }
    }

    #[test]
    fn nothing_is_an_answer_too() {
        for text in ["[]", "null", "{\"logs\":null,\"totalCount\":0}", "{\"logs\":[]}"] {
            assert_eq!(read(text).unwrap().items.len(), 0, "{text}");
        }
    }

    #[test]
    fn a_record_that_is_none_does_not_spoil_the_others() {
        let page = read(&format!("[7,{{}},{{\"action\":\"PUT /settings\"}},null,{ITEM}]")).unwrap();
        let good: Vec<bool> = page.items.iter().map(|item| item.sighting.is_ok()).collect();
        assert_eq!(good, [false, false, false, false, true]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "<html>", "{\"message\":\"no\"}", "{\"logs\":{}}", "7", "[", "[1,]"] {
            assert!(matches!(read(text), Err(Unread::Malformed(_))), "{text}");
        }
        let many = format!("[{}0]", "0,".repeat(shared::json::NODES_MAX));
        assert_eq!(read(&many).unwrap_err(), Unread::TooComplex);
    }

    #[test]
    fn the_vendors_own_examples_are_read() {
        let dir =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples/portainer");
        for (name, count) in [
            ("rest-authlogs-response-terraform-mock.json", 1),
            ("rest-logs-response-terraform-mock.json", 2),
        ] {
            let Ok(text) = std::fs::read_to_string(dir.join(name)) else { continue };
            let page = read(&text).unwrap();
            assert_eq!(page.items.len(), count);
            assert!(page.items.iter().all(|item| item.sighting.is_ok()), "{name}");
        }
    }
}
