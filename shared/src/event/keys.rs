//! The members of an object by which a record is known, found in one walk.
//!
//! The walk runs once for every record, so a key is first compared as its own source spells it; only
//! a key that is none of those is folded (`User_ID`, `userId` and `UserID` are one) and compared again.

use std::borrow::Cow;

use crate::json::{Kind, Value};

/// What a member may say. One key can mean different things in different shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Key {
    Action,
    After,
    Annotations,
    ApiVersion,
    AuditId,
    AuthMethod,
    Before,
    Category,
    Context,
    Data,
    Environment,
    Event,
    EventType,
    GitCommit,
    Hostname,
    Id,
    ImageDigest,
    ImpersonatedUser,
    Items,
    Kind,
    Level,
    Log,
    LogProcessed,
    Message,
    Namespace,
    ObjectRef,
    Origin,
    Output,
    OutputFields,
    Payload,
    Priority,
    Properties,
    ProtoPayload,
    RequestId,
    RequestObject,
    RequestReceived,
    RequestUri,
    ResourceId,
    ResourceName,
    ResourceType,
    ResponseObject,
    ResponseStatus,
    Result,
    Role,
    Rule,
    SessionId,
    Severity,
    Source,
    SourceIp,
    SourceIps,
    Stack,
    Stage,
    StageTimestamp,
    Tags,
    Team,
    Time,
    Timestamp,
    Type,
    User,
    UserAgent,
    UserId,
    Username,
    Uuid,
    Verb,
}

const KEYS: usize = Key::Verb as usize + 1;
const NONE: u32 = u32::MAX;

/// Where the known members of one object stand. Of members with one key the last one counts, as for
/// every common reader of JSON.
#[derive(Clone, Debug)]
pub(super) struct Slots<'t> {
    object: Value<'t>,
    at: [u32; KEYS],
}

impl<'t> Slots<'t> {
    pub(super) fn of(object: Value<'t>) -> Self {
        let mut at = [NONE; KEYS];
        if object.kind() == Kind::Object {
            for child in object.children() {
                let key = child.key_bytes();
                if let Some(key) = exact(key).or_else(|| folded(key)) {
                    at[key as usize] = child.index() as u32;
                }
            }
        }
        Self { object, at }
    }

    pub(super) fn object(&self) -> Value<'t> {
        self.object
    }

    pub(super) fn get(&self, key: Key) -> Option<Value<'t>> {
        match self.at[key as usize] {
            NONE => None,
            index => self.object.of_index(index as usize),
        }
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.at[key as usize] != NONE
    }

    /// A member that is a string, unless it is empty.
    pub(super) fn str(&self, key: Key) -> Option<Cow<'t, str>> {
        self.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// A member that is a string, a number or a boolean, unless it is empty.
    pub(super) fn text(&self, key: Key) -> Option<Cow<'t, str>> {
        self.get(key)?.as_text().filter(|text| !text.is_empty())
    }

    /// How many of these members there are.
    pub(super) fn count(&self, keys: &[Key]) -> usize {
        keys.iter().filter(|key| self.has(**key)).count()
    }
}

/// A key as Kubernetes, Falco, Portainer's record types and the common relays write it.
fn exact(key: &[u8]) -> Option<Key> {
    Some(match key {
        b"action" => Key::Action,
        b"annotations" => Key::Annotations,
        b"apiVersion" => Key::ApiVersion,
        b"auditID" => Key::AuditId,
        b"context" => Key::Context,
        b"hostname" => Key::Hostname,
        b"id" => Key::Id,
        b"impersonatedUser" => Key::ImpersonatedUser,
        b"items" => Key::Items,
        b"kind" => Key::Kind,
        b"level" => Key::Level,
        b"log" => Key::Log,
        b"message" => Key::Message,
        b"objectRef" => Key::ObjectRef,
        b"origin" => Key::Origin,
        b"output" => Key::Output,
        b"output_fields" => Key::OutputFields,
        b"payload" => Key::Payload,
        b"priority" => Key::Priority,
        b"requestObject" => Key::RequestObject,
        b"requestReceivedTimestamp" => Key::RequestReceived,
        b"requestURI" => Key::RequestUri,
        b"responseObject" => Key::ResponseObject,
        b"responseStatus" => Key::ResponseStatus,
        b"rule" => Key::Rule,
        b"source" => Key::Source,
        b"sourceIPs" => Key::SourceIps,
        b"stage" => Key::Stage,
        b"stageTimestamp" => Key::StageTimestamp,
        b"tags" => Key::Tags,
        b"time" => Key::Time,
        b"timestamp" => Key::Timestamp,
        b"type" => Key::Type,
        b"user" => Key::User,
        b"userAgent" => Key::UserAgent,
        b"username" => Key::Username,
        b"uuid" => Key::Uuid,
        b"verb" => Key::Verb,
        _ => return None,
    })
}

/// A key in any letter case and with or without `_`, `-`, `.` and blanks in it.
pub(super) fn folded(key: &[u8]) -> Option<Key> {
    if key.len() > FOLDED_BYTES_MAX {
        return None;
    }
    let mut buffer = [0; FOLDED_BYTES_MAX];
    let mut length = 0;
    for byte in key.iter().filter(|byte| !b"_-. @".contains(byte)) {
        buffer[length] = byte.to_ascii_lowercase();
        length += 1;
    }
    Some(match &buffer[..length] {
        b"action" | b"actionperformed" | b"operation" | b"activity" => Key::Action,
        b"after" | b"newvalue" | b"newstate" | b"afterstate" | b"stateafter" => Key::After,
        b"annotations" => Key::Annotations,
        b"apiversion" => Key::ApiVersion,
        b"auditid" => Key::AuditId,
        b"authenticationmethod"
        | b"authmethod"
        | b"authprovider"
        | b"authenticationprovider"
        | b"provider" => Key::AuthMethod,
        b"before" | b"oldvalue" | b"oldstate" | b"beforestate" | b"statebefore" => Key::Before,
        b"category" | b"eventcategory" => Key::Category,
        b"context" => Key::Context,
        b"data" => Key::Data,
        b"environment" | b"environmentname" | b"endpoint" | b"endpointname" => Key::Environment,
        b"event" => Key::Event,
        b"eventtype" | b"eventname" => Key::EventType,
        b"gitcommit" | b"gitsha" | b"gitcommitsha" | b"gitcommithash" | b"commitsha"
        | b"commithash" => Key::GitCommit,
        b"hostname" => Key::Hostname,
        b"id" => Key::Id,
        b"imagedigest" | b"imagesha" | b"imagehash" => Key::ImageDigest,
        b"impersonateduser" => Key::ImpersonatedUser,
        b"items" => Key::Items,
        b"kind" => Key::Kind,
        b"level" => Key::Level,
        b"log" => Key::Log,
        b"logprocessed" => Key::LogProcessed,
        b"message" | b"msg" | b"line" | b"rawlog" => Key::Message,
        b"namespace" => Key::Namespace,
        b"objectref" => Key::ObjectRef,
        b"origin" => Key::Origin,
        b"output" => Key::Output,
        b"outputfields" => Key::OutputFields,
        b"payload" => Key::Payload,
        b"priority" => Key::Priority,
        b"properties" => Key::Properties,
        b"protopayload" | b"jsonpayload" => Key::ProtoPayload,
        b"requestid" | b"correlationid" => Key::RequestId,
        b"requestobject" => Key::RequestObject,
        b"requestreceivedtimestamp" => Key::RequestReceived,
        b"requesturi" => Key::RequestUri,
        b"resourceid" => Key::ResourceId,
        b"resourcename" | b"resource" | b"affectedresource" => Key::ResourceName,
        b"resourcetype" | b"resourcekind" | b"resourcecontrol" => Key::ResourceType,
        b"responseobject" => Key::ResponseObject,
        b"responsestatus" => Key::ResponseStatus,
        b"result" | b"outcome" | b"status" => Key::Result,
        b"role" | b"newrole" | b"rolename" | b"roleid" => Key::Role,
        b"rule" => Key::Rule,
        b"sessionid" | b"session" => Key::SessionId,
        b"severity" => Key::Severity,
        b"source" => Key::Source,
        b"sourceip" | b"srcip" | b"clientip" | b"remoteip" | b"ipaddress" | b"remoteaddr"
        | b"remoteaddress" | b"sourceaddress" | b"sourceipaddress" | b"ip" | b"src" => {
            Key::SourceIp
        }
        b"sourceips" => Key::SourceIps,
        b"stack" | b"stackname" => Key::Stack,
        b"stage" => Key::Stage,
        b"stagetimestamp" => Key::StageTimestamp,
        b"tags" => Key::Tags,
        b"team" | b"teamname" => Key::Team,
        b"time" | b"datetime" | b"eventtime" => Key::Time,
        b"timestamp" | b"eventtimestamp" | b"ts" => Key::Timestamp,
        b"type" => Key::Type,
        b"user" | b"actor" => Key::User,
        b"useragent" => Key::UserAgent,
        b"userid" | b"uid" | b"actorid" => Key::UserId,
        b"username" | b"actorname" | b"login" | b"loginname" => Key::Username,
        b"uuid" => Key::Uuid,
        b"verb" => Key::Verb,
        _ => return None,
    })
}

/// The longest key above is 24 bytes; separators may stand in it.
const FOLDED_BYTES_MAX: usize = 32;
