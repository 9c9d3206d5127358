//! Since when conditions are as they are: `lastTransitionTime` of the Gateway API.
//!
//! A status is computed whenever somebody looks; all that is kept of it is what each condition said when it was looked at
//! last, and since when. A time stays as long as the condition's status does, whatever becomes of its reason and message.
//! The first look cannot know what was before, and goes back to the time at which the document was made; so does the
//! first one after a restart of the control plane.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::resources::{Documents, ResourceKey};

/// The fields that name what an entry of a status is about.
const NAMES: [&str; 3] = ["parentRef", "ancestorRef", "name"];

/// What documents' conditions said last. Bounded by the documents that there are.
#[derive(Debug, Default)]
pub(crate) struct Transitions(BTreeMap<ResourceKey, Seen>);

/// The conditions of one document.
#[derive(Debug)]
struct Seen {
    /// Of the document: one that is made again begins anew.
    uid: Option<String>,
    conditions: Vec<Said>,
}

/// What one condition said.
#[derive(Debug)]
struct Said {
    /// What the entry is about.
    about: Value,
    kind: Value,
    status: Value,
    since: Time,
}

impl Transitions {
    /// Writes into every condition of a document's `status`, seen at `now`, since when it is as it is.
    pub(crate) fn stamp(
        &mut self,
        key: &ResourceKey,
        documents: &Documents,
        now: SystemTime,
        status: &mut Value,
    ) {
        let Some(document) = documents.resource(key) else { return };
        let metadata = document.metadata();
        let before = self.0.remove(key).filter(|seen| seen.uid == metadata.uid);
        let now = Time(whole_seconds(now));
        let since = if before.is_some() { now } else { made(metadata).unwrap_or(now) };
        let old = before.map(|seen| seen.conditions).unwrap_or_default();
        let mut conditions = Vec::new();
        visit(status, &Value::Null, &mut |about, condition| {
            let (kind, status) = (condition["type"].clone(), condition["status"].clone());
            let same = |said: &&Said| said.about == *about && said.kind == kind && said.status == status;
            let since = old.iter().find(same).map_or(&since, |said| &said.since).clone();
            condition["lastTransitionTime"] = serde_json::to_value(&since).unwrap_or_default();
            conditions.push(Said { about: about.clone(), kind, status, since });
        });
        self.0.insert(key.clone(), Seen { uid: metadata.uid.clone(), conditions });
        self.forget(documents);
    }

    /// Lets go of what is about documents that are gone, once there is more of it than there are documents.
    fn forget(&mut self, documents: &Documents) {
        let routes = documents.http_routes.len() + documents.grpc_routes.len() + documents.tcp_routes.len();
        let others = documents.backend_traffic_policies.len() + documents.gateways.len();
        if self.0.len() > routes + others {
            self.0.retain(|key, _| documents.resource(key).is_some());
        }
    }
}

/// Shows every condition to `look`, with what names the entry that it belongs to.
fn visit(value: &mut Value, about: &Value, look: &mut impl FnMut(&Value, &mut Value)) {
    let Some(fields) = value.as_object_mut() else { return };
    let named = NAMES.iter().find_map(|name| fields.get(*name).cloned());
    let about = named.unwrap_or_else(|| about.clone());
    for (name, value) in fields.iter_mut() {
        for element in value.as_array_mut().into_iter().flatten() {
            match name.as_str() {
                "conditions" => look(&about, element),
                _ => visit(element, &about, look),
            }
        }
    }
}

fn made(metadata: &ObjectMeta) -> Option<Time> {
    metadata.creation_timestamp.clone()
}

/// As Kubernetes writes times.
fn whole_seconds(time: SystemTime) -> Timestamp {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::compile::tests::documents;
    use crate::resources::Kind;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key() -> ResourceKey {
        ResourceKey { kind: Kind::HttpRoute, namespace: "shop".to_owned(), name: "r".to_owned() }
    }

    fn made_at(uid: &str, time: &str) -> Documents {
        documents(&format!(
            "kind: HTTPRoute\nmetadata: {{name: r, namespace: shop, uid: '{uid}', creationTimestamp: '{time}'}}\nspec: {{}}\n"
        ))
    }

    /// The times of a route's conditions at one parent, seen at that second.
    fn seen(
        transitions: &mut Transitions,
        documents: &Documents,
        now: u64,
        said: &[(&str, &str)],
    ) -> Vec<String> {
        let condition = |(kind, status): &(&str, &str)| json!({ "type": kind, "status": status, "reason": now.to_string() });
        let conditions: Vec<Value> = said.iter().map(condition).collect();
        let mut status = json!({ "parents": [{ "parentRef": { "name": "pay" }, "conditions": conditions }] });
        transitions.stamp(&key(), documents, at(now), &mut status);
        let conditions = status["parents"][0]["conditions"].as_array().unwrap().clone();
        conditions.iter().map(|one| one["lastTransitionTime"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_time_is_kept_as_long_as_the_status_is() {
        let mut transitions = Transitions::default();
        let documents = made_at("1", "1970-01-01T00:00:05Z");
        let both = |accepted, resolved| [("Accepted", accepted), ("ResolvedRefs", resolved)];
        let (made, later) = ("1970-01-01T00:00:05Z", "1970-01-01T00:00:20Z");
        for (now, said, expected) in [
            (10, both("True", "True"), [made, made]),
            (15, both("True", "True"), [made, made]),
            (20, both("True", "False"), [made, later]),
            (25, both("True", "False"), [made, later]),
            (30, both("True", "True"), [made, "1970-01-01T00:00:30Z"]),
        ] {
            assert_eq!(seen(&mut transitions, &documents, now, &said), expected, "at {now}");
        }
    }

    #[test]
    fn a_condition_that_comes_later_has_the_time_at_which_it_came() {
        let mut transitions = Transitions::default();
        let documents = made_at("1", "1970-01-01T00:00:05Z");
        seen(&mut transitions, &documents, 10, &[("Accepted", "True")]);
        let times =
            seen(&mut transitions, &documents, 12, &[("Accepted", "True"), ("PartiallyInvalid", "True")]);
        assert_eq!(times, ["1970-01-01T00:00:05Z", "1970-01-01T00:00:12Z"]);
    }

    #[test]
    fn a_document_that_is_made_again_begins_anew_and_one_that_is_gone_is_forgotten() {
        let mut transitions = Transitions::default();
        seen(&mut transitions, &made_at("1", "1970-01-01T00:00:05Z"), 10, &[("Accepted", "True")]);
        let again = made_at("2", "1970-01-01T00:00:09Z");
        assert_eq!(
            seen(&mut transitions, &again, 11, &[("Accepted", "True")]),
            ["1970-01-01T00:00:09Z"],
            "of another uid"
        );
        transitions.forget(&Documents::default());
        assert!(transitions.0.is_empty());
    }

    #[test]
    fn entries_are_told_apart_by_what_they_are_about() {
        let mut transitions = Transitions::default();
        let documents = made_at("1", "1970-01-01T00:00:05Z");
        let mut look = |now, statuses: [&str; 2]| {
            let entry = |(port, status): (i32, &str)| json!({ "parentRef": { "name": "pay", "port": port }, "conditions": [{ "type": "Accepted", "status": status }] });
            let parents: Vec<Value> = [80, 81].into_iter().zip(statuses).map(entry).collect();
            let mut status = json!({ "parents": parents });
            transitions.stamp(&key(), &documents, at(now), &mut status);
            [0, 1].map(|index| status["parents"][index]["conditions"][0]["lastTransitionTime"].clone())
        };
        look(10, ["True", "True"]);
        assert_eq!(look(11, ["True", "False"]), ["1970-01-01T00:00:05Z", "1970-01-01T00:00:11Z"]);
    }
}
