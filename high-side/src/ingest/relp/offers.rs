//! What a client and this server can do, as told in `open` and its answer: lines `NAME[=VALUE,...]`.

/// Our offers in answer to those of a client, or why there can be no session.
pub(super) fn select(offered: &[u8]) -> Result<String, &'static str> {
    let mut version = None;
    let mut syslog = false;
    for line in offered.split(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(line).map_err(|_| "an offer is no text")?;
        let (name, values) = text.split_once('=').unwrap_or((text, ""));
        match name {
            "relp_version" => {
                let number: u32 = values.parse().map_err(|_| "relp_version is no number")?;
                version = Some(number.min(VERSION_MAX));
            }
            "commands" => syslog |= values.split(',').any(|command| command == "syslog"),
            // Who it is changes nothing, and what is not known is not accepted.
            _ => {}
        }
    }
    let version = version.ok_or("relp_version is not offered")?;
    if !syslog {
        return Err("the command syslog is not offered");
    }
    Ok(format!(
        "relp_version={version}\nrelp_software=penstock,{}\ncommands=syslog",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The version of the specification. librelp says 0 and means the same.
const VERSION_MAX: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_needs_a_version_and_the_command() {
        let offers =
            select(b"relp_version=0\nrelp_software=librelp,1.11.0,http://x\ncommands=syslog");
        let offers = offers.unwrap();
        assert!(offers.starts_with("relp_version=0\n"), "{offers}");
        assert!(offers.ends_with("\ncommands=syslog"), "{offers}");
        assert!(
            select(b"\nrelp_version=7\ncommands=eventlog,syslog").unwrap().contains("version=1")
        );
        for refused in [
            &b"commands=syslog"[..],
            b"relp_version=1",
            b"relp_version=1\ncommands=eventlog",
            b"relp_version=x\ncommands=syslog",
            b"relp_version=-1\ncommands=syslog",
            b"\xff",
            b"",
        ] {
            assert!(select(refused).is_err(), "{refused:?}");
        }
    }
}
