//! The store seen from outside: what is applied is kept, whatever happens; what is refused changes nothing.

use std::time::{Duration, SystemTime};

use outrigger_certs::ManualClock;
use tempfile::TempDir;

use super::*;
use crate::resources::{Format, Kind, Resource, parse};

const START: u64 = 1_700_000_000;

struct Fixture {
    directory: TempDir,
    clock: ManualClock,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, clock: ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(START)) }
    }

    fn open(&self) -> Arc<Store> {
        Store::open(self.directory.path(), Arc::new(self.clock.clone())).unwrap()
    }
}

/// A service with this port.
fn service(name: &str, port: u16) -> Resource {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}"
    );
    parse(&text, Format::Yaml).unwrap().documents.remove(0).resource
}

fn key(name: &str) -> ResourceKey {
    ResourceKey { kind: Kind::Service, namespace: "shop".to_owned(), name: name.to_owned() }
}

fn delete(name: &str) -> Change {
    Change::Delete { key: key(name), resource_version: None }
}

async fn put(store: &Arc<Store>, name: &str, port: u16) -> Applied {
    store.apply(vec![Change::Put(service(name, port))], "tester", DryRun::No).await.unwrap()
}

fn port(store: &Store, name: &str) -> Option<i32> {
    match store.current().resource(&key(name))? {
        Resource::Service(service) => Some(service.spec.as_ref()?.ports.as_ref()?[0].port),
        _ => None,
    }
}

#[tokio::test]
async fn metadata_is_kept_as_an_api_server_keeps_it() {
    let fixture = Fixture::new();
    let store = fixture.open();
    put(&store, "web", 80).await;
    let first = store.current().resource(&key("web")).unwrap().metadata().clone();
    assert_eq!((first.generation, first.resource_version.as_deref()), (Some(1), Some("1")));
    assert_eq!(serde_json::to_value(&first.creation_timestamp).unwrap(), "2023-11-14T22:13:20Z");

    fixture.clock.advance(Duration::from_secs(60));
    put(&store, "web", 81).await;
    let second = store.current().resource(&key("web")).unwrap().metadata().clone();
    assert_eq!((second.generation, second.resource_version.as_deref()), (Some(2), Some("2")));
    assert_eq!((&second.uid, &second.creation_timestamp), (&first.uid, &first.creation_timestamp));

    let mut labelled = service("web", 81);
    let mut metadata = labelled.metadata().clone();
    metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    labelled = labelled.with_metadata(metadata);
    store.apply(vec![Change::Put(labelled)], "tester", DryRun::No).await.unwrap();
    let third = store.current().resource(&key("web")).unwrap().metadata().clone();
    assert_eq!(
        (third.generation, third.resource_version.as_deref()),
        (Some(2), Some("3")),
        "labels are no spec"
    );

    store.apply(vec![delete("web")], "tester", DryRun::No).await.unwrap();
    put(&store, "web", 81).await;
    let again = store.current().resource(&key("web")).unwrap().metadata().clone();
    assert_ne!(again.uid, first.uid, "a namesake is another document");
    assert_eq!(again.generation, Some(1));
}

#[tokio::test]
async fn what_changes_nothing_makes_no_revision_and_no_event() {
    let fixture = Fixture::new();
    let store = fixture.open();
    put(&store, "web", 80).await;
    let mut changes = store.changes();
    changes.borrow_and_update();
    let applied = put(&store, "web", 80).await;
    assert_eq!((applied.revision, applied.changes[0].outcome), (1, Outcome::Unchanged));
    assert!(!changes.has_changed().unwrap());
    assert_eq!(store.history(HistoryQuery { limit: 10, ..Default::default() }).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_set_of_changes_is_one_revision_or_none() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let both = vec![Change::Put(service("web", 80)), Change::Put(service("db", 5432))];
    let applied = store.apply(both, "tester", DryRun::No).await.unwrap();
    assert_eq!((applied.revision, store.current().revision, store.current().len()), (1, 1, 2));

    let one_wrong = vec![Change::Put(service("web", 81)), delete("cache")];
    let error = store.apply(one_wrong, "tester", DryRun::No).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no Service shop/cache");
    assert_eq!((store.current().revision, port(&store, "web")), (1, Some(80)));
}

#[tokio::test]
async fn a_dry_run_shows_and_changes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let applied = store.apply(vec![Change::Put(service("web", 80))], "tester", DryRun::Yes).await.unwrap();
    assert_eq!((applied.revision, applied.changes[0].outcome), (0, Outcome::Created));
    assert!(store.current().is_empty());
}

#[tokio::test]
async fn a_stale_version_is_a_conflict() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let versioned = |port, version: &str| {
        let resource = service("web", port);
        let mut metadata = resource.metadata().clone();
        metadata.resource_version = Some(version.to_owned());
        vec![Change::Put(resource.with_metadata(metadata))]
    };
    let error = store.apply(versioned(80, "1"), "tester", DryRun::No).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    put(&store, "web", 80).await;
    store.apply(versioned(81, "1"), "tester", DryRun::No).await.unwrap();
    let error = store.apply(versioned(82, "1"), "tester", DryRun::No).await.unwrap_err();
    assert!(error.to_string().starts_with("Service shop/web is at version 2, not 1"), "{error}");
    let stale = Change::Delete { key: key("web"), resource_version: Some("1".to_owned()) };
    assert!(matches!(store.apply(vec![stale], "tester", DryRun::No).await, Err(ApplyError::Conflict { .. })));
    assert_eq!(port(&store, "web"), Some(81));
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let fixture = Fixture::new();
    let before = {
        let store = fixture.open();
        put(&store, "web", 80).await;
        put(&store, "db", 5432).await;
        store.apply(vec![delete("web")], "tester", DryRun::No).await.unwrap();
        store.current()
    };
    let store = fixture.open();
    assert_eq!(store.current(), before);
    assert_eq!(put(&store, "web", 80).await.revision, 4, "revisions go on where they stopped");
}

/// A killed process leaves the files as they are at that moment. Nothing that was acknowledged may be missing from
/// them, and whatever the end of the log was torn to, what is left is some whole revision.
#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_torn() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let files = ["store.db", "store.db-wal"];
    for number in 1..=5 {
        let pair = ["a", "b"].map(|name| Change::Put(service(name, number))).to_vec();
        store.apply(pair, "tester", DryRun::No).await.unwrap();
        let length = std::fs::metadata(fixture.directory.path().join("store.db-wal")).unwrap().len();
        for torn in [0, 1, 100, 4096, 5000, 20_000] {
            let killed = Fixture::new();
            for file in files {
                std::fs::copy(fixture.directory.path().join(file), killed.directory.path().join(file))
                    .unwrap();
            }
            let wal = killed.directory.path().join("store.db-wal");
            std::fs::File::options()
                .write(true)
                .open(wal)
                .unwrap()
                .set_len(length.saturating_sub(torn))
                .unwrap();
            let after = killed.open();
            if torn == 0 {
                assert_eq!(after.current(), store.current());
            }
            assert_eq!(port(&after, "a"), port(&after, "b"), "{torn} bytes torn off");
            let revision = after.current().revision;
            assert!(revision <= u64::from(number));
            let next = put(&after, "c", 1).await;
            assert_eq!(next.revision, revision + 1, "the store goes on");
        }
    }
}

#[tokio::test]
async fn the_history_pages_from_the_newest_back() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for port in 1..=5 {
        put(&store, "web", port).await;
    }
    put(&store, "db", 1).await;
    let web = HistoryQuery { name: Some("web".to_owned()), limit: 3, documents: true, ..Default::default() };
    let page = store.history(web.clone()).await.unwrap();
    let revisions = |page: &HistoryPage| page.items.iter().map(|event| event.revision).collect::<Vec<_>>();
    assert_eq!(revisions(&page), [5, 4, 3]);
    assert_eq!((page.revision, page.oldest_revision), (6, 0));
    let newest = &page.items[0];
    assert_eq!(
        (newest.who.as_str(), newest.cause.as_str(), newest.change),
        ("tester", "apply", Outcome::Configured)
    );
    assert_eq!(newest.old.as_ref().unwrap()["spec"]["ports"][0]["port"], 4);
    assert_eq!(newest.new.as_ref().unwrap()["spec"]["ports"][0]["port"], 5);
    let rest = store.history(HistoryQuery { before: page.next, documents: false, ..web }).await.unwrap();
    assert_eq!((revisions(&rest), rest.next), (vec![2, 1], None));
    assert_eq!((&rest.items[0].old, rest.items[1].change), (&None, Outcome::Created));
}

#[tokio::test]
async fn a_rollback_brings_back_what_was_and_is_a_revision_itself() {
    let fixture = Fixture::new();
    let store = fixture.open();
    put(&store, "web", 80).await;
    put(&store, "db", 5432).await;
    let then = store.current();
    put(&store, "web", 81).await;
    store.apply(vec![delete("db"), Change::Put(service("cache", 6379))], "tester", DryRun::No).await.unwrap();

    let shown = store.rollback(2, "tester", DryRun::Yes).await.unwrap();
    assert_eq!(shown.changes.len(), 3);
    let applied = store.rollback(2, "tester", DryRun::No).await.unwrap();
    assert_eq!(applied.revision, 5);
    assert_eq!(
        (port(&store, "web"), port(&store, "db"), port(&store, "cache")),
        (Some(80), Some(5432), None)
    );
    for name in ["web", "db"] {
        let old = then.resource(&key(name)).unwrap().metadata().clone();
        let new = store.current().resource(&key(name)).unwrap().metadata().clone();
        assert_eq!((new.uid, new.creation_timestamp), (old.uid, old.creation_timestamp), "{name}");
        assert!(new.generation > old.generation, "{name}");
    }
    // The rollback can be rolled back, and nowhere to go is no change.
    store.rollback(4, "tester", DryRun::No).await.unwrap();
    assert_eq!(
        (port(&store, "web"), port(&store, "db"), port(&store, "cache")),
        (Some(81), None, Some(6379))
    );
    assert_eq!(store.rollback(6, "tester", DryRun::No).await.unwrap().revision, 6);
    assert!(matches!(
        store.rollback(7, "tester", DryRun::No).await,
        Err(ApplyError::Revision { newest: 6, .. })
    ));
    store.rollback(0, "tester", DryRun::No).await.unwrap();
    assert!(store.current().is_empty());
}

#[tokio::test]
async fn a_cut_history_says_how_far_back_it_goes() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for port in 1..=5 {
        put(&store, "web", port).await;
    }
    store.blocking(|_, database| database.cut_history_to(2)).await.unwrap().unwrap();
    let error = store.rollback(2, "tester", DryRun::No).await.unwrap_err();
    assert_eq!(error.to_string(), "revision 2 is not in the history, which goes from 3 to 5");
    store.rollback(3, "tester", DryRun::No).await.unwrap();
    assert_eq!(port(&store, "web"), Some(3));
}

#[tokio::test]
async fn one_process_owns_a_directory() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let error = Store::open(fixture.directory.path(), Arc::new(fixture.clock.clone())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is in use by another control plane"), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    drop(store);
    fixture.open();
}

#[tokio::test]
async fn a_store_of_a_newer_version_or_of_something_else_is_left_alone() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let path = fixture.directory.path().join("store.db");
    let alter = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    alter("PRAGMA user_version = 99");
    let open =
        || Store::open(fixture.directory.path(), Arc::new(fixture.clock.clone())).unwrap_err().to_string();
    let text = open();
    assert!(text.contains("has format 99, and this version reads up to 1"), "{text}");
    alter("PRAGMA user_version = 1; PRAGMA application_id = 7");
    let text = open();
    assert!(text.contains("is not a store of Outrigger"), "{text}");
    std::fs::remove_file(path.with_extension("db-wal")).ok();
    std::fs::write(&path, "something else altogether, and long enough for a header of SQLite to be missed")
        .unwrap();
    let text = open();
    assert!(text.contains("store.db"), "{text}");
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let store = fixture.open();
    put(&store, "web", 80).await;
    for entry in std::fs::read_dir(fixture.directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn readers_see_revisions_in_order_and_whole() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut changes = store.changes();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for port in 1..=5 {
                    let pair = [format!("a{writer}"), format!("b{writer}")];
                    let pair = pair.iter().map(|name| Change::Put(service(name, port))).collect();
                    store.apply(pair, "tester", DryRun::No).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = 0;
    while seen < 20 {
        changes.changed().await.unwrap();
        let documents = changes.borrow_and_update().clone();
        assert!(documents.revision > seen, "{} after {seen}", documents.revision);
        seen = documents.revision;
        for writer in 0..4 {
            let port = |name: String| match documents.resource(&key(&name)) {
                Some(Resource::Service(service)) => service.spec.as_ref().map(|spec| spec.ports.clone()),
                _ => None,
            };
            assert_eq!(port(format!("a{writer}")), port(format!("b{writer}")), "half of an apply at {seen}");
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}
