//! The names that occur most often, in memory that does not grow.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// So many names are counted at a time. Whatever makes up more than 1 in 512 of all is among them,
/// whatever else comes.
const NAMES_KEPT: usize = 512;
/// So many names are shown.
const NAMES_SHOWN: usize = 20;
/// A name is kept up to this length, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 200;

/// Counts names as "space saving" does (Metwally and others, 2005): when it is full, a new name takes
/// the place of the rarest one and inherits its count as a possible error. A flood of names can't
/// push a frequent one out.
#[derive(Debug, Default)]
pub(super) struct Heavy {
    counts: HashMap<String, Slot>,
    total: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    count: u64,
    /// The count may be too high by this.
    error: u64,
}

/// What occurred most often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Top {
    /// The most frequent names, in their order.
    pub shown: Vec<Frequent>,
    /// What all others add up to.
    pub others: u64,
}

/// One frequent name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Frequent {
    /// The name.
    pub name: String,
    /// How often it occurred, at least.
    pub count: u64,
    /// How much more often it may have occurred: there were more names than are counted at a time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub perhaps_more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives the field by reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Heavy {
    pub(super) fn add(&mut self, name: &str) {
        self.total += 1;
        let name = cut(name, NAME_BYTES_MAX);
        if let Some(slot) = self.counts.get_mut(name) {
            slot.count += 1;
            return;
        }
        let mut slot = Slot { count: 1, error: 0 };
        if self.counts.len() >= NAMES_KEPT {
            let rarest = self.counts.iter().min_by_key(|(_, slot)| slot.count);
            if let Some((rarest, least)) = rarest.map(|(name, slot)| (name.clone(), slot.count)) {
                self.counts.remove(&rarest);
                slot = Slot { count: least + 1, error: least };
            }
        }
        self.counts.insert(name.to_owned(), slot);
    }

    pub(super) fn top(self) -> Top {
        let mut shown: Vec<Frequent> = self
            .counts
            .into_iter()
            .map(|(name, slot)| Frequent {
                name,
                count: slot.count - slot.error,
                perhaps_more: slot.error,
            })
            .collect();
        shown.sort_by(|one, other| {
            let weight = |of: &Frequent| of.count + of.perhaps_more;
            weight(other).cmp(&weight(one)).then_with(|| one.name.cmp(&other.name))
        });
        shown.truncate(NAMES_SHOWN);
        let counted: u64 = shown.iter().map(|frequent| frequent.count).sum();
        Top { shown, others: self.total - counted }
    }
}

/// The begin of a text, whole characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_does_not_hide_a_frequent_one() {
        let mut heavy = Heavy::default();
        for number in 0..100_000 {
            heavy.add(&format!("decoy-{number}"));
            if number % 100 == 0 {
                heavy.add("mallory");
            }
        }
        assert!(heavy.counts.len() <= NAMES_KEPT);
        let top = heavy.top();
        let mallory = top.shown.iter().find(|frequent| frequent.name == "mallory").unwrap();
        assert!(
            mallory.count <= 1000 && mallory.count + mallory.perhaps_more >= 1000,
            "{mallory:?}"
        );
        let sum: u64 = top.shown.iter().map(|frequent| frequent.count).sum();
        assert_eq!(sum + top.others, 101_000);
    }

    #[test]
    fn few_names_are_counted_exactly_and_sorted() {
        let mut heavy = Heavy::default();
        for name in ["b", "a", "c", "b", "a", "b"] {
            heavy.add(name);
        }
        let top = heavy.top();
        let shown: Vec<_> = top.shown.iter().map(|f| (f.name.as_str(), f.count)).collect();
        assert_eq!(shown, [("b", 3), ("a", 2), ("c", 1)]);
        assert_eq!(top.others, 0);
    }
}
