//! The path of a request to the Kubernetes API, taken apart as the API server does it.

use std::borrow::Cow;

/// What a path asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::event) struct Target<'t> {
    pub(in crate::event) group: &'t str,
    pub(in crate::event) namespace: &'t str,
    pub(in crate::event) resource: &'t str,
    pub(in crate::event) name: &'t str,
    pub(in crate::event) part: &'t str,
}

/// Takes a path apart, with or without query; `None` if it names no resource.
pub(in crate::event) fn target(uri: &str) -> Option<Target<'_>> {
    let path = uri.split(['?', '#']).next()?;
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let group = match words.next()? {
        "api" => "",
        "apis" => words.next()?,
        _ => return None,
    };
    if !words.next()?.starts_with('v') {
        return None;
    }
    let mut target = Target { group, ..Target::default() };
    let mut first = words.next()?;
    if matches!(first, "watch" | "proxy") {
        first = words.next()?;
    }
    if first == "namespaces"
        && let Some(namespace) = words.next()
    {
        // `namespaces/NAME` alone, or one of its own parts, is about the namespace.
        match words.next() {
            None | Some("status" | "finalize") => {
                let part = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let part = if part == namespace { "" } else { part };
                return Some(Target {
                    resource: first,
                    name: namespace,
                    namespace,
                    part,
                    ..target
                });
            }
            Some(resource) => {
                target.namespace = namespace;
                first = resource;
            }
        }
    }
    target.resource = first;
    target.name = words.next().unwrap_or_default();
    target.part = words.next().unwrap_or_default();
    Some(target)
}

/// A parameter of a query, decoded; of several the first.
pub(in crate::event) fn parameter<'t>(uri: &'t str, name: &str) -> Option<Cow<'t, str>> {
    parameters(uri, name).next()
}

/// Every value of a parameter of a query, decoded.
pub(in crate::event) fn parameters<'t>(
    uri: &'t str,
    name: &str,
) -> impl Iterator<Item = Cow<'t, str>> {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| percent_decoded(value))
}

/// A text with its percent escapes decoded.
pub(in crate::event) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(&byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(at + 1), digit(at + 2)) {
            decoded.push((high * 16 + low) as u8);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_resource() {
        for (uri, group, namespace, resource, name, part) in [
            ("/api/v1/namespaces/n/pods/p/exec?command=sh", "", "n", "pods", "p", "exec"),
            ("/api/v1/namespaces/n", "", "n", "namespaces", "n", ""),
            ("/api/v1/namespaces/n/finalize", "", "n", "namespaces", "n", "finalize"),
            ("/api/v1/namespaces", "", "", "namespaces", "", ""),
            ("/api/v1/secrets?limit=500", "", "", "secrets", "", ""),
            (
                "/apis/apps/v1/namespaces/n/deployments/d/scale",
                "apps",
                "n",
                "deployments",
                "d",
                "scale",
            ),
            ("/api/v1/nodes/n/proxy/exec/a/b/c", "", "", "nodes", "n", "proxy"),
            ("/api/v1/watch/pods", "", "", "pods", "", ""),
        ] {
            let wanted = Target { group, namespace, resource, name, part };
            assert_eq!(target(uri), Some(wanted), "{uri}");
        }
        for none in
            ["/healthz", "/api", "/apis/apps", "/apis/apps/v1", "/version?x=/api/v1/pods", ""]
        {
            assert_eq!(target(none), None, "{none}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let uri = "/x?command=%2Fbin%2Fsh&command=-c&container=a%zz";
        assert_eq!(parameters(uri, "command").collect::<Vec<_>>(), ["/bin/sh", "-c"]);
        assert_eq!(parameter(uri, "container").as_deref(), Some("a%zz"));
        assert_eq!(parameter(uri, "none"), None);
    }
}
