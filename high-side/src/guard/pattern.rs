//! Lists of patterns, by which rules say what they match.

use serde::Deserialize;

/// One pattern: `*` stands for any text, `!` in front takes back what others match.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    not: bool,
    /// The parts between the asterisks; a single one is the whole text.
    parts: Vec<String>,
}

/// A list of patterns. A text matches if one of those without `!` matches it, or there are none of
/// these, and none of those with `!` does. What is absent counts as empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Patterns(Vec<Pattern>);

impl From<Vec<String>> for Patterns {
    fn from(texts: Vec<String>) -> Self {
        Self(texts.iter().map(|text| Pattern::new(text)).collect())
    }
}

impl From<&[&str]> for Patterns {
    fn from(texts: &[&str]) -> Self {
        Self(texts.iter().map(|text| Pattern::new(text)).collect())
    }
}

impl Patterns {
    /// Whether the list says nothing, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a text matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut positive = false;
        let mut hit = false;
        for pattern in &self.0 {
            if pattern.not {
                if pattern.matches(text) {
                    return false;
                }
            } else {
                positive = true;
                hit = hit || pattern.matches(text);
            }
        }
        hit || !positive
    }
}

impl Patterns {
    /// The only texts that can match; `None` where some pattern stands for more than one, or none does.
    pub fn texts(&self) -> Option<Vec<&str>> {
        let positive = self.0.iter().filter(|pattern| !pattern.not);
        let texts: Vec<&str> = positive
            .map(|pattern| match pattern.parts.as_slice() {
                [text] => Some(text.as_str()),
                _ => None,
            })
            .collect::<Option<_>>()?;
        (!texts.is_empty()).then_some(texts)
    }

    /// Whether some text with this word in it matches, as far as trying tells: the word itself, and each
    /// pattern with the word in place of its asterisks.
    pub fn could_match_word(&self, word: &str) -> bool {
        let filled = self.0.iter().filter(|pattern| !pattern.not && pattern.parts.len() > 1);
        self.matches(word)
            || filled.map(|pattern| pattern.parts.join(word)).any(|text| self.matches(&text))
    }

    /// Whether some text that begins so matches: of actions such as `role.`, say.
    pub fn could_match_begin(&self, begin: &str) -> bool {
        if self.matches(begin) || self.matches(&format!("{begin}x")) {
            return true;
        }
        self.0.iter().filter(|pattern| !pattern.not).any(|pattern| {
            let first = pattern.parts.first().map_or("", String::as_str);
            let exact = pattern.parts.len() == 1;
            first.starts_with(begin) || !exact && begin.starts_with(first)
        })
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (not, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Self { not, parts: text.split('*').map(ToOwned::to_owned).collect() }
    }

    fn matches(&self, text: &str) -> bool {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else {
            return text.is_empty();
        };
        if self.parts.len() == 1 {
            return text == first;
        }
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in &self.parts[1..self.parts.len() - 1] {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.len() >= last.len() && rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        for (patterns, text, expected) in [
            (&["a"][..], "a", true),
            (&["a"], "ab", false),
            (&["a*"], "ab", true),
            (&["a*"], "a", true),
            (&["*a"], "ba", true),
            (&["*a"], "ab", false),
            (&["a*b*c"], "a-b-c", true),
            (&["a*b*c"], "ac", false),
            (&["a*a"], "a", false),
            (&["*"], "", true),
            (&[""], "", true),
            (&[""], "a", false),
            (&[], "anything", true),
            (&["!a*"], "ab", false),
            (&["!a*"], "b", true),
            (&["system:*", "!system:anonymous"], "system:anonymous", false),
            (&["system:*", "!system:anonymous"], "system:node:a", true),
            (&["system:*", "!system:anonymous"], "alice", false),
            (&["x", "y"], "y", true),
        ] {
            assert_eq!(Patterns::from(patterns).matches(text), expected, "{patterns:?} {text}");
        }
    }
}
