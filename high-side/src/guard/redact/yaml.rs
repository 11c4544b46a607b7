//! YAML in a text, such as a compose file or a manifest: values that take several lines, and the
//! bodies of `Secret` and `ConfigMap`. No parser: indentation says enough, also where a text was cut.

use super::{Pass, Stop, first};

impl Pass<'_> {
    /// A value behind `name:` that stands on the lines below: a block, a list, or a scalar.
    pub(super) fn yaml_value(
        &mut self,
        text: &[u8],
        name: usize,
        value: usize,
        rule: u8,
    ) -> Option<usize> {
        // Most values stand in the line: its end is looked for only near by.
        let window = &text[value.min(text.len())..text.len().min(value + HEAD_BYTES_MAX)];
        let line_end = value + memchr::memchr(b'\n', window)?;
        let head = text[value..line_end].trim_ascii();
        let block = matches!(head.first(), Some(b'|' | b'>')) && head.len() <= 3;
        if !(block || head.is_empty()) || line_end >= text.len() {
            return None;
        }
        let indent = indent_of_entry(text, name);
        let end = end_of_block(text, line_end, indent);
        let mut at = next_line(text, line_end);
        if block {
            let start = at + indentation(text, at);
            let end = end.max(start);
            self.replace_text(text, start.min(end), end, rule);
            return Some(end);
        }
        while at < end {
            let stop = end_of_line(text, at);
            let line = &text[at..stop];
            let begin = at + line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let item = text[begin..stop].strip_prefix(b"- ").map_or(begin, |_| begin + 2);
            // A mapping below the name has names of its own, and may be a reference.
            if memchr::memmem::find(&text[item..stop], b": ").is_none()
                && !text[item..stop].trim_ascii().ends_with(b":")
            {
                self.replace_value_at(text, item, rule, Stop::LineUnlessPairs);
            }
            at = next_line(text, stop);
        }
        Some(line_end)
    }

    /// The bodies of `Secret` and `ConfigMap` in manifests.
    pub(super) fn manifests(&mut self, text: &[u8]) {
        let bodies = self.redactor.bodies;
        let mut from = 0;
        while from < text.len() {
            let end = memchr::memmem::find(&text[from..], b"\n---")
                .map_or(text.len(), |at| from + at + 1);
            let document = &text[from..end];
            let is = |kinds: &[&[u8]]| {
                kinds.iter().any(|kind| {
                    memchr::memmem::find_iter(document, kind).any(|at| {
                        let behind = document.get(at + kind.len());
                        behind.is_none_or(|byte| !byte.is_ascii_alphanumeric())
                            && is_kind(&document[..at])
                    })
                })
            };
            let mut rules = 0;
            if is(&[b"Secret", b"SecretList"]) {
                rules |= bodies.secrets;
            }
            if is(&[b"ConfigMap", b"ConfigMapList"]) {
                rules |= bodies.config_maps;
            }
            if let Some(rule) = first(rules & self.active) {
                self.manifest(text, from, end, rule);
            }
            from = end + 1;
        }
    }

    fn manifest(&mut self, text: &[u8], from: usize, end: usize, rule: u8) {
        let mut at = from;
        while at < end {
            let stop = end_of_line(text, at).min(end);
            let line = text[at..stop].trim_ascii();
            let line = line.strip_prefix(b"- ").unwrap_or(line);
            let opens = [&b"data:"[..], b"stringData:", b"binaryData:"].contains(&line);
            let next = next_line(text, stop);
            if !opens {
                at = next;
                continue;
            }
            let block = end_of_block(text, stop, indent_of_entry(text, at + indentation(text, at)))
                .min(end);
            let mut entry = next;
            while entry < block {
                let entry_stop = end_of_line(text, entry);
                let name = entry + indentation(text, entry);
                let colon = memchr::memchr(b':', &text[name..entry_stop]).map(|at| name + at);
                let Some(colon) = colon else {
                    self.replace_text(text, name, entry_stop, rule);
                    entry = next_line(text, entry_stop);
                    continue;
                };
                let value = colon + 1 + indentation(text, colon + 1);
                entry = if let Some(done) = self.yaml_value(text, name, value, rule) {
                    let last = if done > entry_stop { done - 1 } else { entry_stop };
                    next_line(text, end_of_line(text, last))
                } else {
                    self.replace_value_at(text, value, rule, Stop::Line);
                    next_line(text, entry_stop)
                };
            }
            at = block.max(next);
        }
    }
}

fn is_kind(head: &[u8]) -> bool {
    let head = head.trim_ascii_end();
    let head = head.strip_suffix(b"\"").or_else(|| head.strip_suffix(b"'")).unwrap_or(head);
    head.trim_ascii_end().ends_with(b"kind:")
}

fn end_of_line(text: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', &text[from.min(text.len())..]).map_or(text.len(), |at| from + at)
}

fn next_line(text: &[u8], end: usize) -> usize {
    (end + 1).min(text.len().max(end))
}

fn indentation(text: &[u8], at: usize) -> usize {
    text[at.min(text.len())..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// The column of a name, counted over the dash of a list.
fn indent_of_entry(text: &[u8], name: usize) -> usize {
    let line = memchr::memrchr(b'\n', &text[..name]).map_or(0, |at| at + 1);
    indentation(text, line)
}

/// Where the lines end that are indented deeper than a name, or are the items of its list.
fn end_of_block(text: &[u8], from: usize, indent: usize) -> usize {
    let mut at = next_line(text, from);
    let mut end = from;
    while at < text.len() {
        let stop = end_of_line(text, at);
        let line = &text[at..stop];
        if !line.trim_ascii().is_empty() {
            if indentation(text, at) <= indent {
                break;
            }
            end = at + line.trim_ascii_end().len();
        }
        at = next_line(text, stop);
    }
    end
}

/// `|2-` and blanks behind it.
const HEAD_BYTES_MAX: usize = 128;
