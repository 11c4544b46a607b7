//! How an agent does, in one word and one sentence: for the top of the page and the end of `status`.
//!
//! Green is a promise: nobody needs to look. So it takes more than that no alarm is open: what is wrong
//! now counts by itself, also where its alarm was acknowledged, or is not due yet.

use serde::Serialize;
use serde_json::{Value, json};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nobody needs to look.
    Good,
    /// Somebody should look, or knows already.
    Warn,
    /// Somebody has to do something.
    Bad,
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// How bad it is.
    pub level: Level,
    /// What it is, in words; the first letter is small.
    pub what: String,
}

impl Trouble {
    /// Something that somebody has to do something about.
    pub fn bad(what: impl Into<String>) -> Self {
        Self { level: Level::Bad, what: what.into() }
    }

    /// Something that somebody should look at.
    pub fn warn(what: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into() }
    }
}

/// The word and the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of all.
    pub level: Level,
    /// What is to be said first.
    pub words: String,
}

impl Verdict {
    /// Of a status: its sums and alarms, and what is wrong now, the worst first.
    fn of(status: &Value, troubles: &[Trouble]) -> Self {
        let alarms = || status["alarms"].as_array().into_iter().flatten();
        let open = alarms().filter(|alarm| alarm["closed"].is_null()).count();
        let worst = troubles.first();
        let level = worst.map_or(Level::Good, |worst| worst.level);
        let (level, mut words) = if status["adds-up"] != true {
            (Level::Bad, "The sums do not add up".to_owned())
        } else if open > 0 {
            (Level::Bad, format!("{open} alarm{} to look at", if open > 1 { "s" } else { "" }))
        } else if alarms().next().is_some() {
            let words = "Alarms that are over wait to be acknowledged";
            (level.max(Level::Warn), words.to_owned())
        } else if worst.is_some() {
            (level, "The sums add up, but".to_owned())
        } else {
            (Level::Good, "Everything adds up, and nothing is wrong".to_owned())
        };
        if let Some(worst) = worst {
            let joined = if words.ends_with(" but") { " " } else { "; " };
            let more = match troubles.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            words = format!("{words}{joined}{}{more}", worst.what);
        }
        Self { level, words }
    }
}

/// Adds what is wrong now, the worst first, and the verdict to a status: `troubles` and `verdict`.
pub fn judge(status: &mut Value, mut troubles: Vec<Trouble>) {
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.level));
    status["verdict"] = json!(Verdict::of(status, &troubles));
    status["troubles"] = json!(troubles);
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn green_needs_that_nothing_at_all_is_wrong() {
        let of = |alarms: &[Value], adds_up, troubles: &[Trouble]| {
            let mut status = json!({ "adds-up": adds_up, "alarms": alarms });
            judge(&mut status, troubles.to_vec());
            let verdict = &status["verdict"];
            format!("{} {}", verdict["level"].as_str().unwrap(), verdict["words"].as_str().unwrap())
        };
        let (open, over) = (json!({"code": "gap"}), json!({"code": "gap", "closed": "2026"}));
        let (late, hung) = (Trouble::warn("a record is late"), Trouble::bad("the agent hangs"));
        let both = [late.clone(), hung];
        assert_eq!(of(&[], true, &[]), "good Everything adds up, and nothing is wrong");
        assert_eq!(of(&[], true, &[late]), "warn The sums add up, but a record is late");
        assert_eq!(of(&[], true, &both), "bad The sums add up, but the agent hangs (and 1 more)");
        assert_eq!(
            of(from_ref(&over), true, &[]),
            "warn Alarms that are over wait to be acknowledged"
        );
        assert!(of(from_ref(&over), true, &both).starts_with("bad Alarms that are over"));
        assert_eq!(of(from_ref(&open), true, &[]), "bad 1 alarm to look at");
        let said = of(&[open.clone(), open, over], true, &both);
        assert_eq!(said, "bad 2 alarms to look at; the agent hangs (and 1 more)");
        assert_eq!(of(&[], false, &[]), "bad The sums do not add up");
        assert_eq!(of(&[], false, &both[..1]), "bad The sums do not add up; a record is late");
    }
}
