//! Every document of deploy/examples is one that the control plane takes as it is written.

use std::path::{Path, PathBuf};

use outrigger_tests::Mesh;

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            documents(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(entry);
        }
    }
}

#[tokio::test]
async fn every_example_applies_as_written() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples"));
    let mut files = Vec::new();
    documents(folder, &mut files);
    assert!(!files.is_empty(), "there are examples");
    let mesh = Mesh::builder().start().await;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.contains("apiVersion:") {
            continue; // not a policy document: a compose file or the configuration of a proxy
        }
        let answer = mesh.api("POST", "/v1/apply", &text).await;
        assert_eq!(answer.status, 200, "{}: {}", file.display(), answer.text());
    }
}
