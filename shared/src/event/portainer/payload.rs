//! What of a request's payload decides what the request was: read only for the few routes where it
//! does, since it may be a whole compose file.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::event::kubernetes::uri;
use crate::event::view::{Category, Classified, Privilege};
use crate::json::{Kind, Tape, Value};

use super::Check;
use super::route::{Hit, judged};

/// The verdict with the payload looked at. One that can't be read, because it was cut or encrypted,
/// counts as what it could be at worst.
pub(super) fn decide<'t>(hit: Hit<'t>, payload: Option<Value<'_>>) -> Hit<'t> {
    let Some(payload) = payload.filter(|payload| !payload.is_null()) else { return hit };
    if payload.kind() == Kind::Object {
        return with_object(hit, Some(payload));
    }
    let Some(text) = payload.as_str() else { return with_object(hit, None) };
    let plain = text.trim_start().starts_with('{');
    let bytes = if plain {
        text.into_owned().into_bytes()
    } else {
        match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => bytes,
            Err(_) => return with_object(hit, None),
        }
    };
    if bytes.is_empty() {
        return hit;
    }
    let mut tape = Tape::default();
    let object = tape.scan(&bytes).ok().filter(|value| value.kind() == Kind::Object);
    with_object(hit, object)
}

fn with_object<'t>(hit: Hit<'t>, object: Option<Value<'_>>) -> Hit<'t> {
    match hit.check {
        Some(Check::AccessPolicies) => access_policies(hit, object),
        Some(Check::AuditSettings) => settings(hit, object),
        Some(Check::UserRole) => user_role(hit, object),
        // Without an object the path alone has already been judged.
        None if hit.kubernetes.is_some_and(|(path, _)| uri::target(path).is_some()) => {
            judged(hit, object)
        }
        None => hit,
    }
}

fn user_role<'t>(mut hit: Hit<'t>, object: Option<Value<'_>>) -> Hit<'t> {
    let role = object.map(|object| object.get_any_case("role"));
    match role {
        // No role in it: a theme or a name was changed.
        Some(None) => {}
        Some(Some(role)) => {
            let text = role.as_text().unwrap_or_default();
            let administrator =
                matches!(text.as_ref(), "1" | "3") || text.to_ascii_lowercase().contains("admin");
            hit.privilege = administrator.then_some(Privilege::AdministratorGrant);
            // The user interface sends 0 for a role that stays.
            if hit.action == "user.update" && text != "0" && !role.is_null() {
                hit.action = "role.assign".into();
            }
        }
        None => hit.privilege = Some(Privilege::AdministratorGrant),
    }
    hit
}

fn access_policies<'t>(mut hit: Hit<'t>, object: Option<Value<'_>>) -> Hit<'t> {
    let Some(object) = object else {
        hit.privilege = Some(Privilege::AdministratorGrant);
        hit.category = Classified::As { category: Category::IdentityAndAccess };
        return hit;
    };
    let mut given = false;
    for key in POLICIES {
        let Some(policies) = object.get_any_case(key).filter(|p| p.kind() == Kind::Object) else {
            continue;
        };
        given = true;
        for policy in policies.children() {
            let role = policy.get_any_case("RoleId").and_then(|role| role.as_i64());
            if role == Some(ENVIRONMENT_ADMINISTRATOR) {
                hit.privilege = Some(Privilege::AdministratorGrant);
            }
        }
    }
    if given {
        hit.category = Classified::As { category: Category::IdentityAndAccess };
        if !hit.action.starts_with("registry.") {
            hit.action = "role.assign".into();
        }
    }
    hit
}

fn settings<'t>(mut hit: Hit<'t>, object: Option<Value<'_>>) -> Hit<'t> {
    let Some(object) = object else {
        hit.privilege = Some(Privilege::AuditSettings);
        return hit;
    };
    let mut values = vec![object];
    while let Some(value) = values.pop() {
        for member in value.children() {
            let key = member.key().to_ascii_lowercase();
            if AUDIT_KEYS.iter().any(|part| key.contains(part)) {
                hit.privilege = Some(Privilege::AuditSettings);
            }
            if AUTHENTICATION_KEYS.contains(&key.as_str()) && !member.is_null() {
                hit.category = Classified::As { category: Category::IdentityAndAccess };
                hit.action = "settings.authentication.update".into();
            }
            if key == "adminautopopulate" && member.as_bool() == Some(true) {
                hit.privilege = hit.privilege.or(Some(Privilege::AdministratorGrant));
            }
            values.push(member);
        }
    }
    hit
}

/// Go writes padding; a relay may have dropped it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

const POLICIES: [&str; 2] = ["UserAccessPolicies", "TeamAccessPolicies"];

/// The id of the role "Environment administrator".
const ENVIRONMENT_ADMINISTRATOR: i64 = 1;

/// Parts of names, in lower case, that settings of what is recorded and where it is sent have.
const AUDIT_KEYS: [&str; 5] = ["activitylog", "audit", "siem", "syslog", "useractivity"];

/// How people prove who they are.
const AUTHENTICATION_KEYS: [&str; 5] = [
    "authenticationmethod",
    "internalauthsettings",
    "ldapsettings",
    "oauthsettings",
    "samlsettings",
];
