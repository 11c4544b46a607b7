//! The documentation: every command in it is run, every setting in it is taken, every link leads somewhere.
//!
//! - [`pages`]: what a page holds: fenced blocks, commands, links, headings
//! - [`machine`]: a machine of its own for each page, with both programs, in namespaces
//! - [`commands`]: runs the commands of each page in the page's order; `stage/PAGE.sh` is what must be there
//!   before them, `not-run.txt` names those that can't be run here, each with its reason
//! - [`verbs`]: what our programs are told in any page they take; no verb is left out
//! - [`settings`]: blocks of TOML are taken by the programs' own parser; no key is left out
//! - [`links`]: links and anchors
//! - [`compliance`]: the controls of the report are those of the page

mod commands;
mod compliance;
mod links;
mod machine;
mod pages;
mod settings;
mod verbs;
