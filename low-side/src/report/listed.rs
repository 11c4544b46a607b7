//! Lists with an end.

use serde::Serialize;

/// So many rows of one kind are listed.
pub const LISTED_MAX: usize = 200;

/// The first rows of a list, and how many were left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listed<T> {
    /// The rows that are listed.
    pub items: Vec<T>,
    /// How many there are besides.
    pub left_out: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { items: Vec::new(), left_out: 0 }
    }
}

impl<T> Listed<T> {
    /// Takes a row in, or counts it.
    pub fn push(&mut self, item: T) {
        if self.items.len() < LISTED_MAX {
            self.items.push(item);
        } else {
            self.left_out += 1;
        }
    }

    /// How many there are, listed or not.
    pub fn count(&self) -> u64 {
        self.items.len() as u64 + self.left_out
    }
}

impl<T> Extend<T> for Listed<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let mut listed = Listed::default();
        listed.extend(0..LISTED_MAX + 3);
        assert_eq!((listed.items.len(), listed.left_out), (LISTED_MAX, 3));
        assert_eq!(listed.count(), LISTED_MAX as u64 + 3);
    }
}
