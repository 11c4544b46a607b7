//! The bodies of `Secret` and `ConfigMap` in JSON that is no whole document: a relay cut it, or text stands
//! around it. No parser: quotes and brackets say enough, however often they were escaped.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::pairs::{closing_quote, quote_at, quote_ends_at};
use super::{Pass, first};

impl Pass<'_> {
    /// Replaces every string in `"data": {...}` of a text that is about such an object.
    pub(super) fn cut_bodies(&mut self, text: &[u8]) {
        let bodies = self.redactor.bodies;
        if (bodies.secrets | bodies.config_maps) & self.active == 0 {
            return;
        }
        let mut rule = None;
        let mut done = 0;
        for found in DATA.find_iter(text) {
            if found < done {
                continue;
            }
            let Some(open) = opening(text, found) else { continue };
            // Few texts come so far: only now it is asked what they are about.
            let rule = *rule.get_or_insert_with(|| first(self.told_in(text) & self.active));
            let Some(rule) = rule else { return };
            done = self.cut_body(text, open, rule);
        }
    }

    /// The rules for what a text says that it is about.
    fn told_in(&self, text: &[u8]) -> u64 {
        let bodies = self.redactor.bodies;
        let mut rules = match self.resource {
            Some("secrets") => bodies.secrets,
            Some("configmaps") => bodies.config_maps,
            _ => 0,
        };
        for (finder, of) in
            KINDS.iter().zip([bodies.secrets, bodies.config_maps].into_iter().cycle())
        {
            if rules & of != of
                && finder.find_iter(text).any(|at| is_told(text, at, finder.needle()))
            {
                rules |= of;
            }
        }
        rules
    }

    /// Replaces the strings behind an opening bracket up to its closing one, or to the end; says where
    /// that is. Keys stay.
    fn cut_body(&mut self, text: &[u8], open: usize, rule: u8) -> usize {
        let mut open_brackets = vec![b'{'];
        let mut is_value = false;
        let mut at = open + 1;
        while at < text.len() {
            let quote = quote_at(text, at);
            if quote > 0 && text[at + quote - 1] == b'"' {
                let start = at + quote;
                let end = closing_quote(text, start, &text[at..start]);
                if is_value {
                    self.replace_text(text, start, end, rule);
                }
                at = end + quote;
                continue;
            }
            match text[at] {
                bracket @ (b'{' | b'[') => {
                    open_brackets.push(bracket);
                    is_value = bracket == b'[';
                }
                b'}' | b']' => {
                    open_brackets.pop();
                    if open_brackets.is_empty() {
                        return at + 1;
                    }
                }
                b':' => is_value = true,
                b',' => is_value = open_brackets.last() == Some(&b'['),
                _ => {}
            }
            at += 1;
        }
        text.len()
    }
}

/// Where the bracket stands that `"data":`, `"stringData":` or `"binaryData":` opens.
fn opening(text: &[u8], found: usize) -> Option<usize> {
    let end = found + DATA.needle().len();
    let quote = quote_at(text, end);
    let letters = text[..end].iter().rev().take(NAME_BYTES_MAX);
    let start = end - letters.take_while(|byte| byte.is_ascii_alphabetic()).count();
    let known = [&b"data"[..], b"stringdata", b"binarydata"];
    let is_known = known.iter().any(|name| text[start..end].eq_ignore_ascii_case(name));
    if quote == 0 || !is_known || quote_ends_at(text, start) == 0 {
        return None;
    }
    let colon = skip_space(text, end + quote);
    let open = skip_space(text, colon + 1);
    (text.get(colon) == Some(&b':') && text.get(open) == Some(&b'{')).then_some(open)
}

/// Whether a word is the value of `"kind"` or `"resource"`.
fn is_told(text: &[u8], at: usize, word: &[u8]) -> bool {
    let mut end = at + word.len();
    if text[end..].starts_with(b"List") {
        end += b"List".len();
    }
    // The text may have been cut behind the word.
    if end < text.len() && quote_at(text, end) == 0 {
        return false;
    }
    let before = |at: usize| {
        let head = &text[at.saturating_sub(GAP_BYTES_MAX)..at];
        at - head.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count()
    };
    let colon = before(at - quote_ends_at(text, at));
    if quote_ends_at(text, at) == 0 || !text[..colon].ends_with(b":") {
        return false;
    }
    let name = before(colon - 1);
    let name = &text[..name - quote_ends_at(text, name)];
    [&b"kind"[..], b"resource"].iter().any(|one| name.ends_with(one))
}

/// Blanks, line ends, and line ends as they are escaped.
fn skip_space(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..text.len().min(at + GAP_BYTES_MAX)).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// The end of the names of a body, in lower and in upper case.
static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("ata"));

/// Secrets and maps in turn.
static KINDS: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| ["Secret", "ConfigMap", "secrets", "configmaps"].map(Finder::new));

/// `binaryData`, and one letter more that tells it from longer names.
const NAME_BYTES_MAX: usize = 11;

/// Blanks between a name and its value.
const GAP_BYTES_MAX: usize = 64;
