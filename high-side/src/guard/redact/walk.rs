//! The walk over the nodes of a JSON layer.

use std::cell::OnceCell;
use std::collections::HashSet;

use base64::Engine as _;
use shared::json::{Kind, Node};
use shared::record::Stream;

use super::anchor::{Anchor, Hit};
use super::edit::{Coding, Edit};
use super::names::{Role, Verdict};
use super::rule::{Action, Step};
use super::text::{BASE64, is_plausible};
use super::{Bodies, Level, Pass, Pointers, first, mark};

/// A scanned layer.
#[derive(Clone, Copy)]
pub(super) struct Layer<'t> {
    pub(super) text: &'t [u8],
    pub(super) nodes: &'t [Node],
    /// For each node its container, once somebody asks for it far into the text.
    pub(super) parents: &'t OnceCell<Vec<u32>>,
}

impl<'t> Layer<'t> {
    fn key(&self, node: &Node) -> &'t [u8] {
        &self.text[node.key_start as usize..node.key_end as usize]
    }

    /// A string's content, as it is written.
    fn content(&self, node: &Node) -> &'t [u8] {
        if node.kind == Kind::String {
            &self.text[node.start as usize + 1..node.end as usize - 1]
        } else {
            &self.text[node.start as usize..node.end as usize]
        }
    }

    /// The container that a node stands in.
    fn parent(&self, index: usize) -> Option<usize> {
        let depth = self.nodes[index].depth.checked_sub(1)?;
        if index < NEAR_NODES_MAX {
            return self.nodes[..index].iter().rposition(|node| node.depth == depth);
        }
        let parents = self.parents.get_or_init(|| {
            let mut open = Vec::new();
            let enter = |(at, node): (usize, &Node)| {
                open.truncate(usize::from(node.depth));
                let parent = open.last().copied().unwrap_or(0);
                open.push(at as u32);
                parent
            };
            self.nodes.iter().enumerate().map(enter).collect()
        });
        Some(parents[index] as usize)
    }

    fn children(&self, index: usize) -> impl Iterator<Item = usize> + use<'t> {
        let nodes = self.nodes;
        let end = nodes[index].next as usize;
        let mut at = index + 1;
        std::iter::from_fn(move || {
            let child = (at < end).then_some(at)?;
            at = nodes[child].next as usize;
            Some(child)
        })
    }

    fn member(&self, object: usize, keys: &[&[u8]]) -> Option<usize> {
        self.children(object).take(MEMBERS_MAX).find(|child| {
            let key = self.key(&self.nodes[*child]);
            keys.iter().any(|wanted| key.eq_ignore_ascii_case(wanted))
        })
    }

    fn string(&self, index: usize) -> Option<std::borrow::Cow<'t, str>> {
        let node = &self.nodes[index];
        (node.kind == Kind::String).then(|| shared::json::decode(self.content(node), node.escaped))
    }
}

impl Pass<'_> {
    /// Looks at the record's JSON body, which begins at `base` in the record.
    pub(super) fn document(
        &mut self,
        text: &[u8],
        nodes: &[Node],
        pointers: &[(u8, Vec<Step>)],
        base: usize,
    ) {
        if pointers.is_empty() {
            self.walk(Layer { text, nodes, parents: &OnceCell::new() }, 0, &[]);
        } else {
            let pointers: Vec<_> = pointers
                .iter()
                .filter(|(rule, _)| self.active & 1 << rule != 0)
                .map(|(rule, steps)| (*rule, steps.as_slice()))
                .collect();
            self.walk(Layer { text, nodes, parents: &OnceCell::new() }, 0, &pointers);
        }
        for edit in self.edits.iter_mut() {
            edit.start += base;
            edit.end += base;
        }
    }

    pub(super) fn walk(&mut self, layer: Layer<'_>, depth: u8, pointers: Pointers<'_>) {
        let mut entering = Vec::new();
        for (rule, steps) in pointers {
            self.follow(layer, 0, *rule, steps, &mut entering);
        }
        entering.sort_by_key(|(index, ..)| *index);
        let redactor = self.redactor;
        let mut hits = redactor.anchors.hits(layer.text);
        let mut hit = hits.at(0);
        // The last array whose elements were taken as arguments of a program.
        let mut arguments = usize::MAX;
        let mut index = 0;
        while let Some(node) = layer.nodes.get(index) {
            let mut role = Role::Plain;
            if node.key_end > node.key_start {
                let verdict = self.verdict(layer, node);
                role = verdict.role;
                if verdict.rules & self.active != 0
                    && let Some(rule) = self.named(layer, index, verdict)
                    && self.replace_value(layer, index, rule, Some(verdict))
                {
                    index = node.next as usize;
                    continue;
                }
                if role == Role::Data && self.body(layer, index) {
                    index = node.next as usize;
                    continue;
                }
                if role == Role::Value
                    && let Some(rule) = self.beside_a_name(layer, index)
                    && self.replace_value(layer, index, rule, None)
                {
                    index = node.next as usize;
                    continue;
                }
                while let Some(found) = hit.filter(|hit| hit.start < node.start as usize) {
                    if found.start >= node.key_start as usize && is_form(found) {
                        self.key(layer, index);
                        hit = hits.at(node.start as usize);
                        break;
                    }
                    hit = hits.at(found.start + 1);
                }
            }
            if node.kind == Kind::String {
                let start = node.start as usize + 1;
                let end = node.end as usize - 1;
                let mut looked = false;
                while let Some(found) = hit.filter(|hit| hit.start < end) {
                    if found.start >= start && is_plausible(&layer.text[..end], start, found) {
                        looked = true;
                        break;
                    }
                    hit = hits.at(found.end.max(start));
                }
                let content = &layer.text[start..end];
                looked = looked
                    || matches!(content.first(), Some(b'{' | b'['))
                    || (role == Role::Content && content.len() >= BASE64_BYTES_MIN)
                    || is_texty_base64(content)
                    || !own(&entering, index).is_empty();
                if looked {
                    let own: Vec<_> = own(&entering, index)
                        .iter()
                        .map(|(_, rule, steps)| (*rule, *steps))
                        .collect();
                    self.string(layer, index, depth, &own);
                    hit = hits.at(node.end as usize);
                }
                if matches!(layer.key(node), b"proc.args" | b"proc.pargs") {
                    self.arguments_beside(layer, index);
                }
                if node.depth > 0 && node.key_end == node.key_start {
                    let flag = content.first() == Some(&b'-');
                    if flag || is_header_name(content) {
                        let parent = layer.parent(index).unwrap_or(usize::MAX);
                        if flag && parent != arguments {
                            arguments = parent;
                            self.arguments(layer, parent);
                        } else if !flag {
                            self.header_pair(layer, index);
                        }
                    }
                }
            }
            index += 1;
        }
    }

    fn verdict(&mut self, layer: Layer<'_>, node: &Node) -> Verdict {
        let key = layer.key(node);
        if node.key_escaped {
            let key = shared::json::decode(key, true);
            return self.redactor.names.verdict(key.as_bytes());
        }
        self.names.verdict(&self.redactor.names, key)
    }

    /// The rule for a named node: those with a condition count only in a body that fulfils it.
    fn named(&mut self, layer: Layer<'_>, index: usize, verdict: Verdict) -> Option<u8> {
        let conditional = self.redactor.conditional;
        let rules = verdict.rules & self.active;
        let narrow = conditional.secrets | conditional.config_maps;
        let open = rules & !narrow;
        if rules & narrow == 0 {
            return first(open);
        }
        first(open | rules & self.fulfilled(layer, index, conditional))
    }

    /// Which of these rules' conditions the object around a node fulfils.
    fn fulfilled(&self, layer: Layer<'_>, index: usize, bodies: Bodies) -> u64 {
        let of = |name: &str| match name {
            "secrets" | "Secret" | "SecretList" => bodies.secrets,
            "configmaps" | "ConfigMap" | "ConfigMapList" => bodies.config_maps,
            _ => 0,
        };
        // The nearest object that says what it is.
        let mut at = index;
        while let Some(parent) = layer.parent(at) {
            at = parent;
            if layer.nodes[parent].kind != Kind::Object {
                continue;
            }
            let kind = layer.member(parent, &[b"kind"]);
            // An event, alone or in a list.
            let own = layer.member(parent, &[b"objectRef"]);
            let own = own.and_then(|at| layer.member(at, &[b"resource"]));
            for told in [kind, own].into_iter().flatten() {
                let rules = layer.string(told).map_or(0, |name| of(&name));
                if rules != 0 {
                    return rules;
                }
            }
        }
        self.resource.map_or(0, of)
    }

    /// Replaces each value in the `data` of a Kubernetes `Secret` or `ConfigMap`, or of a Docker secret.
    fn body(&mut self, layer: Layer<'_>, index: usize) -> bool {
        let bodies = self.redactor.bodies;
        if (bodies.secrets | bodies.config_maps) & self.active == 0 {
            return false;
        }
        let node = &layer.nodes[index];
        let mut rules = self.fulfilled(layer, index, bodies);
        if rules == 0
            && node.kind == Kind::String
            && self.stream == Stream::PortainerActivity
            && layer.parent(index).is_some_and(|at| layer.member(at, &[b"name"]).is_some())
        {
            rules = bodies.secrets;
        }
        let Some(rule) = first(rules & self.active) else { return false };
        if node.kind == Kind::Object {
            for child in layer.children(index) {
                self.replace_value(layer, child, rule, None);
            }
            return true;
        }
        self.replace_value(layer, index, rule, None)
    }

    /// The rule for a `value`, if the `name`, `key` or `path` beside it names a secret.
    fn beside_a_name(&mut self, layer: Layer<'_>, index: usize) -> Option<u8> {
        let parent = layer.parent(index).filter(|at| layer.nodes[*at].kind == Kind::Object)?;
        for child in layer.children(parent).take(MEMBERS_MAX) {
            let key = layer.key(&layer.nodes[child]);
            let is = |wanted: &[u8]| key.eq_ignore_ascii_case(wanted);
            if ![&b"name"[..], b"key", b"path", b"variable", b"header", b"field", b"id"]
                .iter()
                .any(|one| is(one))
            {
                continue;
            }
            let Some(name) = layer.string(child) else { continue };
            let name =
                if is(b"path") { name.rsplit('/').next().unwrap_or_default() } else { &name };
            let name = name.replace("~1", "/");
            let verdict = self.names.verdict(&self.redactor.names, name.as_bytes());
            if let Some(rule) = self.named(layer, index, verdict) {
                return Some(rule);
            }
            // A JSON patch into the body of a Secret.
            if is(b"path") && layer.member(parent, &[b"op"]).is_some() {
                let path = layer.string(child)?;
                let mut parts = path.split('/').skip(1);
                let data = parts.any(|part| {
                    matches!(self.redactor.names.verdict(part.as_bytes()).role, Role::Data)
                });
                let bodies = self.redactor.bodies;
                if data
                    && let Some(rule) = first(self.fulfilled(layer, index, bodies) & self.active)
                {
                    return Some(rule);
                }
            }
        }
        None
    }

    /// Replaces a node's value, or removes its member. Says whether the node is done with.
    fn replace_value(
        &mut self,
        layer: Layer<'_>,
        index: usize,
        rule: u8,
        verdict: Option<Verdict>,
    ) -> bool {
        let node = &layer.nodes[index];
        let content = layer.content(node);
        let key = layer.key(node);
        // A quota counts secrets, a report what passed.
        let counts = match node.kind {
            Kind::Number | Kind::String if key == b"secrets" => mark::is_count(content),
            Kind::Number if key == b"pass" => {
                layer.parent(index).is_some_and(|parent| layer.member(parent, &[b"fail"]).is_some())
            }
            _ => false,
        };
        let stays = match node.kind {
            _ if counts => true,
            // A boolean can't hold a secret, and `automountServiceAccountToken: true` is evidence.
            Kind::Null | Kind::Bool => true,
            Kind::Number => false,
            Kind::String => {
                content.is_empty()
                    || mark::is_mark(content)
                    || mark::is_variable(content)
                    || mark::is_key_path(layer.key(node), content)
            }
            Kind::Array | Kind::Object => {
                node.next as usize == index + 1
                    || verdict
                        .is_some_and(|verdict| verdict.reference && is_reference(layer, index))
            }
        };
        if stays {
            // What a container holds is still looked at.
            return !matches!(node.kind, Kind::Array | Kind::Object);
        }
        self.replace_node(layer, index, rule);
        true
    }

    fn replace_node(&mut self, layer: Layer<'_>, index: usize, rule: u8) {
        let node = &layer.nodes[index];
        let place = self.pointer(layer, index);
        let (range, text) = if self.redactor.rules[usize::from(rule)].action == Action::Drop {
            (self.member_range(layer, index), String::new())
        } else {
            let value = layer.string(index);
            let raw = &layer.text[node.start as usize..node.end as usize];
            let value = value.as_ref().map_or(raw, |text| text.as_bytes());
            (node.start as usize..node.end as usize, format!("\"{}\"", self.mark(rule, value)))
        };
        self.edits.push(Edit {
            start: range.start,
            end: range.end,
            text: text.into_bytes(),
            encoded: false,
            places: vec![(rule, place)],
        });
    }

    /// What of the text goes with a member: its key, its value, and exactly one comma.
    fn member_range(&self, layer: Layer<'_>, index: usize) -> std::ops::Range<usize> {
        let begin = |index: usize| {
            let node = &layer.nodes[index];
            if node.key_end > node.key_start || is_member(layer, index) {
                node.key_start as usize - 1
            } else {
                node.start as usize
            }
        };
        let node = &layer.nodes[index];
        let Some(parent) = layer.parent(index) else {
            return node.start as usize..node.end as usize;
        };
        if (node.next) < layer.nodes[parent].next {
            return begin(index)..begin(node.next as usize);
        }
        // The last one takes the comma before it, together with all that go directly before it.
        let dropped = self.edits.iter().filter(|edit| edit.text.is_empty());
        let dropped: HashSet<usize> = dropped.map(|edit| edit.start).collect();
        let gone = |child: usize| dropped.contains(&begin(child));
        let kept = layer
            .children(parent)
            .take_while(|child| *child < index)
            .filter(|at| !gone(*at))
            .last();
        let start = kept.map_or(begin(index), |kept| layer.nodes[kept].end as usize);
        start..node.end as usize
    }

    /// Follows a rule's pointer from a node on.
    fn follow<'p>(
        &mut self,
        layer: Layer<'_>,
        index: usize,
        rule: u8,
        steps: &'p [Step],
        entering: &mut Vec<(usize, u8, &'p [Step])>,
    ) {
        let Some((step, rest)) = steps.split_first() else {
            let node = &layer.nodes[index];
            let empty = node.kind == Kind::String && node.end == node.start + 2;
            let conditional = self.redactor.conditional;
            let narrow = conditional.secrets | conditional.config_maps;
            let fulfilled = narrow & 1 << rule == 0
                || self.fulfilled(layer, index, conditional) & 1 << rule != 0;
            if node.kind != Kind::Null && !empty && fulfilled && !mark::is_mark(layer.content(node))
            {
                self.replace_node(layer, index, rule);
            }
            return;
        };
        if *step == Step::Enter {
            if layer.nodes[index].kind == Kind::String {
                entering.push((index, rule, rest));
            }
            return;
        }
        let object = layer.nodes[index].kind == Kind::Object;
        for (position, child) in layer.children(index).enumerate() {
            let matches = match step {
                Step::Any => true,
                Step::Enter => false,
                Step::Name(name) if object => {
                    let node = &layer.nodes[child];
                    shared::json::decode(layer.key(node), node.key_escaped) == **name
                }
                Step::Name(name) => name.parse() == Ok(position),
            };
            if matches {
                self.follow(layer, child, rule, rest, entering);
            }
        }
    }

    /// Looks into a string.
    fn string(&mut self, layer: Layer<'_>, index: usize, depth: u8, pointers: Pointers<'_>) {
        let node = &layer.nodes[index];
        let content = layer.content(node);
        let from = self.edits.len();
        self.escaped_text(content, node.escaped, node.start as usize + 1, depth, pointers);
        if self.edits.len() > from {
            let place = self.pointer(layer, index);
            self.prefix_places(from, &place);
        }
    }

    /// Looks into a key: only for what is recognised by its form.
    fn key(&mut self, layer: Layer<'_>, index: usize) {
        let node = &layer.nodes[index];
        let from = self.edits.len();
        self.shapes_only(layer.key(node), node.key_start as usize);
        for edit in &mut self.edits[from..] {
            edit.places = edit.places.iter().map(|(rule, _)| (*rule, "a-key".to_owned())).collect();
        }
    }

    fn escaped_text(
        &mut self,
        content: &[u8],
        escaped: bool,
        base: usize,
        depth: u8,
        pointers: Pointers<'_>,
    ) {
        let from = self.edits.len();
        if escaped {
            let mut level = self.levels.pop().unwrap_or_default();
            level.view.unescape(content);
            self.text(&level.view.bytes, depth, pointers);
            level.view.carry_over(&mut self.edits[from..], base);
            self.levels.push(level);
        } else {
            self.text(content, depth, pointers);
            for edit in &mut self.edits[from..] {
                edit.start += base;
                edit.end += base;
            }
        }
    }

    /// Takes the strings of an array as the arguments of a program.
    fn arguments(&mut self, layer: Layer<'_>, array: usize) {
        let from = self.edits.len();
        let mut level: Level = self.levels.pop().unwrap_or_default();
        let view = &mut level.view;
        view.clear(Coding::Json);
        let mut tokens = Vec::new();
        for child in layer.children(array) {
            let node = &layer.nodes[child];
            if node.kind != Kind::String {
                continue;
            }
            let start = view.bytes.len();
            let base = node.start as usize + 1;
            shared::json::unescape(layer.content(node), |byte, source| {
                view.push(byte, base + source);
            });
            tokens.push(start..view.bytes.len());
            view.push(0, node.end as usize - 1);
        }
        view.sources.push(layer.nodes[array].end);
        // `"command": ["mysql"], "args": [...]`: the program's name is the last one beside.
        let key = layer.key(&layer.nodes[array]);
        let beside = [&b"args"[..], b"cmd"].iter().any(|one| key.eq_ignore_ascii_case(one));
        let program = layer.parent(array).filter(|_| beside).and_then(|parent| {
            let at = layer.member(parent, &[b"command", b"entrypoint", b"path"])?;
            let last = layer.children(at).take(MEMBERS_MAX).last().unwrap_or(at);
            layer.string(last)
        });
        let name = program.as_ref().map(|name| name.as_bytes());
        self.command_of(name, &level.view.bytes, &tokens, 0);
        level.view.carry_over(&mut self.edits[from..], 0);
        self.levels.push(level);
        if self.edits.len() > from {
            let place = self.pointer(layer, array);
            self.prefix_places(from, &place);
        }
    }

    /// Takes a string as the arguments of the program that is named beside it.
    fn arguments_beside(&mut self, layer: Layer<'_>, index: usize) {
        let node = &layer.nodes[index];
        let names: &[&[u8]] = if layer.key(node) == b"proc.args" {
            &[b"proc.name", b"proc.exe", b"proc.exepath"]
        } else {
            &[b"proc.pname", b"proc.pexe", b"proc.pexepath"]
        };
        let parent = layer.parent(index);
        let Some(program) = parent.and_then(|at| layer.string(layer.member(at, names)?)) else {
            return;
        };
        let from = self.edits.len();
        let mut level: Level = self.levels.pop().unwrap_or_default();
        level.view.unescape(layer.content(node));
        let text = &level.view.bytes;
        self.command_of(Some(program.as_bytes()), text, &super::command::tokens(text), 0);
        level.view.carry_over(&mut self.edits[from..], node.start as usize + 1);
        self.levels.push(level);
        if self.edits.len() > from {
            let place = self.pointer(layer, index);
            self.prefix_places(from, &place);
        }
    }

    /// `["Authorization", "..."]`: the element behind a header's name.
    fn header_pair(&mut self, layer: Layer<'_>, index: usize) {
        let node = &layer.nodes[index];
        let next = node.next as usize;
        let sibling = layer.nodes.get(next).is_some_and(|other| {
            other.depth == node.depth
                && other.kind == Kind::String
                && other.key_end == other.key_start
        });
        if sibling && layer.parent(index) == layer.parent(next) {
            let verdict = self.names.verdict(&self.redactor.names, layer.content(node));
            if let Some(rule) = self.named(layer, next, verdict) {
                self.replace_value(layer, next, rule, None);
            }
        }
    }

    pub(super) fn prefix_places(&mut self, from: usize, pointer: &str) {
        for edit in &mut self.edits[from..] {
            for (_, place) in &mut edit.places {
                *place = if place.is_empty() {
                    pointer.to_owned()
                } else {
                    format!("{pointer}!{place}")
                };
            }
        }
    }

    /// The JSON pointer of a node, for notes. A key in which something secret was found, or that is
    /// overlong, is not named.
    fn pointer(&mut self, layer: Layer<'_>, index: usize) -> String {
        let mut parts = Vec::new();
        let mut at = index;
        while let Some(parent) = layer.parent(at) {
            let node = &layer.nodes[at];
            if layer.nodes[parent].kind == Kind::Array {
                // Far into a long array nobody counts.
                let before = layer.children(parent).take_while(|child| *child < at);
                let position = before.take(INDEX_MAX).count();
                let known = position < INDEX_MAX;
                parts.push(if known { position.to_string() } else { "*".to_owned() });
            } else {
                let key = shared::json::decode(layer.key(node), node.key_escaped).into_owned();
                let from = self.edits.len();
                self.shapes_only(key.as_bytes(), 0);
                let clean = self.edits.len() == from && key.len() <= PLACE_KEY_BYTES_MAX;
                self.edits.truncate(from);
                let plain = key.chars().all(|char| !char.is_control() && char != ',');
                parts.push(if clean && plain {
                    key.replace('~', "~0").replace('/', "~1")
                } else {
                    "?".to_owned()
                });
            }
            at = parent;
        }
        parts.iter().rev().fold(String::new(), |path, part| path + "/" + part)
    }
}

/// Whether a node is a member of an object: also with an empty key.
fn is_member(layer: Layer<'_>, index: usize) -> bool {
    layer.parent(index).is_some_and(|at| layer.nodes[at].kind == Kind::Object)
}

/// Whether a container only says where a secret lies: `{"name": "db", "key": "password"}`.
fn is_reference(layer: Layer<'_>, container: usize) -> bool {
    layer.children(container).all(|child| {
        let node = &layer.nodes[child];
        match node.kind {
            Kind::Array | Kind::Object => {
                let key = layer.key(node);
                (key.is_empty() || REFERENCE_CONTAINERS.contains(&key))
                    && is_reference(layer, child)
            }
            Kind::Bool | Kind::Null => true,
            Kind::Number | Kind::String => {
                let key = layer.key(node);
                REFERENCE_KEYS.iter().any(|known| key.eq_ignore_ascii_case(known))
            }
        }
    })
}

/// The pointers that enter a string.
fn own<'e, 'p>(
    entering: &'e [(usize, u8, &'p [Step])],
    index: usize,
) -> &'e [(usize, u8, &'p [Step])] {
    let from = entering.partition_point(|(at, ..)| *at < index);
    let length = entering[from..].iter().take_while(|(at, ..)| *at == index).count();
    &entering[from..from + length]
}

fn is_form(hit: Hit) -> bool {
    matches!(hit.anchor, Anchor::Shape | Anchor::Url)
}

/// Whether an element of an array is the name of a header that holds a secret.
fn is_header_name(content: &[u8]) -> bool {
    matches!(
        content.first(),
        Some(b'A' | b'a' | b'C' | b'c' | b'P' | b'p' | b'S' | b's' | b'X' | b'x')
    ) && HEADER_NAMES.iter().any(|name| content.eq_ignore_ascii_case(name))
}

/// Whether a string looks like the base64 of a text: its first twelve bytes are printable. Digests and
/// identifiers made of the same letters are told apart by that.
fn is_texty_base64(content: &[u8]) -> bool {
    let Some(head) = content.get(..16) else { return false };
    let letters =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    if !head.iter().all(letters) {
        return false;
    }
    let mut bytes = [0; 12];
    let decoded = BASE64.decode_slice(head, &mut bytes);
    decoded.is_ok() && bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'))
}

const HEADER_NAMES: &[&[u8]] = &[
    b"authorization",
    b"cookie",
    b"proxy-authorization",
    b"set-cookie",
    b"x-api-key",
    b"x-auth-token",
    b"x-registry-auth",
    b"x-vault-token",
];

/// What stands in references to secrets.
const REFERENCE_KEYS: &[&[u8]] = &[
    b"apiGroup",
    b"apiVersion",
    b"audience",
    b"defaultMode",
    b"expirationSeconds",
    b"external",
    b"file",
    b"gid",
    b"key",
    b"kind",
    b"mode",
    b"name",
    b"namespace",
    b"path",
    b"resourceVersion",
    b"SecretID",
    b"secretName",
    b"SecretName",
    b"source",
    b"target",
    b"uid",
    b"ConfigID",
    b"ConfigName",
];

const REFERENCE_CONTAINERS: &[&[u8]] = &[b"items", b"File", b"secretRef", b"secretKeyRef"];

/// Shorter base64 holds no text with a secret in it.
const BASE64_BYTES_MIN: usize = 8;

/// Keys in notes: longer ones are somebody's text.
const PLACE_KEY_BYTES_MAX: usize = 64;

/// Among so many nodes a container is found faster by looking back.
const NEAR_NODES_MAX: usize = 256;

/// A member that says what its object is stands among its first ones; Kubernetes objects have ten.
const MEMBERS_MAX: usize = 1024;

/// Indices in notes are counted so far: each edit may cost as much, and notes fold them anyway.
const INDEX_MAX: usize = 64;
